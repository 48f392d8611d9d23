"""What a rank is doing, for whoever watches it: a line in a file of its own, and its stack when it is asked for.

`jukebox launch` names the file in the environment; where it does not, a beat costs one comparison. A beat holds the
step, how many there were in it, how often this one was repeated, and words:

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
WIDTH = 120  # a beat overwrites the one before it, so all are of one length
LOOK, LEAST = 0.5, 1 << 16  # seconds between two looks at what was written, and bytes of it that make a beat


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
        _write(doing, 0)


def _write(doing: str, repeats: int) -> None:
    if _Pulse.file is not None:
        text = f"{_Pulse.step}.{_Pulse.count}.{repeats} {doing}"[: WIDTH - 1]
        os.pwrite(_Pulse.file, f"{text:<{WIDTH - 1}}\n".encode(), 0)


@contextlib.contextmanager
def beat_while_writing(doing: str) -> Iterator[None]:
    """Beats, and repeats it as long as this process writes: a slow disk is no hang, and a disk that hangs is one."""
    beat(doing)
    done = threading.Event()

    def follow() -> None:
        before, repeats = written_bytes(), 0
        while not done.wait(LOOK):
            if (now := written_bytes()) - before >= LEAST:  # a beat itself is less
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
    """Bytes that this process has handed to write calls, and that the system has taken over from them; 0 where it does not count."""
    with contextlib.suppress(OSError):
        counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(counts["wchar"]) + int(counts["write_bytes"])
    return 0


@dataclass(frozen=True, order=True)
class Beat:
    """One beat as it is read; of two ranks the one with the smaller beat is behind."""

    step: int
    count: int
    doing: str
    repeats: int = 0

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}"


def read_beat(path: Path) -> Beat | None:
    """The last beat of a rank; None where it has not begun to say what it does."""
    try:
        place, doing = path.read_text().split(" ", 1)
        step, count, repeats = map(int, place.split("."))
        return Beat(step, count, doing.strip(), repeats)
    except (OSError, ValueError):
        return None
