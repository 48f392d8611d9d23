"""Heartbeats of a rank for the watcher: a line in a file per rank, and its stack on request.

`jukebox launch` names the file in the environment; without it a beat costs one comparison. A beat has the step, the number of
beats in it, the number of repetitions, and a text:

    12.3.0 gradients
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "JUKEBOX_BEAT"
WIDTH = 120  # a beat overwrites the previous one, so all have the same length
LOOK, LEAST = 0.5, 1 << 16  # seconds between two checks of the written bytes, and bytes that make a beat


class _Pulse:
    """The open file of this process, if any, its step and the number of beats in it."""

    file: int | None = None
    step = 0
    count = 0


def open_heartbeat() -> None:
    """Open this rank's file, and write all threads' stacks to stderr on SIGUSR1."""
    path = os.environ.pop(VARIABLE, "")  # a child process is not this rank
    if path:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        _Pulse.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def beat(doing: str, step: int | None = None) -> None:
    """Write what this rank is about to do, and in which step (None: the same)."""
    if _Pulse.file is not None:
        step = _Pulse.step if step is None else step
        _Pulse.count = _Pulse.count + 1 if step == _Pulse.step else 0
        _Pulse.step = step
        _write(doing, 0)


def _write(doing: str, repeats: int) -> None:
    if _Pulse.file is not None:
        text = f"{_Pulse.step}.{_Pulse.count}.{repeats} {doing}"[: WIDTH - 1]
        os.pwrite(_Pulse.file, f"{text:<{WIDTH - 1}}\n".encode(), 0)


@contextlib.contextmanager
def beat_while_writing(doing: str) -> Iterator[None]:
    """Beat, and repeat it as long as this process writes, so that a slow disk is distinguished from a hang."""
    beat(doing)
    done = threading.Event()

    def follow() -> None:
        before, repeats = written_bytes(), 0
        while not done.wait(LOOK):
            if (now := written_bytes()) - before >= LEAST:  # a beat is less
                before, repeats = now, repeats + 1
                _write(doing, repeats)

    follower = threading.Thread(target=follow, name="heartbeat", daemon=True)
    if _Pulse.file is not None:
        follower.start()
    try:
        yield
    finally:
        done.set()
        if follower.ident:
            follower.join()


def written_bytes() -> int:
    """Bytes that this process has written by system calls; 0 if the system does not count them."""
    with contextlib.suppress(OSError):
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["wchar"]) + int(counts["write_bytes"])
    return 0


@dataclass(frozen=True, order=True)
class Beat:
    """A beat as read from a file; of two ranks the one with the smaller beat is slower."""

    step: int
    count: int
    doing: str
    repeats: int = 0

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}"


def read_beat(path: Path) -> Beat | None:
    """The last beat of a rank; None before its first beat."""
    try:
        place, doing = path.read_text().split(" ", 1)
        step, count, repeats = map(int, place.split("."))
        return Beat(step, count, doing.strip(), repeats)
    except (OSError, ValueError):
        return None
