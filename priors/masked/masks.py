"""Which codes of a song are kept and which are drawn anew: prompts as an algebra of pure functions (VampNet, Garcia 2023, section 3).

The unit is a column: one code of the coarsest level with the codes below it, 1 + 4 + 16 = 21 at hops 128, 32 and 8. A prompt says for each
of n columns whether it is kept (`Columns`); `expand_to_levels` writes it onto the levels (`Mask`), so that no finer code is kept under a
coarser one that changes, which would contradict it. Prompts join by `union` (a column is kept if any of them keeps it) and `intersection`;
`combined` is the one order in which a person's wishes are put together. Times come in as seconds, whoever measured them.

    periodic(12, 4)            X...X...X...        ends(12, 3, 2)       XXX.......XX
    periodic(12, 4, width=3)   XX.XXX.XXX..        ~touching(12, ..)    XXXX....XXXX        (a hole)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from priors.prior import Mask
from vqvae.streams import Stream

Columns = Bool[Tensor, " n"]  # True: kept
PER_COLUMN: Mapping[str, int] = {"vq.0": 16, "vq.1": 4, "vq.2": 1}  # codes of each stream in a column, at the published hops
MOST_APART = 32  # columns between two that carry a finer level, in a prompt for a bit rate


def per_column(streams: Iterable[Stream]) -> dict[str, int]:
    """Codes of each stream under one code of the coarsest."""
    hops = {stream.name: stream.hop for stream in streams}
    return {name: max(hops.values()) // hop for name, hop in hops.items()}


# ---- prompts: each column kept or not


def nothing(n: int) -> Columns:
    """All columns drawn anew."""
    return torch.zeros(n, dtype=torch.bool, device="cpu")


def everything(n: int) -> Columns:
    """All columns kept."""
    return torch.ones(n, dtype=torch.bool, device="cpu")


def random(n: int, intensity: float, rng: torch.Generator) -> Columns:
    """Each column drawn anew with probability `intensity`: 0 keeps everything, 1 nothing."""
    _check(0 <= intensity <= 1, f"random intensity {intensity:g}", "a probability from 0 (keep all) to 1 (keep nothing)")
    return torch.rand(n, generator=rng, device="cpu") >= intensity


def ends(n: int, prefix: int = 0, suffix: int = 0) -> Columns:
    """The first and the last columns: a prefix to continue from, a suffix to lead into, or a hole between the two."""
    _check(min(prefix, suffix) >= 0, f"prefix {prefix} and suffix {suffix}", "columns, 0 or more")
    at = torch.arange(n, device="cpu")
    return (at < prefix) | (at >= n - suffix)


def periodic(n: int, period: int, width: int = 1, roll: int = 0) -> Columns:
    """Every `period`-th column, the first of them number `roll`, and `width // 2` on both sides; period 0 keeps nothing."""
    _check(period >= 0 and width >= 1, f"period {period} and width {width}", "a period from 0 and a width from 1")
    if not period:
        return nothing(n)
    return _around(n, range(roll % period, n, period), width // 2, width // 2)


def touching(n: int, ranges: Iterable[tuple[float, float]], rate: float) -> Columns:
    """The columns that time ranges [start, end) in seconds touch, at `rate` columns a second; its `~` makes them the hole."""
    columns = nothing(n)
    for start, end in ranges:
        _check(end > start, f"range {start:g}..{end:g} s", "an end after its start")
        columns[max(0, column_of(start, rate)) : max(0, math.ceil(end * rate - _TINY))] = True
    return columns


def beats(
    n: int, seconds: Sequence[float], rate: float, before: float = 0.0, after: float = 0.075, every: int = 1, invert: bool = False
) -> Columns:  # fmt: skip
    """The columns from `before` to `after` seconds around every `every`-th beat; inverted, those between them."""
    fine = min(before, after) >= 0 and every >= 1
    _check(fine, f"{before:g} s before, {after:g} s after every {every}", "0 or more, every 1 or more")
    columns = nothing(n)
    for beat in list(seconds)[::every]:
        columns[max(0, column_of(beat - before, rate)) : max(0, column_of(beat + after, rate) + 1)] = True
    return ~columns if invert else columns


def onsets(n: int, seconds: Sequence[float], rate: float, width: int = 1) -> Columns:
    """The columns in which notes begin, and `width` on both sides."""
    _check(width >= 0, f"width {width}", "columns, 0 or more")
    centres = (column_of(second, rate) for second in seconds)
    return _around(n, [c for c in centres if 0 <= c < n], width, width)


# ---- the algebra


def union(*prompts: Columns) -> Columns:
    """What any of the prompts keeps."""
    return torch.stack(prompts).any(0)


def intersection(*prompts: Columns) -> Columns:
    """What all of the prompts keep."""
    return torch.stack(prompts).all(0)


def dropout(columns: Columns, p: float, rng: torch.Generator) -> Columns:
    """Each kept column let go again with probability `p`."""
    _check(0 <= p <= 1, f"dropout {p:g}", "a probability from 0 to 1")
    return columns & (torch.rand(len(columns), generator=rng, device="cpu") >= p)


def expand_to_levels(columns: Columns, per: Mapping[str, int] = PER_COLUMN) -> Mask:
    """A prompt over columns as one over the codes of every level, a batch of one."""
    return {level: columns.repeat_interleave(count)[None] for level, count in per.items()}


def with_levels(keep: Mask, levels: Collection[str]) -> Mask:
    """The same, and everything of some levels kept: compression, where coarse levels carry the song."""
    return {level: torch.ones_like(kept) if level in levels else kept for level, kept in keep.items()}


def without_levels(keep: Mask, levels: Collection[str]) -> Mask:
    """The same, with nothing of some levels kept."""
    return {level: torch.zeros_like(kept) if level in levels else kept for level, kept in keep.items()}


def combined(
    prompts: Sequence[Columns], *, drop: float = 0.0, rng: torch.Generator | None = None, keep_levels: Collection[str] = (),
    resample_levels: Collection[str] = (), per: Mapping[str, int] = PER_COLUMN,
) -> Mask:  # fmt: skip
    """Wishes put together: the union of all prompts; then dropout; then levels kept whole; levels drawn anew win over all."""
    columns = union(*prompts)
    if drop:
        _check(rng is not None, "a dropout without a generator", "rng, which says what is dropped")
        columns = dropout(columns, drop, rng)  # type: ignore[arg-type]
    return without_levels(with_levels(expand_to_levels(columns, per), keep_levels), resample_levels)


def stack(keeps: Sequence[Mask]) -> Mask:
    """Prompts of several items, which may differ, as one batch."""
    return {level: torch.cat([keep[level] for keep in keeps]) for level in keeps[0]}


def orphans(keep: Mask) -> Int[Tensor, " b"]:
    """How many kept codes stand under a coarser one that is drawn anew, per item: each contradicts what will be above it."""
    levels = sorted(keep, key=lambda stream: keep[stream].shape[1])  # coarsest first
    count = torch.zeros_like(keep[levels[0]][:, 0], dtype=torch.long)
    for coarse, fine in itertools.pairwise(levels):
        above = keep[coarse].repeat_interleave(keep[fine].shape[1] // keep[coarse].shape[1], dim=1)
        count += (keep[fine] & ~above).sum(1)
    return count


# ---- bit rates


def count_kept(keep: Mask) -> Int[Tensor, " b"]:
    """Kept codes of each item, over all levels."""
    return torch.stack([kept.sum(1) for kept in keep.values()]).sum(0)


def bits_per_second(keep: Mask, bins: int, seconds: float) -> list[float]:
    """What the kept codes of each item would cost to send: codes x log2(bins) / seconds, counted."""
    return [count * math.log2(bins) / seconds for count in count_kept(keep).tolist()]


def at_most(n: int, most: float, bins: int, seconds: float, per: Mapping[str, int] = PER_COLUMN) -> Mask:
    """The fullest prompt of one ladder whose counted bits per second are at most `most`.

    The ladder: all levels everywhere; then the finest at every 2nd, 3rd, .. 32nd column; then not at all, and the next finest so; at last
    the coarsest alone, ever further apart. A finer level is never kept where a coarser one is not. ValueError below one code.
    """
    bits = math.log2(bins) / seconds  # a second, of one kept code
    levels = sorted(per, key=lambda stream: -per[stream])  # finest first
    for i, level in enumerate(levels):
        coarser = levels[i + 1 :]
        carried = n * sum(per[each] for each in coarser)
        for period in range(1, (MOST_APART if coarser else n) + 1):
            if (carried + math.ceil(n / period) * per[level]) * bits <= most:
                keep = with_levels(expand_to_levels(periodic(n, period), per), coarser)
                return without_levels(keep, levels[:i])
    raise ValueError(f"{most:g} bits a second; one code alone is {bits:g} here: expected that or more")


# ---- small helpers

_TINY = 1e-6  # of a column: a range that ends where a column begins does not touch it, whatever the rounding


def column_of(second: float, rate: float) -> int:
    """The column in which a second lies."""
    return math.floor(second * rate + _TINY)


def _around(n: int, centres: Iterable[int], left: int, right: int) -> Columns:
    columns = nothing(n)
    for centre in centres:
        columns[max(0, centre - left) : centre + right + 1] = True
    return columns


def _check(fine: bool, given: str, expected: str) -> None:
    if not fine:
        raise ValueError(f"{given}; expected {expected}")
