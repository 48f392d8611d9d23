"""Control of a training: signals, the time limit, and the lock of its folder."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError

if TYPE_CHECKING:
    from jukebox.model.recipe import Recipe


class Stop:
    """Context in which Ctrl-C or SIGTERM ends the run after the current step. A second equal signal ends the run immediately.

    A scheduler sends SIGTERM to every process, and `jukebox launch` sends SIGINT. The two together count as one request.
    """

    def __enter__(self) -> Stop:
        self.asked, self.received = False, set[int]()
        self.before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _ask(self, number: int, frame: object) -> None:
        if number in self.received:
            raise KeyboardInterrupt
        self.asked, self.received = True, self.received | {number}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def schedule_step(done: int, steps: int, seconds: float, limit: float) -> int:
    """Return the step of the schedule: the step of the run, or a later step if `limit` seconds will end the run earlier.

    The later step is the elapsed share of the time limit, times `steps`. So the learning rate also decays in a run that the
    time limit ends, and the quantiser begins in time. In the first 5 % of the time limit the schedule does not change.
    """
    used = seconds / limit if limit else 0.0
    return done if used < 0.05 else max(done, int(used * steps))


def rate_jump(before: Recipe, now: Recipe, step: int, seconds: float) -> str:
    """Return a message if a changed recipe makes the learning rate of a resumed training jump; empty without a jump."""
    from launch.engines.engine import lr_at

    def rate(step: int, recipe: Recipe) -> float:
        return lr_at(step, recipe, schedule_step(step, recipe.steps, seconds, 60 * recipe.max_minutes))

    planned, to = rate(step, before), rate(step, now)
    if step >= now.steps or abs(to - planned) <= 0.01 * max(to, planned):
        return ""
    return (
        f"the learning rate jumps from {rate(step - 1, before):.3g} to {to:.3g} at step {step}: its schedule depends on all steps, "
        f"{before.steps} before and {now.steps} now"
    )


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Context in which rank 0 locks the folder of a training for all ranks; UserError if another training holds the lock."""
    from filelock import FileLock, Timeout

    from launch.cluster.group import first

    lock = FileLock(folder / ".lock")

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is training {name} in {folder}; wait for it, or give another --out") from None

    first(take)
    try:
        yield
    finally:
        lock.release()
