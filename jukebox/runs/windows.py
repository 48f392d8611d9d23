"""Windows that cover a stream, computed in integers only.

    prefix      sequential windows; each is conditioned on the frames of the previous window in their overlap
    parallel    independent windows; each begins with warm-up frames that are dropped
    region      sequential windows over the unknown frames between known frames
    mask        windows over unknown frames with known frames as context on both sides

        frames to sample   ......XXXXXX........................XXXXXXXXXXXXXXXXXXXXXXXXXXX......
        windows               |----- 0 ----|                |----- 1 ----|
                                                                   |----- 2 ----|
                                                                           |----- 3 ----|

A run records the planner of each level (`WindowPlanner`) in run.json. So a resumed or replayed run has the same windows as the
first run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from priors.spec import PriorConfig

WARM_UP = 0.25  # share of a parallel window that is warm-up, whose frames are dropped
KEPT = 1 / 8  # overlap of windows of a prior with prompt "any", as a share of the window: 64 of 512 columns
CONTEXT_SHARE = 4  # a window has at least this fraction (1 / CONTEXT_SHARE) of context before and after the masked region


class Segment(NamedTuple):
    """A window [start, end) whose frames from `begin` on are new; earlier frames are a prompt, or a warm-up that is dropped."""

    start: int
    begin: int
    end: int

    @property
    def prime(self) -> int:
        """Number of frames before the new frames."""
        return self.begin - self.start


def starts(total: int, n_ctx: int, hop: int) -> list[int]:
    """Return the first frame of each window of a level of `total` frames. A level shorter than a window gets one window at 0."""
    if hop < 1:
        raise ValueError(f"hop of {hop} codes between windows; expected at least 1")
    if total <= n_ctx:
        return [0]
    return [min(start, total - n_ctx) for start in range(0, total - n_ctx + hop, hop)]


def prefix_windows(total: int, n_ctx: int, hop: int, begin: int = 0, published: bool = False) -> Iterator[Segment]:
    """Plan sequential windows every `hop` frames, each conditioned on the previous window in their overlap.

    The level has `total` frames, of which the first `begin` are known. With `published`, a level that is shorter than a window
    gets `total` new frames after the known frames, as in the published code.
    """
    if published and total < n_ctx:
        yield Segment(max(0, begin + total - n_ctx), begin, begin + total)
        return
    for start in starts(total, n_ctx, hop):
        end = min(start + n_ctx, total)
        if end > begin:
            yield Segment(start, begin, end)
            begin = end


def parallel_windows(total: int, n_ctx: int, overlap: int, begin: int) -> Iterator[Segment]:
    """Plan windows that are sampled independently, with a warm-up of `overlap` frames whose codes are dropped.

    The first window has the given frames before `begin`, if any, as its prompt. The last window starts earlier, so that it ends
    at the last frame of the level.
    """
    while begin < total:
        start = max(0, min(begin - overlap, total - n_ctx))
        yield Segment(start, begin, min(start + n_ctx, total))
        begin = min(start + n_ctx, total)


def region_windows(unknown: Bool[np.ndarray, " n"], n_ctx: int) -> Iterator[Segment]:
    """Plan sequential windows from the first to the last unknown frame; up to half of each window is a prompt."""
    where = np.flatnonzero(unknown)
    at, end = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)
    while at < end:
        start = max(0, at - n_ctx // 2)
        yield Segment(start, at, min(end, start + n_ctx))
        at = min(end, start + n_ctx)


def mask_windows(unknown: Bool[np.ndarray, " n"], n_ctx: int) -> list[tuple[int, int]]:
    """Plan windows (start, stop) of at most `n_ctx` frames, in order, that together contain all unknown frames.

    If a masked region and its context on both sides fit into one window, the region is in the middle of the window. A longer
    region has evenly spaced windows. The first window has context before the region, and the last window has context after the
    region. Each further window overlaps the previous window.
    """
    n, done, made = len(unknown), 0, []
    for first, stop in _regions(unknown, n_ctx // 2):
        for start in _starts_over(n, first, stop, n_ctx, n_ctx // CONTEXT_SHARE):
            start = max(0, min(start, n - n_ctx))
            end = min(n, start + n_ctx)
            if unknown[max(done, start) : end].any():
                made.append((start, end))
                done = end
    return made


def _regions(unknown: Bool[np.ndarray, " n"], apart: int) -> Iterator[tuple[int, int]]:
    """Group unknown frames that are at most `apart` frames from each other; yield the range (first, stop) of each group."""
    todo = np.flatnonzero(unknown).tolist()
    breaks = [i for i in range(1, len(todo)) if todo[i] - todo[i - 1] > apart]
    for begin, end in zip([0, *breaks], [*breaks, len(todo)]):
        if begin < end:
            yield todo[begin], todo[end - 1] + 1


def _starts_over(n: int, first: int, stop: int, n_ctx: int, beside: int) -> list[int]:
    low, high = max(0, first - beside), min(n, stop + beside) - n_ctx
    if high <= low:
        return [(first + stop - n_ctx) // 2]
    steps = -(-(high - low) // (n_ctx - beside))
    return [low + i * (high - low) // steps for i in range(steps + 1)]


@dataclass(frozen=True)
class WindowPlanner:
    """Placement of the windows of a level; all lengths are in frames of the level's stream.

    `step` is the distance between prefix windows, or the warm-up of parallel windows. Windows of kind mask consist of whole
    columns of `column` frames.
    """

    kind: Literal["prefix", "parallel", "region", "mask"]
    n_ctx: int
    step: int = 0
    column: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def segments(
        self, total: int, begin: int, unknown: Bool[np.ndarray, " n"] | None = None, pieces: Sequence[tuple[int, int]] = ()
    ) -> Iterator[Segment]:
        """Yield the windows that have frames to sample from `begin` on.

        The kinds region and mask need `unknown`, the mask of unknown frames among all `total` frames. No window crosses the
        border between two of `pieces` (first frame, number of frames).
        """
        if self.kind == "prefix":
            yield from prefix_windows(total, self.n_ctx, self.step, begin)
        elif self.kind == "parallel":
            yield from parallel_windows(total, self.n_ctx, self.step, begin)
        else:
            assert unknown is not None
            for first, n in pieces or [(0, total)]:
                for start, new, end in self._over(unknown[first : first + n]):
                    if first + end > begin:
                        yield Segment(first + start, max(first + new, begin), first + end)

    def _over(self, unknown: Bool[np.ndarray, " n"]) -> Iterator[Segment]:
        if self.kind == "region":
            yield from region_windows(unknown, self.n_ctx)
            return
        begin = 0
        for start, stop in mask_windows(unknown.reshape(-1, self.column).max(axis=1), self.n_ctx // self.column):
            begin = max(begin, start * self.column)
            yield Segment(start * self.column, begin, stop * self.column)
            begin = stop * self.column


def plan_windows(request: Mapping[str, Any], level: int, config: PriorConfig, stream: str) -> WindowPlanner:
    """Return the planner of a level that a prior of this configuration writes.

    A planner that the request records has priority.
    """
    if recorded := request.get("planners", {}).get(str(level)):
        return WindowPlanner(**recorded)
    n_ctx, column = config.frames(stream), config.frames(stream) // config.n_ctx
    if config.spec.prompt == "any":  # windows begin with a whole frame of the coarsest stream
        if request.get("inpaints"):
            return WindowPlanner("mask", n_ctx, column=column)
        return WindowPlanner("prefix", n_ctx, n_ctx - (config.memory or int(KEPT * n_ctx / column) * column), column)
    if request.get("inpaints"):
        return WindowPlanner("region", n_ctx)
    # windows begin with a whole frame of the stream above
    ratio, reads = config.ratio, set(config.spec.reads) - set(config.spec.writes)
    if request["parallel"] and reads:
        return WindowPlanner("parallel", n_ctx, int(WARM_UP * n_ctx) // ratio * ratio)
    fractions = request["hop_fractions"]
    step = n_ctx - config.memory if config.memory else int(fractions[min(level, len(fractions) - 1)] * n_ctx)
    return WindowPlanner("prefix", n_ctx, max(ratio, step // ratio * ratio))
