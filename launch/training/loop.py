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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_prep.errors import UserError
from launch.cluster.heartbeat import beat, beat_while_writing

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from jukebox.model.presets import Recipe
    from launch.engines.checkpoint import Checkpoint
    from launch.engines.deepspeed_config import ParallelConfig
    from launch.engines.engine import Engine
    from launch.training.log import Log


COUNT_AFTER = 30.0  # seconds: only then are the operations of a step counted, which costs some seconds once


class Task(Protocol):
    """Something to train. `name` is its folder's name, `identity` (numbers and texts) what its checkpoints must share.

    `open` finds the data, once there is something to do; `batch` is a pure function of (seed, step) and makes CPU
    tensors, in a thread of its own: of `world` equal parts of the global batch, the one of that rank. For a GPU its method
    `pin_memory` is called there, where it has one. `loss` names the terms for the log, the total as "loss", each the mean over its
    part; `save` writes a model, which has the weights to keep, into the model folder. A step trains on `amount` of `unit`.

    A task may also have `share`, which adds to the parts of this rank what only all ranks together know (all of them call it);
    `examples` (launch/training/examples.py); and, for a model that learns in turns (generator, critic), `phases`: name -> the
    module that learns then; its `loss` takes the phase's name as third argument.
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
    def save(self, model: Any) -> None: ...


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
    import torch

    mine = range(engine.rank * engine.accumulate, (engine.rank + 1) * engine.accumulate)
    on_gpu, share = engine.device.type == "cuda", getattr(task, "share", list)

    def parts(step: int) -> list[Any]:
        made = [task.batch(step, number, engine.parts) for number in mine]
        return [part.pin_memory() if hasattr(part, "pin_memory") else part for part in made] if on_gpu else made

    # a thread begins on the first GPU, where pinning would open a context for every rank
    begin = partial(torch.cuda.set_device, engine.device) if on_gpu else None
    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="batches", initializer=begin) as pool:
        waiting = deque(pool.submit(parts, s) for s in range(start, min(start + ahead, stop)))
        try:
            for step in range(start, stop):
                beat("waiting for its batch", step)
                asked = time.perf_counter()
                made = waiting.popleft().result()
                waited = time.perf_counter() - asked
                if step + ahead < stop:
                    waiting.append(pool.submit(parts, step + ahead))
                yield step, list(zip(mine, share(made), strict=True)), waited
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


def schedule_step(done: int, steps: int, seconds: float, limit: float) -> int:
    """The step of the schedule: that of the run, or, where `limit` seconds will end it before its steps do, the time's share of them.

    A run cut at full rate is left noisy, and one cut before its quantiser begins has learned nothing of codes. The first 5 %
    of the time decide nothing: a run that will do its steps in time is the same on any machine.
    """
    used = seconds / limit if limit else 0.0
    return done if used < 0.05 else max(done, int(used * steps))


def rate_jump(before: Recipe, now: Recipe, step: int, seconds: float) -> str:
    """What to print where the rate of a continued training jumps because the recipe has changed; empty where it does not."""
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


class TrainingLoop:
    """One training: its engine, and how far it is.

    `done` counts steps; `seconds` is the training time on the slowest clock of all ranks, so that all of them end alike.
    """

    def __init__(
        self, task: Task, recipe: Recipe, folder: Path, seed: int, device: torch.device, parallel: ParallelConfig, keep: int
    ) -> None:
        from launch.engines.choose import open_engine

        self.task, self.recipe, self.folder, self.seed, self.device, self.keep = task, recipe, folder, seed, device, keep
        self.identity = {"seed": seed, **task.identity}
        self.limit = 60 * recipe.max_minutes  # seconds; 0: none
        self.done, self.seconds = 0, 0.0
        checkpoint = self._load()
        self.engine = open_engine(task.model, recipe, device, parallel, getattr(task, "phases", None), checkpoint)
        self.last_line = self.done, self.seconds
        self.waited = 0.0  # seconds for batches since the last line of the log
        self.flops = 0  # operations of a step; 0 until they are counted

    def _load(self) -> Checkpoint | None:
        """The newest checkpoint, from which the loop takes its step and time; prints what of the recipe has changed."""
        from launch.cluster.group import print_once
        from launch.engines.checkpoint import load_checkpoint

        checkpoint, complaint = load_checkpoint(self.folder)
        if complaint:
            print_once(complaint)
        if checkpoint is None:
            return None
        metadata, name = checkpoint.metadata, self.task.name
        old = getattr(self.task, "old_identity", {}) if "kind" not in metadata["identity"] else {}
        check_identity(name, self.identity | old, metadata["identity"], self.folder)
        for key, value in plain(asdict(self.recipe)).items():
            if (before := metadata["recipe"].get(key, value)) != value:
                print_once(f"{name}: {key} was {before}, is {value} from step {metadata['step']} on")
        self.done, self.seconds = metadata["step"], 60 * metadata["minutes"]
        known = {key: value for key, value in metadata["recipe"].items() if hasattr(self.recipe, key)}
        if jump := rate_jump(replace(self.recipe, **known), self.recipe, self.done, self.seconds):
            print_once(f"{name}: {jump}")
        return checkpoint

    def run(self, wandb: str, examples_every: int) -> Trained:
        """Trains until the steps, the time or the user end it; the weights are written unless the user does."""
        from launch.cluster.group import mean, print_once
        from launch.training.log import Log, NotFinite

        name, steps, enough = self.task.name, self.recipe.steps, self.done >= self.recipe.steps
        if enough or self._is_out_of_time:
            self._save_weights()
            minutes, more = self.seconds / 60, "--steps" if enough else "--max_minutes"
            print_once(f"{name}: was trained already, {self.done} steps in {minutes:.1f} minutes; more {more} train it further")
            return Trained(name, self.done, steps, minutes, "done" if enough else "time")
        beat("opening the data", self.done)
        self.task.open()
        started = time.monotonic() - self.seconds
        log = Log(self.folder, name, steps, self.done, wandb, self.engine.rank == 0, mean)
        self.engine.model.train()
        try:
            with Stop() as stop:
                ended = self._train(log, stop, started, examples_every)
        except (NotFinite, FloatingPointError) as error:
            raise self._not_finite(error) from None
        finally:
            log.close()
        if ended != "stopped":
            self._save_weights()
        trained = Trained(name, self.done, steps, self.seconds / 60, ended)
        print_once(trained)
        return trained

    @property
    def _is_out_of_time(self) -> bool:
        return bool(self.limit) and self.seconds >= self.limit

    def _train(self, log: Log, stop: Stop, started: float, examples_every: int) -> str:
        """Every step that is left, with the log, checkpoints and examples that are due after it; how the run ended."""
        recipe, ended, opened = self.recipe, "done", time.monotonic()
        for step, parts, wait in batches(self.task, self.done, recipe.steps, self.engine):
            self.waited += wait
            beat("learning", step)
            moved = self._learn(step, parts, count=not self.flops and time.monotonic() - opened >= COUNT_AFTER)
            self.done = step + 1
            log.add(self.done, moved)
            ended = self._agree(step, stop, started)
            last = ended != "done" or self.done == recipe.steps
            if last or self.done % recipe.log_every == 0 or self.done % recipe.save_every == 0:
                self._write_line(log)  # first the numbers, whose check also keeps bad weights out of the checkpoint
            if last or self.done % recipe.save_every == 0:
                self._save()
            if examples_every and (last or self.done % examples_every == 0):
                self._show(log)
            if last:
                break
        return ended

    def _learn(self, step: int, parts: Any, count: bool) -> dict[str, Any]:
        """One step of every phase; the terms of its loss by name. `count`: its operations are counted too."""
        if count:
            from launch.engines.speed import counted

            moved, self.flops = counted(lambda: self._learn(step, parts, count=False))
            return moved
        place, moved = schedule_step(self.done, self.recipe.steps, self.seconds, self.limit), {}
        for phase in self.engine.phases:
            of_phase = self.engine.step(
                lambda part, phase=phase: self._loss(part, step, place, phase), parts, step, place, phase
            )
            moved |= {f"{phase}_{name}" if moved else name: value for name, value in of_phase.items()}
        return moved

    def _loss(self, numbered: tuple[int, Any], step: int, place: int, phase: str) -> dict[str, Tensor]:
        import torch

        number, batch = numbered
        torch.manual_seed(fold(self.seed, step, number))
        return self.task.loss(batch, place, phase) if phase else self.task.loss(batch, place)  # type: ignore[call-arg]

    def _agree(self, step: int, stop: Stop, started: float) -> str:
        """How the run ends after this step ("stopped", "time"), or "done"; the same on all ranks."""
        from launch.cluster.group import largest

        beat("agreeing with the others", step)
        asked, self.seconds = largest(stop.asked, time.monotonic() - started)
        if self.done == self.recipe.steps:
            return "done"
        return "stopped" if asked else "time" if self._is_out_of_time else "done"

    def _write_line(self, log: Log) -> None:
        from launch.engines.speed import product_rate

        took, steps = max(self.seconds - self.last_line[1], 1e-9), self.done - self.last_line[0]
        rate = {f"{self.task.unit}_per_second": self.task.amount * steps / took, "data_wait": min(self.waited / took, 1.0)}
        rate |= {"skipped": self.engine.skipped, "minutes": self.seconds / 60}
        if self.flops:
            rate["share_of_peak"] = self.flops * steps / took / product_rate(self.device, self.engine.dtype)
        log.flush(rate, lambda line: noise_of(line, self.recipe.batch, self.engine.parts))
        self.last_line, self.waited = (self.done, self.seconds), 0.0

    def _save(self) -> None:
        from launch.engines.checkpoint import save_checkpoint

        where = {"name": self.task.name, "step": self.done, "minutes": self.seconds / 60}
        where |= {"identity": self.identity, "recipe": asdict(self.recipe)}
        tensors = self.engine.tensors()
        with beat_while_writing("writing a checkpoint"):
            if self.engine.rank == 0:
                save_checkpoint(self.folder, where | {"engine": self.engine.metadata()}, tensors, self.keep)
            else:
                deque(tensors, maxlen=0)  # all ranks take part in the gathering

    def _show(self, log: Log) -> None:
        """Examples of what the model has learned, written by rank 0."""
        from launch.cluster.group import first

        folder, task = self.folder / "examples", self.task
        self.engine.model.eval()
        with beat_while_writing("writing examples"), self.engine.weights() as model:
            files = first(lambda: [str(file) for file in task.examples(model, folder, self.done)])  # type: ignore[attr-defined]
        self.engine.model.train()
        log.show(self.done, files)

    def _save_weights(self) -> None:
        """Writes the weights of the last checkpoint into the model folder, by rank 0, tensor by tensor."""
        from launch.cluster.group import first
        from launch.engines.checkpoint import load_checkpoint

        def save() -> None:
            checkpoint, complaint = load_checkpoint(self.folder)
            if checkpoint is None or checkpoint.metadata["step"] != self.done:
                raise UserError(
                    f"the checkpoint of step {self.done} cannot be read ({complaint}); train on from the one before it"
                )
            self.task.save(self.engine.saved_model(checkpoint))

        self.engine.model.eval()
        with beat_while_writing("writing the weights"):
            first(save)

    def _not_finite(self, error: Exception) -> UserError:
        """The error for the user: where it arose, which checkpoint is kept, and what to try."""
        from launch.engines.checkpoint import load_checkpoint
        from launch.training.log import NotFinite

        # The log names the step; the model, which may find it first, does not.
        what = str(error) if isinstance(error, NotFinite) else f"{error}, at step {self.done + 1}"
        kept, _ = load_checkpoint(self.folder)
        then = f"the checkpoint of step {kept.metadata['step']} is kept" if kept else "there is no checkpoint yet"
        return UserError(f"{self.task.name}: {what}; {then}; try a smaller --lr or --precision float32")


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
        loop = TrainingLoop(task, recipe, folder, seed, torch.device(device), parallel or ParallelConfig(), keep)
        return loop.run(wandb, examples_every)
