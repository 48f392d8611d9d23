"""What a rank is doing, for whoever watches it: a line in a file of its own, and its stack when it is asked for.

`jukebox launch` names the file in the environment; where it does not, a beat costs one comparison. A beat holds the
step, how many there were in it, and words:

    12.3 gradients
"""

from __future__ import annotations

import faulthandler
import os
import signal
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "JUKEBOX_BEAT"
WIDTH = 120  # a beat overwrites the one before it, so all are of one length


class _Pulse:
    """The open file of this process, once it has one, its step and the beats in it."""

    file: int | None = None
    step = 0
    count = 0


def open_heartbeat() -> None:
    """Open this rank's file, and write all threads' stacks to stderr whenever SIGUSR1 comes."""
    path = os.environ.pop(VARIABLE, "")  # a process that this one starts is not this rank
    if path:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        _Pulse.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def beat(doing: str, step: int | None = None) -> None:
    """Say what this rank is about to do, in which step (None: still in the same)."""
    if _Pulse.file is not None:
        step = _Pulse.step if step is None else step
        _Pulse.count = _Pulse.count + 1 if step == _Pulse.step else 0
        _Pulse.step = step
        text = f"{step}.{_Pulse.count} {doing}"[: WIDTH - 1]
        os.pwrite(_Pulse.file, f"{text:<{WIDTH - 1}}\n".encode(), 0)


@dataclass(frozen=True, order=True)
class Beat:
    """One beat as it is read; of two ranks the one with the smaller beat is behind."""

    step: int
    count: int
    doing: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}"


def read_beat(path: Path) -> Beat | None:
    """The last beat of a rank; None where it has not begun to say what it does."""
    try:
        place, doing = path.read_text().split(" ", 1)
        step, count = place.split(".")
        return Beat(int(step), int(count), doing.strip())
    except (OSError, ValueError):
        return None
