"""The one training loop, for any codec and any prior.

1. A `Task` (`launch/tasks.py`) names a model, its batches and its loss; the loop knows nothing of audio or lyrics.
2. A batch, and all noise of a step, is a pure function of (seed, step): a killed run goes on exactly, by the same verb.
3. An engine (`launch/engine.py`) moves the weights; the log (`launch/log.py`) says what happened.
4. `MODEL/training/<task>/` keeps the log and two checkpoints; at the end the weights are written into MODEL.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_prep.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jukebox.presets import Recipe
    from launch.engine import Engine


class Task(Protocol):
    """Something to train. `name` is its folder's name, `identity` (numbers and texts) what its checkpoints must share.

    `open` finds the data, once there is something to do; `batch` is a pure function of (seed, step) and makes CPU
    tensors, in a thread of its own; `loss` names the terms for the log, the total as "loss"; `save` writes the
    weights into the model folder. A step trains on `amount` of `unit`.
    """

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def unit(self) -> str: ...
    @property
    def amount(self) -> float: ...
    def open(self) -> None: ...
    def batch(self, step: int, rank: int, world: int) -> Any: ...
    def loss(self, batch: Any, step: int) -> dict[str, Tensor]: ...
    def save(self) -> None: ...


@dataclass(frozen=True)
class Trained:
    """How a run ended ("done", "time", "stopped"): after `step` of `steps` steps and `minutes` of training in all."""

    name: str
    step: int
    steps: int
    minutes: float
    ended: str

    def __str__(self) -> str:
        return {
            "done": f"{self.name}: trained, {self.step} steps in {self.minutes:.1f} minutes",
            "time": f"{self.name}: --max_minutes ended it at step {self.step} of {self.steps}; the weights are "
            "written, the same command with more minutes goes on from there",
            "stopped": f"{self.name}: stopped at step {self.step} of {self.steps}; the same command goes on from there",
        }[self.ended]


def fold(seed: int, step: int, rank: int = 0) -> int:
    """One 63-bit seed of a seed, a step and a rank, so that neighbours share nothing."""
    import numpy as np

    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batches(task: Task, start: int, stop: int, engine: Engine, ahead: int = 2) -> Iterator[tuple[int, Any, float]]:
    """(step, batch, seconds waited) for start <= step < stop; `ahead` batches are made while the model computes."""
    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="batches") as pool:
        waiting = deque(
            pool.submit(task.batch, s, engine.rank, engine.world) for s in range(start, min(start + ahead, stop))
        )
        try:
            for step in range(start, stop):
                asked = time.perf_counter()
                batch = waiting.popleft().result()
                waited = time.perf_counter() - asked
                if step + ahead < stop:
                    waiting.append(pool.submit(task.batch, step + ahead, engine.rank, engine.world))
                yield step, batch, waited
        finally:
            pool.shutdown(cancel_futures=True)


class Stop:
    """While open, Ctrl-C and SIGTERM end the run after the current step; a second Ctrl-C ends it at once."""

    asked = False

    def __enter__(self) -> Stop:
        self.before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: whoever started us handles signals
                break
        return self

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def landing(done: int, steps: int, seconds: float, limit: float, recipe: Recipe) -> float:
    """The ceiling on the learning rate of a run that `limit` seconds will end before its steps do; infinite elsewhere.

    A run cut at full rate is left noisy, so its last 15 % of the time decay linearly, as the full schedule would have.
    """
    used = seconds / limit if limit else 0.0
    if used < 0.85 or done >= used * steps:
        return float("inf")
    return recipe.lr * max((1.0 - used) / 0.15, recipe.final_lr)


def fit(
    task: Task, recipe: Recipe, folder: Path, *, seed: int = 0, device: torch.device | str = "cpu", wandb: str = ""
) -> Trained:
    """Trains `task` by `recipe`, its log and checkpoints in `folder`; goes on where an earlier run of it was ended.

    The recipe's `max_minutes` count the training of all runs together. UserError when the folder's checkpoint is of
    another model, seed or data, or when the loss is no number any more.
    """
    import torch
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _fit(task, recipe, folder, seed, torch.device(device), wandb)
    except Timeout:
        raise UserError(
            f"another process is training {task.name} in {folder}; wait for it, or give another --out"
        ) from None


def _fit(task: Task, recipe: Recipe, folder: Path, seed: int, device: torch.device, wandb: str) -> Trained:
    import torch

    from launch.checkpoint import drop_previous, load_checkpoint, save_checkpoint
    from launch.engine import TorchEngine
    from launch.log import Log, NotFinite

    engine = TorchEngine(task.model, recipe, device)
    identity = {"seed": seed, **task.identity}
    state, complaint = load_checkpoint(folder)
    if complaint:
        print(complaint)
    done, minutes = 0, 0.0
    if state is not None:
        check_identity(task.name, identity, state["identity"], folder)
        for key, value in asdict(recipe).items():
            if (before := state["recipe"].get(key, value)) != value:
                print(f"{task.name}: {key} was {before}, is {value} from step {state['step']} on")
        engine.load_state_dict(state["engine"])
        done, minutes = state["step"], state["minutes"]
    limit = 60 * recipe.max_minutes
    if done >= recipe.steps or (limit and 60 * minutes >= limit):
        with engine.weights():
            task.save()
        more = "--steps" if done >= recipe.steps else "--max_minutes"
        print(f"{task.name}: was trained already, {done} steps in {minutes:.1f} minutes; more {more} train it further")
        return Trained(task.name, done, recipe.steps, minutes, "done" if done >= recipe.steps else "time")

    task.open()
    started = time.monotonic() - 60 * minutes

    def seconds() -> float:
        return time.monotonic() - started

    def save() -> None:
        if engine.rank == 0:
            where = {"step": done, "minutes": seconds() / 60, "identity": identity, "recipe": asdict(recipe)}
            save_checkpoint(folder, where | {"engine": engine.state_dict()})

    log = Log(folder, task.name, recipe.steps, done, wandb)
    model, mark, waited, ended = engine.model.train(), (done, seconds()), 0.0, "done"

    def write_line() -> None:
        nonlocal mark, waited
        took = max(seconds() - mark[1], 1e-9)
        rate = {f"{task.unit}_per_second": task.amount * (done - mark[0]) / took, "data_wait": min(waited / took, 1.0)}
        log.flush(rate | {"minutes": seconds() / 60})
        mark, waited = (done, seconds()), 0.0

    try:
        with Stop() as stop:
            for step, batch, wait in batches(task, done, recipe.steps, engine):
                waited += wait
                torch.manual_seed(fold(seed, step, engine.rank))
                with engine.autocast():
                    losses = task.loss(batch, step)
                moved = engine.step(losses, step, landing(done, recipe.steps, seconds(), limit, recipe))
                done = step + 1
                log.add(done, {**losses, **moved})
                out_of_time = bool(limit) and seconds() >= limit and done < recipe.steps
                ended = "stopped" if stop.asked and done < recipe.steps else "time" if out_of_time else "done"
                last = ended != "done" or done == recipe.steps
                if last or done % recipe.log_every == 0 or done % recipe.save_every == 0:
                    write_line()  # first the numbers, whose check also keeps bad weights out of the checkpoint
                if last or done % recipe.save_every == 0:
                    save()
                if last:
                    break
    except (NotFinite, FloatingPointError) as error:
        # The log names the step; the model, which may look first, does not.
        what = str(error) if isinstance(error, NotFinite) else f"{error}, at step {done + 1}"
        kept, _ = load_checkpoint(folder)
        then = f"the checkpoint of step {kept['step']} is kept" if kept else "there is no checkpoint yet"
        raise UserError(f"{task.name}: {what}; {then}; try a smaller --lr or --precision float32") from None
    finally:
        log.close()
    if ended != "stopped" and engine.rank == 0:
        model.eval()
        with engine.weights():
            task.save()
        drop_previous(folder)
    trained = Trained(task.name, done, recipe.steps, seconds() / 60, ended)
    print(trained)
    return trained


def check_identity(name: str, identity: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    """UserError when a checkpoint belongs to another training than the one asked for."""
    for key, value in identity.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{name} began with {key} {before[key]}, now it is {value}: go on with what it began with, give "
                f"another --out, or delete {folder} to start again"
            )
