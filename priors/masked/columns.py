"""Columns: the codes of all levels for one time span. The span of a column is one code of the top level.

With hops 8, 32 and 128 a column has 21 slots for 128 samples: 1 code of the top level, 4 codes of the middle level and 16 of
the bottom level. So the sequence of columns is as short as the sequence of the top level, and one trunk can attend to all of
it.

    slot      0    1 2 3 4    5 6 .. 20
    level     2       1           0          coarsest first, in the order of time inside a level

Levels are either separate autoencoders, or the residual codebooks (books) of one stream as in VampNet (arXiv:2307.04686). With
books a column is one frame. Book 0 is the coarsest level, and the others refine it.
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
    """Return the codes or flags (b, t * ratio) of a level by column, (b, t, ratio)."""
    return x.unflatten(1, (-1, ratio))


def in_time(x: Tensor) -> Tensor:
    """The inverse of `by_column`: (b, t, ratio) -> (b, t * ratio)."""
    return x.flatten(1, 2)


def split_books(x: Mapping[str, Tensor], stream: str, books: int) -> dict[str, Tensor]:
    """Split the codes or flags (b, t, books) of a stream into one entry per book, last book first: "stream/book" -> (b, t).

    Flags of whole frames (b, t) apply to every book. If frames have one code, or if the stream is already split, this is a
    no-op. ValueError for other shapes.
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
    """The inverse of `split_books`: join the entries "stream/book" -> (b, t) to one entry (b, t, books) of the stream."""
    return dict(x) if books == 1 else {stream: torch.stack([x[f"{stream}/{book}"] for book in range(books)], dim=2)}


def share_masked(r: float) -> float:
    """The cosine schedule: the share of unknown codes at progress `r`, from 1 at r = 0 to 0 at r = 1."""
    return math.cos(math.pi / 2 * r)


def left_after(step: int, passes: int, unknown: int) -> int:
    """Return how many of `unknown` codes are still unknown after pass number `step` (from 1). After the last pass this is 0."""
    return math.floor(share_masked(step / passes) * unknown)


class ColumnEmbedding(nn.Module):
    """Embeds known codes by the table of their level, and unknown codes by a learned MASK vector of their slot."""

    def __init__(self, bins: int, ratios: Mapping[str, int], width: int, std: float):
        super().__init__()
        self.ratios = dict(ratios)
        self.x_emb = nn.ModuleList(nn.Embedding(bins, width) for _ in ratios)
        self.mask = nn.Parameter(torch.randn(sum(ratios.values()), width) * std)
        for table in self.x_emb:
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type]

    def forward(self, codes: Mapping[str, Int[Tensor, "b _"]], keep: Mask) -> dict[str, Float[Tensor, "b _ v"]]:
        """Return the vectors of the codes by level. Codes that are not kept are ignored, but must be below `bins`."""
        masks, vectors = iter(self.mask.split(list(self.ratios.values())[::-1])), {}
        for (stream, ratio), table in zip(reversed(self.ratios.items()), reversed(self.x_emb), strict=True):
            known = table(by_column(codes[stream], ratio))  # (B, T, ratio, V)
            hidden = next(masks).to(known.dtype)
            vectors[stream] = in_time(torch.where(by_column(keep[stream], ratio)[..., None], known, hidden))
        return vectors

    def concatenate(self, vectors: Mapping[str, Float[Tensor, "b _ v"]]) -> Float[Tensor, "b t v"]:
        """Return the vectors of all slots of a column as one vector (b, t, slots * width), coarsest level first."""
        streams = reversed(self.ratios.items())
        return torch.cat([by_column(vectors[stream], ratio).flatten(2) for stream, ratio in streams], dim=2)


# ---- masks of training


def random_region(columns: int, rng: np.random.Generator) -> Bool[np.ndarray, " t"]:
    """Sample the columns of a region (at least one): all, a range, or single columns, with probability 1/3 each."""
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
    """Sample the masks of a training window: known codes, and codes in the loss. Each mask is (1, t_level) by level.

    First, the number of known coarse levels is sampled uniformly, from 0 to all but the finest. Every code of the other levels
    is masked with the probability of the cosine schedule at a random progress. Half of the windows use this rule alone: their
    loss counts all masked codes. The other half match sampling, which completes a level before the next. They have a random
    region, outside of which all codes are known. Inside it, levels finer than the coarsest unknown level are fully masked, and
    not in the loss.
    """
    known, share = int(rng.integers(len(ratios))), share_masked(rng.random())
    as_filled = rng.random() < 0.5
    region = random_region(columns, rng) if as_filled else np.ones(columns, bool)
    first = len(ratios) - 1 - known  # index of the coarsest unknown level
    keep, asked = {}, {}
    for level, (stream, ratio) in enumerate(ratios.items()):
        inside = np.repeat(region, ratio)
        hidden = inside & (rng.random(columns * ratio) < (1.0 if as_filled and level < first else share))
        hidden &= level <= first
        keep[stream] = torch.from_numpy(~hidden)[None]
        asked[stream] = torch.from_numpy(hidden & (level == first or not as_filled))[None]
    return keep, asked
