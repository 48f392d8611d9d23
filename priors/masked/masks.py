"""Masks of kept and resampled codes: prompts as an algebra of pure functions (VampNet, Garcia 2023, section 3).

The unit is a column: one code of the coarsest level with the codes of the finer levels for the same time, 1 + 4 + 16 = 21 at
hops 128, 32 and 8. A prompt has one flag per column, which is true if the column is kept (`Columns`). `expand_to_levels`
expands a prompt to the codes of all levels (`Mask`). So no finer code is kept below a coarser code that changes. `union` keeps
a column if any of several prompts keeps it, `intersection` if all keep it. `combined` applies the user's options in a fixed
order. Times are in seconds.

    periodic(12, 4)            X...X...X...        ends(12, 3, 2)       XXX.......XX
    periodic(12, 4, width=3)   XX.XXX.XXX..        ~touching(12, ..)    XXXX....XXXX        (a masked region)
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
MOST_APART = 32  # largest distance of the columns that keep a finer level, in a prompt for a bit rate


def per_column(streams: Iterable[Stream]) -> dict[str, int]:
    """Return the number of codes of each stream per code of the coarsest stream."""
    hops = {stream.name: stream.hop for stream in streams}
    return {name: max(hops.values()) // hop for name, hop in hops.items()}


# ---- prompts: a flag per column


def nothing(n: int) -> Columns:
    """Keep no column: all columns are resampled."""
    return torch.zeros(n, dtype=torch.bool, device="cpu")


def everything(n: int) -> Columns:
    """Keep all columns."""
    return torch.ones(n, dtype=torch.bool, device="cpu")


def random(n: int, intensity: float, rng: torch.Generator) -> Columns:
    """Resample each column with probability `intensity`. 0 keeps all columns, and 1 keeps none."""
    _check(0 <= intensity <= 1, f"random intensity {intensity:g}", "a probability from 0 (keep all) to 1 (keep nothing)")
    return torch.rand(n, generator=rng, device="cpu") >= intensity


def ends(n: int, prefix: int = 0, suffix: int = 0) -> Columns:
    """Keep the first `prefix` and the last `suffix` columns.

    A prefix alone is a continuation, a suffix alone an introduction, and both together inpaint the columns between them.
    """
    _check(min(prefix, suffix) >= 0, f"prefix {prefix} and suffix {suffix}", "columns, 0 or more")
    at = torch.arange(n, device="cpu")
    return (at < prefix) | (at >= n - suffix)


def periodic(n: int, period: int, width: int = 1, roll: int = 0) -> Columns:
    """Keep every `period`-th column (0: none) from column `roll` on, and `width // 2` columns on both sides of each."""
    _check(period >= 0 and width >= 1, f"period {period} and width {width}", "a period from 0 and a width from 1")
    if not period:
        return nothing(n)
    return _around(n, range(roll % period, n, period), width // 2, width // 2)


def touching(n: int, ranges: Iterable[tuple[float, float]], rate: float) -> Columns:
    """Keep the columns that overlap time ranges [start, end) in seconds. `rate` is in columns per second.

    `~touching(..)` resamples these columns and keeps the others.
    """
    columns = nothing(n)
    for start, end in ranges:
        _check(end > start, f"range {start:g}..{end:g} s", "an end after its start")
        columns[max(0, column_of(start, rate)) : max(0, math.ceil(end * rate - _TINY))] = True
    return columns


def beats(
    n: int, seconds: Sequence[float], rate: float, before: float = 0.0, after: float = 0.075, every: int = 1, invert: bool = False
) -> Columns:  # fmt: skip
    """Keep the columns from `before` to `after` seconds around every `every`-th beat. `invert` keeps the other columns."""
    fine = min(before, after) >= 0 and every >= 1
    _check(fine, f"{before:g} s before, {after:g} s after every {every}", "0 or more, every 1 or more")
    columns = nothing(n)
    for beat in list(seconds)[::every]:
        columns[max(0, column_of(beat - before, rate)) : max(0, column_of(beat + after, rate) + 1)] = True
    return ~columns if invert else columns


def onsets(n: int, seconds: Sequence[float], rate: float, width: int = 1) -> Columns:
    """Keep the columns in which notes begin, and `width` columns on both sides."""
    _check(width >= 0, f"width {width}", "columns, 0 or more")
    centres = (column_of(second, rate) for second in seconds)
    return _around(n, [c for c in centres if 0 <= c < n], width, width)


# ---- the algebra


def union(*prompts: Columns) -> Columns:
    """Keep the columns that any of the prompts keeps."""
    return torch.stack(prompts).any(0)


def intersection(*prompts: Columns) -> Columns:
    """Keep the columns that all prompts keep."""
    return torch.stack(prompts).all(0)


def dropout(columns: Columns, p: float, rng: torch.Generator) -> Columns:
    """Drop each kept column with probability `p`, so that it is resampled."""
    _check(0 <= p <= 1, f"dropout {p:g}", "a probability from 0 to 1")
    return columns & (torch.rand(len(columns), generator=rng, device="cpu") >= p)


def expand_to_levels(columns: Columns, per: Mapping[str, int] = PER_COLUMN) -> Mask:
    """Expand a prompt over columns to the codes of every level, as a batch of one row."""
    return {level: columns.repeat_interleave(count)[None] for level, count in per.items()}


def with_levels(keep: Mask, levels: Collection[str]) -> Mask:
    """Keep all codes of these levels. For compression these are the coarse levels."""
    return {level: torch.ones_like(kept) if level in levels else kept for level, kept in keep.items()}


def without_levels(keep: Mask, levels: Collection[str]) -> Mask:
    """Keep no code of these levels."""
    return {level: torch.zeros_like(kept) if level in levels else kept for level, kept in keep.items()}


def combined(
    prompts: Sequence[Columns], *, drop: float = 0.0, rng: torch.Generator | None = None, keep_levels: Collection[str] = (),
    resample_levels: Collection[str] = (), per: Mapping[str, int] = PER_COLUMN,
) -> Mask:  # fmt: skip
    """Combine options in this order: union of the prompts, dropout, `keep_levels`, `resample_levels`."""
    columns = union(*prompts)
    if drop:
        _check(rng is not None, "a dropout without a generator", "a generator as rng")
        columns = dropout(columns, drop, rng)  # type: ignore[arg-type]
    return without_levels(with_levels(expand_to_levels(columns, per), keep_levels), resample_levels)


def stack(keeps: Sequence[Mask]) -> Mask:
    """Concatenate the prompts of single items to a batch."""
    return {level: torch.cat([keep[level] for keep in keeps]) for level in keeps[0]}


def orphans(keep: Mask) -> Int[Tensor, " b"]:
    """Return for each item the number of kept codes below a resampled coarser code. Such codes would be inconsistent."""
    levels = sorted(keep, key=lambda stream: keep[stream].shape[1])  # coarsest first
    count = torch.zeros_like(keep[levels[0]][:, 0], dtype=torch.long)
    for coarse, fine in itertools.pairwise(levels):
        above = keep[coarse].repeat_interleave(keep[fine].shape[1] // keep[coarse].shape[1], dim=1)
        count += (keep[fine] & ~above).sum(1)
    return count


# ---- bit rates


def count_kept(keep: Mask) -> Int[Tensor, " b"]:
    """Return the number of kept codes of each item, over all levels."""
    return torch.stack([kept.sum(1) for kept in keep.values()]).sum(0)


def bits_per_second(keep: Mask, bins: int, seconds: float) -> list[float]:
    """Return the bit rate of the kept codes of each item: codes x log2(bins) / seconds."""
    return [count * math.log2(bins) / seconds for count in count_kept(keep).tolist()]


def at_most(n: int, most: float, bins: int, seconds: float, per: Mapping[str, int] = PER_COLUMN) -> Mask:
    """Return the prompt with the highest bit rate up to `most` bits per second, from a fixed series of prompts.

    The series starts with all levels at all columns. Next, the finest level is kept at every 2nd, 3rd, .. 32nd column only, and
    then at no column. The next coarser level follows in the same way. The coarsest level comes last; its distances grow up to
    the whole prompt. A finer level is never kept without the coarser levels. ValueError if `most` is below the rate of one
    code.
    """
    bits = math.log2(bins) / seconds  # bits per second of one kept code
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

_TINY = 1e-6  # tolerance in columns: despite rounding, a range that ends at the start of a column does not overlap it


def column_of(second: float, rate: float) -> int:
    """Return the column that contains a time in seconds."""
    return math.floor(second * rate + _TINY)


def _around(n: int, centres: Iterable[int], left: int, right: int) -> Columns:
    columns = nothing(n)
    for centre in centres:
        columns[max(0, centre - left) : centre + right + 1] = True
    return columns


def _check(fine: bool, given: str, expected: str) -> None:
    if not fine:
        raise ValueError(f"{given}; expected {expected}")
