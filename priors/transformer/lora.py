"""Parameter-efficient fine-tuning: low-rank adapters (LoRA, Hu et al. 2021), and label tables with trainable new rows.

    LowRank   y = x w + b + (x down) up * scale; w and b are frozen; `up` starts at zero, so that y does not change at first
    Rows      an embedding with frozen first rows and trained other rows

Both are inserted into a trained prior in place. `merged` returns the equivalent plain prior, so that sampling, conversion and
int8 do not depend on adapters. The peft package is not used for two reasons. It does not support this project's `Linear`
(weights stored as (in, out), recomputed norms and activations) or its method `after`. It also computes the whole matrix of the
update and the gradient of this matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.transformer.linear import Function, Linear
from priors.transformer.trunk import Block

M = TypeVar("M", bound=nn.Module)


class LowRank(Linear):
    """A frozen linear layer with a parallel low-rank path. The gradient of the whole matrix is never computed."""

    def __init__(self, linear: Linear, rank: int, alpha: float):
        nn.Module.__init__(self)
        self.w, self.b = (nn.Parameter(p.detach(), requires_grad=False) for p in (linear.w, linear.b))
        n_in, n_out = self.w.shape
        self.down = nn.Parameter(torch.randn(n_in, rank, device=self.w.device) * n_in**-0.5)
        self.up = nn.Parameter(torch.zeros(rank, n_out, device=self.w.device))
        self.scale = alpha / rank

    def forward(self, x: Float[Tensor, "... i"], before: Function | None = None, *given: Tensor) -> Float[Tensor, "... o"]:
        x = x if before is None else before(x, *given)
        low = F.linear(F.linear(x, self.down.t().to(x.dtype)), self.up.t().to(x.dtype)) * self.scale
        return F.linear(x, self.w.t().to(x.dtype), self.b.to(x.dtype)) + low

    def merged(self) -> dict[str, Tensor]:
        return {"w": self.w + self.scale * (self.down @ self.up), "b": self.b}


class Rows(nn.Module):
    """An embedding table whose first `kept` rows are frozen."""

    def __init__(self, table: nn.Embedding, kept: int):
        super().__init__()
        self.old = nn.Parameter(table.weight[:kept].detach().clone(), requires_grad=False)
        self.new = nn.Parameter(table.weight[kept:].detach().clone())

    @property
    def weight(self) -> Float[Tensor, "n w"]:
        return torch.cat([self.old, self.new])

    def forward(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... w"]:
        return F.embedding(ids, self.weight)

    def merged(self) -> dict[str, Tensor]:
        return {"weight": self.weight}


def freeze(prior: nn.Module, artists: int, genres: int) -> None:
    """Freeze all parameters except the new rows of the label tables: those from the indices `artists` and `genres` on."""
    prior.requires_grad_(False)
    if isinstance(labels := getattr(prior, "labels", None), nn.Module):
        for name, kept in (("artist", artists), ("genre", genres)):
            table = getattr(labels, name)
            if table.num_embeddings > kept:
                setattr(labels, name, Rows(table, kept))


def add_adapters(prior: nn.Module, rank: int, alpha: float = 0.0) -> None:
    """Add a low-rank path to every matrix of every block, including the blocks of the lyric encoder.

    With `alpha` 0 the value of `rank` is used, so that the scale is 1.
    """
    for block in [module for module in prior.modules() if isinstance(module, Block)]:
        for part in (block.attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, Linear):
                    setattr(part, name, LowRank(linear, rank, alpha or rank))


def adapters(prior: nn.Module) -> Iterator[tuple[str, LowRank | Rows]]:
    """Yield the name and the module of every adapter in a prior."""
    return ((name, m) for name, m in prior.named_modules() if isinstance(m, LowRank | Rows))


@torch.no_grad()
def merged(prior: M) -> M:
    """Return the plain prior that is equivalent to `prior` with its adapters. The weights without adapters are shared."""
    state = dict(prior.state_dict())
    for name, adapter in adapters(prior):
        for part in adapter.state_dict():
            del state[f"{name}.{part}"]
        state |= {f"{name}.{part}": tensor for part, tensor in adapter.merged().items()}
    with torch.device("meta"):
        plain = type(prior)(prior.config)  # type: ignore[call-arg]
    plain.load_state_dict(state, assign=True)
    return plain.eval()
