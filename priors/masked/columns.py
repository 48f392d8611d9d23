"""Columns: the codes of all levels side by side, those that sound under one code of the top level in one column.

With hops 8, 32 and 128 a column has 21 slots: the top code, the 4 codes of the middle and the 16 of the bottom that fill the
same 128 samples. So a sequence of every level's codes is as short as the top level's, and one trunk can look over all of it.

    slot      0    1 2 3 4    5 6 .. 20
    level     2       1           0          coarsest first, in the order of time inside a level

The levels are separate autoencoders. Or, as in VampNet (arXiv:2307.04686), they are the residual codebooks of one stream: a
column is one of its frames, and book 0, which the others refine, is the coarsest level.
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
    """What `by_column` made, as it was: (b, t, ratio) -> (b, t * ratio)."""
    return x.flatten(1, 2)


def split_books(x: Mapping[str, Tensor], stream: str, books: int) -> dict[str, Tensor]:
    """A stream's codes or flags (b, t, books) as those of its books, last first: "stream/book" -> (b, t).

    Flags of whole frames (b, t) hold for every book. Where frames hold one code, or the stream is split already, nothing
    changes. ValueError for other shapes.
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
    """What `split_books` made, as it was: "stream/book" -> (b, t) as (b, t, books) of the stream."""
    return dict(x) if books == 1 else {stream: torch.stack([x[f"{stream}/{book}"] for book in range(books)], dim=2)}


def share_masked(r: float) -> float:
    """The cosine schedule: the share of codes still unknown at `r` in [0, 1] of the way from none known to all."""
    return math.cos(math.pi / 2 * r)


def left_after(step: int, passes: int, unknown: int) -> int:
    """How many of `unknown` codes are unknown after a pass, counted from 1: none after the last."""
    return math.floor(share_masked(step / passes) * unknown)


class ColumnEmbedding(nn.Module):
    """Every code as a vector, that of its level's table, or the learned MASK of its slot where it is not known."""

    def __init__(self, bins: int, ratios: Mapping[str, int], width: int, std: float):
        super().__init__()
        self.ratios = dict(ratios)
        self.x_emb = nn.ModuleList(nn.Embedding(bins, width) for _ in ratios)
        self.mask = nn.Parameter(torch.randn(sum(ratios.values()), width) * std)
        for table in self.x_emb:
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type]

    def forward(self, codes: Mapping[str, Int[Tensor, "b _"]], keep: Mask) -> dict[str, Float[Tensor, "b _ v"]]:
        """Vectors by stream; codes that are not kept do not matter, but must be below `bins`."""
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


# ---- what is hidden in training


def random_region(columns: int, rng: np.random.Generator) -> Bool[np.ndarray, " t"]:
    """Columns to fill: all, a stretch, or single ones between kept ones, a third each; at least one."""
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
    """What is known of a window in training and which codes the loss counts, each (1, t_stream) by stream.

    In a third of the windows each, no stream, the coarsest, or all but the finest are known. Of the others every code is
    masked with the probability of the cosine schedule. In half of the windows that is all; the other half looks as in
    sampling, which completes a stream before it begins with the next: outside a region all is known, inside it nothing of
    the finer streams, which the loss does not count.
    """
    known, share = int(rng.integers(len(ratios))), share_masked(rng.random())
    as_filled = rng.random() < 0.5
    region = random_region(columns, rng) if as_filled else np.ones(columns, bool)
    first = len(ratios) - 1 - known  # the coarsest stream that is not known
    keep, asked = {}, {}
    for level, (stream, ratio) in enumerate(ratios.items()):
        inside = np.repeat(region, ratio)
        hidden = inside & (rng.random(columns * ratio) < (1.0 if as_filled and level < first else share))
        hidden &= level <= first
        keep[stream] = torch.from_numpy(~hidden)[None]
        asked[stream] = torch.from_numpy(hidden & (level == first or not as_filled))[None]
    return keep, asked
