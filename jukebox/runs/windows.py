"""Windows that cover a stream, in integers only.

    prefix      in sequence, each conditioned on the frames of the previous one in their overlap
    parallel    independent of each other; each warms up on frames that are dropped
    region      as prefix, over the unknown frames between known ones
    mask        over unknown frames, with known ones on both sides

        frames to sample   ......XXXXXX........................XXXXXXXXXXXXXXXXXXXXXXXXXXX......
        windows               |----- 0 ----|                |----- 1 ----|
                                                                   |----- 2 ----|
                                                                           |----- 3 ----|

A run records its planner of each level (`WindowPlanner`) in run.json, and so the windows of a resumed or replayed run are those
of the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from priors.spec import PriorConfig

WARM_UP = 0.25  # share of a parallel window whose frames are dropped
KEPT = 1 / 8  # overlap of windows of a prior with prompt "any", as a share: 64 columns of 512
CONTEXT_SHARE = 4  # a window has at least 1 / this of its length as context before the masked region, and after it


class Segment(NamedTuple):
    """A window [start, end) whose frames from `begin` on are new; earlier frames are its prompt, or a warm-up that is dropped."""

    start: int
    begin: int
    end: int

    @property
    def prime(self) -> int:
        """Frames of the window before the new ones."""
        return self.begin - self.start


def starts(total: int, n_ctx: int, hop: int) -> list[int]:
    """Return the first frame of each window of a level of `total` frames. A level shorter than a window gets one window at 0."""
    if hop < 1:
        raise ValueError(f"hop of {hop} codes between windows; expected at least 1")
    if total <= n_ctx:
        return [0]
    return [min(start, total - n_ctx) for start in range(0, total - n_ctx + hop, hop)]


def prefix_windows(total: int, n_ctx: int, hop: int, begin: int = 0, published: bool = False) -> Iterator[Segment]:
    """Windows every `hop` frames with new frames, each conditioned on the previous one in their overlap.

    A level ends at `total`. As `published`, one that is shorter than a window gets `total` frames after the known ones.
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
    """Plan windows that are sampled independently. Each starts `overlap` frames before `begin`, and its frames before `begin`
    are dropped.

    The first window has the given frames, if any, as its prompt. The last window is shifted to an earlier start, so that it
    ends at the last frame of the level.
    """
    while begin < total:
        start = max(0, min(begin - overlap, total - n_ctx))
        yield Segment(start, begin, min(start + n_ctx, total))
        begin = min(start + n_ctx, total)


def region_windows(unknown: Bool[np.ndarray, " n"], n_ctx: int) -> Iterator[Segment]:
    """Windows from the first to the last unknown frame; each has up to half of its frames as a prompt."""
    where = np.flatnonzero(unknown)
    at, end = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)
    while at < end:
        start = max(0, at - n_ctx // 2)
        yield Segment(start, at, min(end, start + n_ctx))
        at = min(end, start + n_ctx)


def mask_windows(unknown: Bool[np.ndarray, " n"], n_ctx: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of at most `n_ctx` frames, in order, that between them contain all unknown frames.

    A masked region that fits one window with context on both sides is in its middle. A longer region has evenly spaced windows:
    the first contains context before the region, each further one the end of the previous window, and the last context after
    the region.
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
    """The placement of the windows of a level; all lengths are in frames of its stream.

    `step` is the distance of prefix windows, or the warm-up of parallel ones; windows of kind mask begin with a whole `column`.
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
        """The windows with frames to sample from `begin` on; `unknown` for kinds region and mask, over all `total` frames.

        No window crosses from one of `pieces` (first frame, frames) to another.
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
    """The planner of a level of a request that a prior of this configuration writes: the recorded one, if there is one."""
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
