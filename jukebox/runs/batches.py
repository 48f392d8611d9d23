"""Batches of samples that are decoded together, and their cuts.

    batches   [[0, 1, 2], [3, 4]]    samples that are decoded in parallel
    cut       {"level": 1, "start": 256, "at": 300, "samples": [0, 1, 2], "into": [[0], [1, 2]]}

Only equal batches have equal rounding, because a matrix product with five columns adds in another order than with one column.
So run.json records the batches, and every change of a batch as a cut. After a cut the parts `into` continue from frame `at`, as
if a window ended there. `into` has two halves if memory ran out, or the same samples if repeated codes differed. With
`--parallel` a cut may have `windows` instead: the number of parallel windows per song from the window at `start` on. A replayed
run repeats the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence

from jukebox.runs.windows import Segment

Batch = list[int]


def first_batches(samples: int, batch: int = 0, ranks: int = 1) -> list[Batch]:
    """Divide samples into batches of at most `batch` (0: no limit), with a batch for each of `ranks` processes if possible."""
    if not batch:
        return [list(range(r, samples, ranks)) for r in range(min(ranks, samples))]
    size = min(batch, -(-samples // ranks))
    return [list(range(i, min(i + size, samples))) for i in range(0, samples, size)]


def batches_at(batch: Batch, cuts: Sequence[dict], done: Sequence[int]) -> list[Batch]:
    """Return the parts of a batch after its cuts at the levels `done`."""
    parts = [batch]
    for cut in cuts:
        if cut["level"] in done and "into" in cut and cut["samples"] in parts:
            at = parts.index(cut["samples"])
            parts[at : at + 1] = cut["into"]
    return parts


def cut_in(cuts: Sequence[dict], level: int, samples: Batch, segment: Segment) -> dict | None:
    """Return the cut of a batch in a window, or None.

    A cut that did not split the batch has no effect at the first new frame of a window, and is ignored there.
    """
    for cut in cuts:
        here = (cut["level"], cut["start"], cut["samples"]) == (level, segment.start, samples) and "into" in cut
        if here and segment.begin <= cut["at"] < segment.end and (cut["at"] > segment.begin or len(cut["into"]) > 1):
            return cut
    return None


def windows_in_parallel(cuts: Sequence[dict], level: int, samples: Batch, start: int, windows: int) -> int:
    """Number of parallel windows per sample in the pass that begins at `start`: `windows`, or fewer after a cut."""
    here = [cut for cut in cuts if (cut["level"], cut["start"], cut["samples"]) == (level, start, samples)]
    return min([windows, *(cut["windows"] for cut in here if "windows" in cut)])
