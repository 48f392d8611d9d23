"""Which windows cover a level: integers only.

total        codes the level shall have
n_ctx        codes of a window                 |-- window 0 --|
hop          codes from window to window            |-- window 1 --|
                                               <hop>     |-- window 2 --|  (the last one ends with the level)
known        codes that are there already, as of a prompt: a window's prime are those of them that lie in it
"""

from __future__ import annotations

from typing import NamedTuple


class Window(NamedTuple):
    """Of a level's codes [start, end), those up to `known` are there and the rest is to be written."""

    start: int
    known: int
    end: int

    @property
    def prime(self) -> int:
        """Codes that the window hears before it writes."""
        return self.known - self.start


def starts(total: int, n_ctx: int, hop: int) -> list[int]:
    """First code of every window over `total` codes; a level shorter than a window is one window from 0."""
    if hop < 1:
        raise ValueError(f"hop of {hop} codes between windows; expected at least 1")
    if total <= n_ctx:
        return [0]
    return [min(start, total - n_ctx) for start in range(0, total - n_ctx + hop, hop)]


def windows(total: int, n_ctx: int, hop: int, known: int = 0, published: bool = False) -> list[Window]:
    """The windows that have something to write, in order: each finds the codes that those before it wrote.

    A level ends at `total`. As `published`, one that is shorter than a window gets `total` codes behind the known ones.
    """
    if published and total < n_ctx:
        return [Window(max(0, known + total - n_ctx), known, known + total)]
    made = []
    for start in starts(total, n_ctx, hop):
        end = min(start + n_ctx, total)
        if known < end:
            made.append(Window(start, known, end))
            known = end
    return made
