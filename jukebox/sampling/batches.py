"""What is drawn together, in integers: batches of samples, the windows each goes through, and where a batch was cut.

    batches   [[0, 1, 2], [3, 4]]    samples that are decoded side by side
    segment   (start, begin, end)    a window from `start` whose codes `begin`..`end` are new
    cut       {"level": 1, "start": 256, "at": 300, "samples": [0, 1, 2], "into": [[0], [1, 2]]}

A sum rounds alike only in the same company: a product of a matrix with five columns adds in another order than with one. So the
batches stand in run.json, and what becomes of them on the way stands there too, as cuts. After a cut the parts `into` (two halves
where memory ran out, or the same samples once more) go on from code `at` as if a window ended there. With `--parallel` a cut may name
`windows` instead: how many windows of a song are side by side from the window at `start` on. Whoever repeats the run repeats the cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jukebox.sampling.windows import starts

Batch = list[int]
WARM_UP = 0.25  # share of a parallel window whose codes are dropped
KEPT = 1 / 8  # share of a masked window that the one before has filled: 64 columns of 512


class Segment(NamedTuple):
    """A window from `start` whose codes `begin`..`end` are new; what lies before `begin` is heard, or dropped as a warm-up."""

    start: int
    begin: int
    end: int


def first_batches(samples: int, batch: int = 0, ranks: int = 1) -> list[Batch]:
    """Samples in batches of at most `batch` (0: no limit), at least one for each of `ranks` processes where there are enough."""
    if not batch:
        return [list(range(r, samples, ranks)) for r in range(min(ranks, samples))]
    size = min(batch, -(-samples // ranks))
    return [list(range(i, min(i + size, samples))) for i in range(0, samples, size)]


def batches_at(batch: Batch, cuts: Sequence[dict], level: int) -> list[Batch]:
    """What a batch has become by the time it begins with `level`: the cuts of the levels above have split it."""
    parts = [batch]
    for cut in cuts:
        if cut["level"] > level and "into" in cut and cut["samples"] in parts:
            at = parts.index(cut["samples"])
            parts[at : at + 1] = cut["into"]
    return parts


def cut_in(cuts: Sequence[dict], level: int, samples: Batch, segment: Segment) -> dict | None:
    """The cut of a batch in this segment, if there is one; one that left its batch whole is no cut at its own beginning."""
    for cut in cuts:
        here = (cut["level"], cut["start"], cut["samples"]) == (level, segment.start, samples) and "into" in cut
        if here and segment.begin <= cut["at"] < segment.end and (cut["at"] > segment.begin or len(cut["into"]) > 1):
            return cut
    return None


def parallel_windows(cuts: Sequence[dict], level: int, samples: Batch, start: int, windows: int) -> int:
    """How many windows of each of `samples` are side by side in the pass whose first window is at `start`, of `windows` so far."""
    here = [cut for cut in cuts if (cut["level"], cut["start"], cut["samples"]) == (level, start, samples)]
    return min([windows, *(cut["windows"] for cut in here if "windows" in cut)])


def segments(total: int, n_ctx: int, hop: int, begin: int) -> Iterator[Segment]:
    """One after another: windows every `hop` codes, each hearing what the one before has written in their overlap."""
    for start in starts(total, n_ctx, hop):
        end = min(start + n_ctx, total)
        if end > begin:
            yield Segment(start, begin, end)
            begin = end


def parallel_segments(total: int, n_ctx: int, overlap: int, begin: int) -> Iterator[Segment]:
    """Side by side: a window that begins `overlap` codes early warms up there, and its codes are dropped up to `begin`.

    The first one has nothing before it, or hears the codes that are given; the last one begins earlier, to end with the level.
    """
    while begin < total:
        start = max(0, min(begin - overlap, total - n_ctx))
        yield Segment(start, begin, min(start + n_ctx, total))
        begin = min(start + n_ctx, total)


def window_prompt(asked: Mapping[str, Any], level: int) -> Literal["prefix", "any"]:
    """What the prior that a request has a level sampled by must start from: "any" known codes in masked decoding."""
    return "any" if asked.get("lower") == "masked" and level + 1 < len(asked["hops"]) else "prefix"


def windows_of(asked: Mapping[str, Any], level: int, n_ctx: int, total: int, begin: int) -> Iterator[Segment]:
    """The windows of a level that a request asks for, from code `begin` on: one after another, or such as can be side by side."""
    hops = asked["hops"]
    if window_prompt(asked, level) == "any":  # in columns, which begin with a code of the coarsest level
        column = max(hops) // hops[level]
        known = int(KEPT * n_ctx / column) * column
        return segments(total, n_ctx, n_ctx - known, begin)
    # windows begin with a code of the level above
    ratio = hops[level + 1] // hops[level] if level + 1 < len(hops) else 1
    if asked["parallel"] and level + 1 < len(hops):
        return parallel_segments(total, n_ctx, int(WARM_UP * n_ctx) // ratio * ratio, begin)
    hop = max(ratio, int(asked["hop_fractions"][level] * n_ctx) // ratio * ratio)
    return segments(total, n_ctx, hop, begin)
