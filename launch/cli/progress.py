"""The progress bar of every command; it also beats for whoever started the process on another machine."""

from __future__ import annotations

import sys

from tqdm import tqdm

from launch.cluster.heartbeat import beat


class Bar(tqdm):
    """A progress bar that whoever watches this process sees moving too."""

    def update(self, n: float | None = 1) -> bool | None:
        beat(getattr(self, "desc", "") or "working")  # a silent bar has no name
        return super().update(n)


def progress(total: float, what: str, unit: str = "it", done: float = 0, silent: bool = False) -> Bar:
    """A bar with rate and time left; in a log file it writes a line every ten seconds, not ten a second."""
    every = 0.1 if sys.stderr.isatty() else 10.0
    return Bar(total=total, initial=done, desc=what, unit=unit, mininterval=every, dynamic_ncols=True, disable=silent)
