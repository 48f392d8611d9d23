"""Drawing codes: filters on logits, and one uniform number a code from the sample's own generator.

A code is the inverse of the cumulative distribution at its uniform number, so that a sample depends on its generator
alone: not on the batch it is in, nor on which device or in which order the others are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from priors.prior import How


def filter_logits(logits: Float[Tensor, "... k"], top_k: int = 0, top_p: float = 0.0) -> Float[Tensor, "... k"]:
    """Logits with all but the top_k largest (ties kept), then all but the smallest set of probability top_p, at -inf."""
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p > 0.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = torch.softmax(ordered, dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0.0
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(
            -1, index, before > top_p
        )  # the code that crosses p stays
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def uniforms(rngs: Sequence[torch.Generator], length: int) -> Float[Tensor, "b t"]:
    """`length` uniform numbers in [0, 1) for every sample, float64, drawn on the CPU."""
    return torch.stack([torch.rand(length, generator=rng, dtype=torch.float64) for rng in rngs])


def draw(logits: Float[Tensor, "b k"], uniform: Float[Tensor, " b"], how: How) -> Int[Tensor, " b"]:
    """One code a row: the likeliest at temperature 0, else that at which the cumulative distribution passes `uniform`."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if how.temperature == 0.0:
        return wide.argmax(dim=-1)
    kept = filter_logits(wide / how.temperature, how.top_k, how.top_p)
    cumulative = torch.softmax(kept.double(), dim=-1).cumsum(dim=-1)
    code = torch.searchsorted(cumulative, (uniform.to(wide.device) * cumulative[:, -1])[:, None], right=True)[:, 0]
    return code.clamp(max=logits.shape[-1] - 1)


def draw_surely(
    logits: Float[Tensor, "n k"], uniform: Float[Tensor, " n"], how: How
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """As `draw`, for many rows at once, with the probability of each code that was drawn."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if how.temperature == 0.0:
        probability, code = torch.softmax(wide, dim=-1).max(dim=-1)
        return code, probability
    share = torch.softmax(filter_logits(wide / how.temperature, how.top_k, how.top_p), dim=-1)
    cumulative = share.cumsum(dim=-1)
    # a number next to 1 must stay below the sum after rounding: what lies behind the last likely code was never drawn
    at = uniform.to(wide).clamp(max=1 - 2**-22)[:, None] * cumulative[:, -1:]
    code = torch.searchsorted(cumulative, at, right=True).clamp(max=logits.shape[-1] - 1)
    return code[:, 0], share.gather(1, code)[:, 0]
