"""Which windows cover a level: integers only.

total        codes the level shall have
n_ctx        codes of a window                 |-- window 0 --|
hop          codes from window to window            |-- window 1 --|
                                               <hop>     |-- window 2 --|  (the last one ends with the level)
"""

from __future__ import annotations


def starts(total: int, n_ctx: int, hop: int) -> list[int]:
    """First code of every window over `total` codes; a level shorter than a window is one window from 0."""
    if hop < 1:
        raise ValueError(f"hop of {hop} codes between windows; expected at least 1")
    if total <= n_ctx:
        return [0]
    return [min(start, total - n_ctx) for start in range(0, total - n_ctx + hop, hop)]


def codes_of(seconds: float, sample_rate: int, hop: int, top_hop: int) -> int:
    """Codes of a level for a length in seconds, rounded down to whole codes of the top level (at least one)."""
    return max(1, int(seconds * sample_rate + 1e-6) // top_hop) * (top_hop // hop)
