"""Heartbeats of a rank for the watcher: one line in a file per rank. On request, the rank also writes its stack.

`jukebox launch` names the file in an environment variable. Without the variable a beat is a no-op that costs one comparison. A
beat has the step, the number of earlier beats in this step, the number of repetitions, and a text:

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
WIDTH = 120  # length of a beat in the file; it is constant, because a beat overwrites the previous beat
LOOK, LEAST = 0.5, 1 << 16  # seconds between two checks of the written bytes; least number of new bytes that counts as progress


class _Pulse:
    """State of this process: the open file or None, the current step, and the number of earlier beats in the step."""

    file: int | None = None
    step = 0
    count = 0


def open_heartbeat() -> None:
    """Open the heartbeat file of this rank. Afterwards SIGUSR1 makes this process write the stacks of all threads to stderr."""
    path = os.environ.pop(VARIABLE, "")  # removed, because a child process is not this rank
    if path:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        _Pulse.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def beat(doing: str, step: int | None = None) -> None:
    """Write what this rank is about to do, and the step (None: the step of the previous beat)."""
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
    """Context that repeats a beat as long as this process writes data, so that a slow disk is not considered a hang."""
    beat(doing)
    done = threading.Event()

    def follow() -> None:
        before, repeats = written_bytes(), 0
        while not done.wait(LOOK):
            if (now := written_bytes()) - before >= LEAST:  # a beat itself writes fewer bytes
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
    """Return the number of bytes that this process has written; 0 if the system does not count them."""
    with contextlib.suppress(OSError):
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["wchar"]) + int(counts["write_bytes"])
    return 0


@dataclass(frozen=True, order=True)
class Beat:
    """A beat as read from a file. Beats are ordered by progress: a smaller beat is earlier."""

    step: int
    count: int
    doing: str
    repeats: int = 0

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}"


def read_beat(path: Path) -> Beat | None:
    """Return the last beat of a rank; None before the first beat."""
    try:
        place, doing = path.read_text().split(" ", 1)
        step, count, repeats = map(int, place.split("."))
        return Beat(step, count, doing.strip(), repeats)
    except (OSError, ValueError):
        return None
