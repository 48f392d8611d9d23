"""The one training loop, for any codec and any prior.

1. A `Task` (`launch/training/tasks.py`) names a model, its batches and its loss; the loop knows nothing of audio or lyrics.
2. A batch, and all noise of a step, is a pure function of (seed, step): a killed run goes on exactly, by the same verb.
3. An engine (`launch/engines/engine.py`) updates the weights, in one process or in many; `launch/training/log.py` logs.
4. `MODEL/training/<task>/` keeps the log and the last checkpoints; at the end the weights are written into MODEL.
5. Where there are several ranks, all walk through this loop together: what decides about its course is agreed upon, rank 0
   writes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_prep.errors import UserError
from launch.cluster.heartbeat import beat

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jukebox.model.presets import Recipe
    from launch.engines.deepspeed_config import ParallelConfig
    from launch.engines.engine import Engine


COUNT_AFTER = 30.0  # seconds: only then are the operations of a step counted, which costs some seconds once


class Task(Protocol):
    """Something to train. `name` is its folder's name, `identity` (numbers and texts) what its checkpoints must share.

    `open` finds the data, once there is something to do; `batch` is a pure function of (seed, step) and makes CPU
    tensors, in a thread of its own: of `world` equal parts of the global batch, the one of that rank; `loss` names the terms for
    the log, the total as "loss", each the mean over its part; `save` writes the weights into the model folder. A step trains on
    `amount` of `unit`. A task may also have `examples` (launch/training/examples.py), and, for a model that learns in turns
    (generator, critic), `phases`: name -> the module that learns then; its `loss` takes the phase's name as third argument.
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
    """(step, this rank's parts of the batch, seconds waited) for start <= step < stop; some are made while the model computes.

    The ranks' parts in the order of their numbers are the global batch, whatever the number of ranks and of parts a rank.
    """
    mine = range(engine.rank * engine.accumulate, (engine.rank + 1) * engine.accumulate)

    def parts(step: int) -> list[tuple[int, Any]]:
        return [(number, task.batch(step, number, engine.parts)) for number in mine]

    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="batches") as pool:
        waiting = deque(pool.submit(parts, s) for s in range(start, min(start + ahead, stop)))
        try:
            for step in range(start, stop):
                beat("waiting for its batch", step)
                asked = time.perf_counter()
                batch = waiting.popleft().result()
                waited = time.perf_counter() - asked
                if step + ahead < stop:
                    waiting.append(pool.submit(parts, step + ahead))
                yield step, batch, waited
        finally:
            pool.shutdown(cancel_futures=True)


class Stop:
    """While open, Ctrl-C and SIGTERM end the run after the current step; the same a second time ends it at once.

    A scheduler that takes a job away sends SIGTERM to every process, and `jukebox launch` asks by SIGINT: that is one wish.
    """

    def __enter__(self) -> Stop:
        self.asked, self.received = False, set[int]()
        self.before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: whoever started us handles signals
                break
        return self

    def _ask(self, number: int, frame: object) -> None:
        if number in self.received:
            raise KeyboardInterrupt
        self.asked, self.received = True, self.received | {number}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def deadline_lr_cap(done: int, steps: int, seconds: float, limit: float, recipe: Recipe) -> float:
    """The ceiling on the learning rate of a run that `limit` seconds will end before its steps do; infinite elsewhere.

    A run cut at full rate is left noisy, so its last 15 % of the time decay linearly, as the full schedule would have.
    """
    used = seconds / limit if limit else 0.0
    if used < 0.85 or done >= used * steps:
        return float("inf")
    return recipe.lr * max((1.0 - used) / 0.15, recipe.final_lr)


