"""The progress bar of every command; it also sends heartbeats to the watcher of `jukebox launch`."""

from __future__ import annotations

from data_prep.progress import ProgressBar
from launch.cluster.heartbeat import beat


class Bar(ProgressBar):
    """A progress bar that also sends heartbeats to the watcher."""

    def update(self, n: float | None = 1) -> bool | None:
        beat(getattr(self, "desc", "") or "working")  # a disabled bar has no name
        return super().update(n)


def progress(total: float, what: str, unit: str = "it", done: float = 0, silent: bool = False, limit: float = 0.0) -> Bar:
    """Return a progress bar with rate and time left. Without a terminal it prints a line every ten seconds.

    total: number of units in all
    done: number of finished units
    limit: seconds after which the work ends although units are left (0: none)
    """
    return Bar(total=total, initial=done, desc=what, unit=unit, dynamic_ncols=True, disable=silent, limit=limit)
