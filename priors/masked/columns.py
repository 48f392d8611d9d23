"""Columns: the codes of all levels of the same time span as one column, whose span is one code of the top level.

With hops 8, 32 and 128 a column has 21 slots: the top code, the 4 codes of the middle level and the 16 of the bottom level for
the same 128 samples. So the sequence of columns is as short as the top level's sequence, and one trunk can attend to all of it.

    slot      0    1 2 3 4    5 6 .. 20
    level     2       1           0          coarsest first, in the order of time inside a level

The levels are separate autoencoders. Or, as in VampNet (arXiv:2307.04686), they are the residual codebooks of one stream: a
column is one frame, and book 0, which the others refine, is the coarsest level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.prior import Mask


def by_column(x: Tensor, ratio: int) -> Tensor:
    """A level's codes or flags (b, t * ratio) as columns (b, t, ratio)."""
    return x.unflatten(1, (-1, ratio))


def in_time(x: Tensor) -> Tensor:
    """The inverse of `by_column`: (b, t, ratio) -> (b, t * ratio)."""
    return x.flatten(1, 2)


def split_books(x: Mapping[str, Tensor], stream: str, books: int) -> dict[str, Tensor]:
    """A stream's codes or flags (b, t, books) as those of its books, last first: "stream/book" -> (b, t).

    Flags of whole frames (b, t) apply to every book. If frames hold one code, or the stream is split already, nothing changes.
    ValueError for other shapes.
    """
    if books == 1 or stream not in x:
        return dict(x)
    values = x[stream]
    if values.dtype == torch.bool and values.dim() == 2:
        values = values[..., None].expand(-1, -1, books)
    if values.dim() != 3 or values.shape[2] != books:
        raise ValueError(f"{stream} of shape {tuple(values.shape)}; expected (rows, frames, {books})")
    return {f"{stream}/{book}": values[..., book] for book in reversed(range(books))}


def join_books(x: Mapping[str, Tensor], stream: str, books: int) -> dict[str, Tensor]:
    """The inverse of `split_books`: "stream/book" -> (b, t) as (b, t, books) of the stream."""
    return dict(x) if books == 1 else {stream: torch.stack([x[f"{stream}/{book}"] for book in range(books)], dim=2)}


def share_masked(r: float) -> float:
    """The cosine schedule: the share of unknown codes at progress `r` in [0, 1], from all unknown to all known."""
    return math.cos(math.pi / 2 * r)


def left_after(step: int, passes: int, unknown: int) -> int:
    """Number of `unknown` codes that are still unknown after a pass (counted from 1); 0 after the last."""
    return math.floor(share_masked(step / passes) * unknown)


class ColumnEmbedding(nn.Module):
    """Embeds every code by its level's table, and unknown codes by the learned MASK vector of the slot."""

    def __init__(self, bins: int, ratios: Mapping[str, int], width: int, std: float):
        super().__init__()
        self.ratios = dict(ratios)
        self.x_emb = nn.ModuleList(nn.Embedding(bins, width) for _ in ratios)
        self.mask = nn.Parameter(torch.randn(sum(ratios.values()), width) * std)
        for table in self.x_emb:
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type]

    def forward(self, codes: Mapping[str, Int[Tensor, "b _"]], keep: Mask) -> dict[str, Float[Tensor, "b _ v"]]:
        """Vectors by stream; codes that are not kept are ignored, but must be below `bins`."""
        masks, vectors = iter(self.mask.split(list(self.ratios.values())[::-1])), {}
        for (stream, ratio), table in zip(reversed(self.ratios.items()), reversed(self.x_emb), strict=True):
            known = table(by_column(codes[stream], ratio))  # (B, T, ratio, V)
            hidden = next(masks).to(known.dtype)
            vectors[stream] = in_time(torch.where(by_column(keep[stream], ratio)[..., None], known, hidden))
        return vectors

    def concatenate(self, vectors: Mapping[str, Float[Tensor, "b _ v"]]) -> Float[Tensor, "b t v"]:
        """All slots of a column as one vector (b, t, slots * width), coarsest first."""
        streams = reversed(self.ratios.items())
        return torch.cat([by_column(vectors[stream], ratio).flatten(2) for stream, ratio in streams], dim=2)


# ---- masks of training


def random_region(columns: int, rng: np.random.Generator) -> Bool[np.ndarray, " t"]:
    """Columns to fill: all, a contiguous region, or single columns, with probability 1/3 each; at least one."""
    kind = rng.integers(3)
    if kind == 0:
        return np.ones(columns, bool)
    if kind == 1:
        first, last = sorted(rng.integers(columns, size=2))
        return (np.arange(columns) >= first) & (np.arange(columns) <= last)
    region = rng.random(columns) < rng.random()
    region[rng.integers(columns)] = True
    return region


def draw_masks(columns: int, ratios: Mapping[str, int], rng: np.random.Generator) -> tuple[Mask, Mask]:
    """Sample the masks of a training window: known codes, and codes in the loss, each (1, t_stream) by stream.

    With probability 1/3 each, no stream, the coarsest stream, or all but the finest are known. Every code of the other streams
    is masked with the probability of the cosine schedule. Half of the windows use only this rule. The other half match
    sampling, which completes a stream before the next: outside a region everything is known; inside it the finer streams are
    unknown and not in the loss.
    """
    known, share = int(rng.integers(len(ratios))), share_masked(rng.random())
    as_filled = rng.random() < 0.5
    region = random_region(columns, rng) if as_filled else np.ones(columns, bool)
    first = len(ratios) - 1 - known  # the coarsest unknown stream
    keep, asked = {}, {}
    for level, (stream, ratio) in enumerate(ratios.items()):
        inside = np.repeat(region, ratio)
        hidden = inside & (rng.random(columns * ratio) < (1.0 if as_filled and level < first else share))
        hidden &= level <= first
        keep[stream] = torch.from_numpy(~hidden)[None]
        asked[stream] = torch.from_numpy(hidden & (level == first or not as_filled))[None]
    return keep, asked
