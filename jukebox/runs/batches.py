"""Batches of samples that are decoded together, and their cuts.

    batches   [[0, 1, 2], [3, 4]]    samples that are decoded in parallel
    cut       {"level": 1, "start": 256, "at": 300, "samples": [0, 1, 2], "into": [[0], [1, 2]]}

Rounding is equal only in equal batches, because a matrix product with five columns adds in another order than with one. So
run.json records the batches, and their changes as cuts. After a cut the parts `into` (two halves if memory ran out, or the same
samples again) continue from frame `at` as if a window ended there. With `--parallel` a cut may name `windows` instead: the
number of windows of a song in parallel from the window at `start` on. A run that is repeated repeats the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence

from jukebox.runs.windows import Segment

Batch = list[int]


def first_batches(samples: int, batch: int = 0, ranks: int = 1) -> list[Batch]:
    """Samples in batches of at most `batch` (0: no limit), at least one for each of `ranks` processes if there are enough."""
    if not batch:
        return [list(range(r, samples, ranks)) for r in range(min(ranks, samples))]
    size = min(batch, -(-samples // ranks))
    return [list(range(i, min(i + size, samples))) for i in range(0, samples, size)]


def batches_at(batch: Batch, cuts: Sequence[dict], done: Sequence[int]) -> list[Batch]:
    """The parts of a batch after the cuts of the levels in `done`."""
    parts = [batch]
    for cut in cuts:
        if cut["level"] in done and "into" in cut and cut["samples"] in parts:
            at = parts.index(cut["samples"])
            parts[at : at + 1] = cut["into"]
    return parts


def cut_in(cuts: Sequence[dict], level: int, samples: Batch, segment: Segment) -> dict | None:
    """The cut of a batch in this segment, if there is one; a cut that did not split its batch is ignored at its start."""
    for cut in cuts:
        here = (cut["level"], cut["start"], cut["samples"]) == (level, segment.start, samples) and "into" in cut
        if here and segment.begin <= cut["at"] < segment.end and (cut["at"] > segment.begin or len(cut["into"]) > 1):
            return cut
    return None


def windows_in_parallel(cuts: Sequence[dict], level: int, samples: Batch, start: int, windows: int) -> int:
    """Number of windows of each of `samples` in the pass whose first window is at `start`, of `windows` so far."""
    here = [cut for cut in cuts if (cut["level"], cut["start"], cut["samples"]) == (level, start, samples)]
    return min([windows, *(cut["windows"] for cut in here if "windows" in cut)])
