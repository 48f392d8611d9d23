"""Sampling of codes from logits: top-k and top-p filters, and one uniform number per code.

The sampled code is the inverse of the cumulative distribution at the uniform number. The uniform numbers come from the
generator of the sample. So a sample depends on its generator only. It does not depend on the batch, the device or the order of
the other samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from priors.spec import TokenParams


def filter_logits(logits: Float[Tensor, "... k"], top_k: int = 0, top_p: float = 0.0) -> Float[Tensor, "... k"]:
    """Set logits to -inf, except the `top_k` largest and then the smallest set of codes with total probability `top_p`.

    Codes that tie with the smallest of the `top_k` logits are kept. The value 0 switches a filter off.
    """
    if top_k > 0:
        kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p > 0.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        before = torch.softmax(ordered, dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[..., 0] = 0.0
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before > top_p)  # the code that crosses p is kept
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def uniforms(rngs: Sequence[torch.Generator], length: int) -> Float[Tensor, "b t"]:
    """Return `length` uniform numbers in [0, 1) for every generator, in float64, sampled on the CPU."""
    return torch.stack([torch.rand(length, generator=rng, dtype=torch.float64, device="cpu") for rng in rngs])


def draw(logits: Float[Tensor, "b k"], uniform: Float[Tensor, " b"], params: TokenParams) -> Int[Tensor, " b"]:
    """Return one code per row. At temperature 0 this is the most likely code.

    At other temperatures it is the first code at which the cumulative distribution exceeds `uniform`.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if params.temperature == 0.0:
        return wide.argmax(dim=-1)
    kept = filter_logits(wide / params.temperature, params.top_k, params.top_p)
    cumulative = torch.softmax(kept.double(), dim=-1).cumsum(dim=-1)
    code = torch.searchsorted(cumulative, (uniform.to(wide.device) * cumulative[:, -1])[:, None], right=True)[:, 0]
    return code.clamp(max=logits.shape[-1] - 1)


BLOCK = 64  # codes per block of the cumulative sum in `draw_surely`


def draw_surely(
    logits: Float[Tensor, "n k"], uniform: Float[Tensor, " n"], params: TokenParams
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Sample like `draw`, for many rows. Return the codes and their probabilities. The precision is at least float32.

    A cumulative sum over all codes would take longer than all other operations. Therefore a cumulative sum over blocks finds
    the block of the code. A second cumulative sum inside this block finds the code.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if params.temperature == 0.0:
        probability, code = torch.softmax(wide, dim=-1).max(dim=-1)
        return code, probability
    wide = filter_logits(wide if params.temperature == 1.0 else wide / params.temperature, params.top_k, params.top_p)
    blocks = torch.softmax(wide, dim=-1)
    if short := -blocks.shape[1] % BLOCK:
        blocks = F.pad(blocks, (0, short))
    blocks = blocks.unflatten(1, (-1, BLOCK))  # (N, K) -> (N, K / BLOCK, BLOCK)
    sums = blocks.sum(dim=-1)
    at = uniform.to(wide)[:, None] * sums.sum(dim=-1, keepdim=True)
    chosen, before = _pass(sums, at)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), chosen[:, 0]]
    code, _ = _pass(inside, at - before)
    return (chosen * BLOCK + code)[:, 0], inside.gather(1, code)[:, 0]


def _pass(shares: Float[Tensor, "n k"], at: Float[Tensor, "n 1"]) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Return the first index at which the cumulative sum exceeds `at`, and the cumulative sum before that index.

    The code at this index never has probability 0.
    """
    running = shares.cumsum(dim=-1)
    # because of rounding, `at` may be negative or reach the total sum: it is clamped into the range of the sum
    found = torch.searchsorted(running, at.clamp(min=0).minimum(running[:, -1:] * (1 - 2**-22)), right=True)
    found = found.clamp(max=shares.shape[-1] - 1)
    return found, running.gather(1, found) - shares.gather(1, found)