def fit(
    task: Task, recipe: Recipe, folder: Path, *, seed: int = 0, device: torch.device | str = "cpu", wandb: str = "",
    parallel: ParallelConfig | None = None, keep: int = 2, examples_every: int = 0,
) -> Trained:  # fmt: skip
    """Trains `task` by `recipe`, its log and the last `keep` checkpoints in `folder`; goes on where an earlier run of it was ended.

    Every `examples_every` steps (0: never) it leaves sound and pictures in `folder`/examples (`launch/training/examples.py`).

    Several ranks (`launch/cluster/group.py`) train one model together, as `parallel` says. The recipe's `max_minutes` count the
    training of all runs together. UserError when the folder's checkpoint is of another model, seed or data, or when the
    loss is no number any more.
    """
    import torch

    from launch.engines.deepspeed_config import ParallelConfig

    with locked(folder, task.name):
        return _fit(task, recipe, folder, seed, torch.device(device), wandb, parallel or ParallelConfig(), keep, examples_every)


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Holds the folder of a training, by rank 0 for all ranks; UserError where another training holds it."""
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


def _fit(
    task: Task, recipe: Recipe, folder: Path, seed: int, device: torch.device, wandb: str, parallel: ParallelConfig, keep: int,
    examples_every: int,
) -> Trained:  # fmt: skip
    import torch

    from launch.cluster.group import first, largest, mean, print_once
    from launch.engines.checkpoint import load_checkpoint, save_checkpoint
    from launch.engines.choose import open_engine
    from launch.engines.speed import counted, product_rate
    from launch.training.log import Log, NotFinite

    identity = {"seed": seed, **task.identity}
    checkpoint, complaint = load_checkpoint(folder)
    if complaint:
        print_once(complaint)
    done, minutes = 0, 0.0
    if checkpoint is not None:
        metadata = checkpoint.metadata
        before = metadata["identity"]
        old = getattr(task, "old_identity", {}) if "kind" not in before else {}
        check_identity(task.name, identity | old, before, folder)
        for key, value in plain(asdict(recipe)).items():
            if (before := metadata["recipe"].get(key, value)) != value:
                print_once(f"{task.name}: {key} was {before}, is {value} from step {metadata['step']} on")
        done, minutes = metadata["step"], metadata["minutes"]
    engine = open_engine(task.model, recipe, device, parallel, getattr(task, "phases", None), checkpoint)
    limit = 60 * recipe.max_minutes

    def save_weights() -> None:
        beat("writing the weights")
        engine.model.eval()
        with engine.weights():
            first(task.save)

    if done >= recipe.steps or (limit and 60 * minutes >= limit):
        save_weights()
        more = "--steps" if done >= recipe.steps else "--max_minutes"
        print_once(f"{task.name}: was trained already, {done} steps in {minutes:.1f} minutes; more {more} train it further")
        return Trained(task.name, done, recipe.steps, minutes, "done" if done >= recipe.steps else "time")

    beat("opening the data", done)
    task.open()
    started = time.monotonic() - 60 * minutes
    seconds = 60 * minutes  # on the slowest clock of all ranks, so that all of them land alike

    def save() -> None:
        beat("writing a checkpoint")
        where = {"name": task.name, "step": done, "minutes": seconds / 60, "identity": identity, "recipe": asdict(recipe)}
        tensors = engine.tensors()
        if engine.rank == 0:
            save_checkpoint(folder, where | {"engine": engine.metadata()}, tensors, keep)
        else:
            deque(tensors, maxlen=0)  # the gathering is everybody's

    def show() -> None:
        beat("writing examples")
        engine.model.eval()
        with engine.weights() as model:
            files = first(lambda: [str(file) for file in task.examples(model, folder / "examples", done)])  # type: ignore[attr-defined]
        engine.model.train()
        log.show(done, files)

    def loss(numbered: tuple[int, Any], step: int, phase: str) -> dict[str, Tensor]:
        number, batch = numbered
        torch.manual_seed(fold(seed, step, number))
        return task.loss(batch, step, phase) if phase else task.loss(batch, step)  # type: ignore[call-arg]

    def learn(step: int, parts: Any) -> dict[str, Any]:
        ceiling, moved = deadline_lr_cap(done, recipe.steps, seconds, limit, recipe), {}
        for phase in engine.phases:
            of_phase = engine.step(lambda part, phase=phase: loss(part, step, phase), parts, step, ceiling, phase)
            moved |= {f"{phase}_{name}" if moved else name: value for name, value in of_phase.items()}
        return moved

    log = Log(folder, task.name, recipe.steps, done, wandb, engine.rank == 0, mean)
    engine.model.train()
    mark, waited, ended = (done, seconds), 0.0, "done"
    flops, opened = 0, time.monotonic()

    def write_line() -> None:
        nonlocal mark, waited
        took, steps = max(seconds - mark[1], 1e-9), done - mark[0]
        rate = {f"{task.unit}_per_second": task.amount * steps / took, "data_wait": min(waited / took, 1.0)}
        rate |= {"skipped": engine.skipped, "minutes": seconds / 60}
        if flops:
            rate["share_of_peak"] = flops * steps / took / product_rate(device, engine.dtype)
        log.flush(rate, lambda line: noise_of(line, recipe.batch, engine.parts))
        mark, waited = (done, seconds), 0.0

    try:
        with Stop() as stop:
            for step, parts, wait in batches(task, done, recipe.steps, engine):
                waited += wait
                beat("learning", step)
                if flops or time.monotonic() - opened < COUNT_AFTER:
                    moved = learn(step, parts)
                else:
                    moved, flops = counted(lambda step=step, parts=parts: learn(step, parts))
                done = step + 1
                log.add(done, moved)
                beat("agreeing with the others", step)
                asked, seconds = largest(stop.asked, time.monotonic() - started)
                out_of_time = bool(limit) and seconds >= limit and done < recipe.steps
                ended = "stopped" if asked and done < recipe.steps else "time" if out_of_time else "done"
                last = ended != "done" or done == recipe.steps
                if last or done % recipe.log_every == 0 or done % recipe.save_every == 0:
                    write_line()  # first the numbers, whose check also keeps bad weights out of the checkpoint
                if last or done % recipe.save_every == 0:
                    save()
                if examples_every and (last or done % examples_every == 0):
                    show()
                if last:
                    break
    except (NotFinite, FloatingPointError) as error:
        # The log names the step; the model, which may look first, does not.
        what = str(error) if isinstance(error, NotFinite) else f"{error}, at step {done + 1}"
        kept, _ = load_checkpoint(folder)
        then = f"the checkpoint of step {kept.metadata['step']} is kept" if kept else "there is no checkpoint yet"
        raise UserError(f"{task.name}: {what}; {then}; try a smaller --lr or --precision float32") from None
    finally:
        log.close()
    if ended != "stopped":
        save_weights()
    trained = Trained(task.name, done, recipe.steps, seconds / 60, ended)
    print_once(trained)
    return trained


def noise_of(line: dict[str, float], batch: int, parts: int) -> dict[str, float]:
    """The gradient's noise scale, in rows, of a line of the log; nothing where the parts of a batch do not tell it."""
    from launch.engines.gradients import noise_scale

    if "gradient_square_of_parts" not in line:
        return {}
    scale = noise_scale(line["gradient_square_of_parts"], line["gradient_square"], batch, parts)
    return {"noise_scale": scale} if scale == scale else {}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they come back from json."""
    return json.loads(json.dumps(values))


def check_identity(name: str, identity: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    """UserError when a checkpoint belongs to another training than the one asked for."""
    for key, value in identity.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{name} began with {key} {before[key]}, now it is {value}: go on with what it began with, give "
                f"another --out, or delete {folder} to start again"
            )
