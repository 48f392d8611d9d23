"""Trainer: the training loop of all codecs and priors.

1. A `Task` (`launch/training/tasks/task.py`) provides a model, batches, a loss, and phases that train different modules
  alternately.
2. Batches and random numbers are pure functions of (seed, step). So the same command resumes a killed run exactly.
3. An engine (`launch/engines/engine.py`) updates the weights in one process or in many. `launch/training/log.py` logs.
4. `MODEL/training/<task>/` holds the log and the last checkpoints. At the end the weights are written into MODEL.
5. Several ranks run this loop together. They decide together when to stop, and rank 0 writes files.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError, keeping
from launch.cluster.heartbeat import beat, beat_while_writing
from launch.training.batches import batches
from launch.training.control import Stop, locked, rate_jump, schedule_step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jukebox.model.recipe import Recipe
    from launch.engines.checkpoint import Checkpoint
    from launch.engines.deepspeed_config import ParallelConfig
    from launch.training.log import Log
    from launch.training.tasks.task import Task


HELD_OUT = 4  # batches of held-out songs per measurement
HELD_OUT_SEED = 1 << 21  # in the place of the step in the seeds of these batches
OVERFIT = 1.01  # least ratio of the last held-out loss to the lowest for a line about overfitting
COUNT_AFTER = 30.0  # seconds of training before the operations of a step are counted once: counting takes some seconds


@dataclass(frozen=True)
class Trained:
    """The end of a run: `ended` is "done", "time" (time limit) or "stopped" (by the user).

    The run has done `step` of `steps` steps. `minutes` is the training time of all runs of the part together.
    """

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


def noise_of(line: dict[str, float], batch: int, parts: int) -> dict[str, float]:
    """Return the noise scale of the gradient, in batch rows, for a line of the log; empty if the batch has a single part."""
    from launch.engines.gradients import noise_scale

    if "gradient_square_of_parts" not in line:
        return {}
    scale = noise_scale(line["gradient_square_of_parts"], line["gradient_square"], batch, parts)
    return {"noise_scale": scale} if scale == scale else {}


def overfitting(lines: Sequence[dict[str, float]]) -> str:
    """Return a sentence if held-out songs had a lower loss earlier in the log of a training, else an empty text."""
    names = ("held_out_bits", "held_out_loss")
    found = [(line[name], line["step"], name) for line in lines for name in names if name in line]
    if not found or found[-1][0] <= OVERFIT * min(found)[0]:
        return ""
    (last, _, name), (lowest, step, _) = found[-1], min(found)
    return (
        f"{name} is {last:.4g}, and was {lowest:.4g} after {step:.0f} steps: it overfits; train with fewer --steps, or on more "
        "songs (`jukebox encode --semitones -2,2` makes more of them)"
    )


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` after a round trip through JSON."""
    return json.loads(json.dumps(values))


def check_identity(name: str, identity: dict[str, Any], before: dict[str, Any], folder: Path) -> None:
    """Raise UserError if the identity `before` of a checkpoint differs from the `identity` of this training."""
    for key, value in identity.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{name} began with {key} {before[key]}, now it is {value}: go on with what it began with, give "
                f"another --out, or delete {folder} to start again"
            )


class Trainer:
    """The training of one task: engine and progress.

    `done` is the number of finished steps. `seconds` is the largest training time over ranks, so that all ranks stop together.
    """

    def __init__(
        self, task: Task, recipe: Recipe, folder: Path, seed: int, device: torch.device, parallel: ParallelConfig, keep: int
    ) -> None:
        from launch.engines.choose import open_engine

        self.task, self.recipe, self.folder, self.seed, self.device, self.keep = task, recipe, folder, seed, device, keep
        self.identity = {"seed": seed, **task.identity}
        self.limit = 60 * recipe.max_minutes  # seconds; 0: none
        self.done, self.seconds = 0, 0.0
        self.held_out: Task | None = None
        checkpoint = self._load()
        self.engine = open_engine(task.model, recipe, device, parallel, task.phases(recipe), checkpoint)
        self.last_line = self.done, self.seconds
        self.waited = 0.0  # seconds for batches since the last line of the log
        self.flops = 0  # operations of a step; 0 until they are counted

    def _load(self) -> Checkpoint | None:
        """Load the newest checkpoint, and set `done` and `seconds` from it. Print the changes of the recipe.

        Returns None if there is no checkpoint.
        """
        from launch.cluster.group import print_once
        from launch.engines.checkpoint import load_checkpoint

        checkpoint, complaint = load_checkpoint(self.folder)
        if complaint:
            print_once(complaint)
        if checkpoint is None:
            return None
        metadata, name = checkpoint.metadata, self.task.name
        old = self.task.old_identity if "kind" not in metadata["identity"] else {}
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
        """Train until all steps are done, the time limit is reached, or the user stops the run.

        Unless the user stops the run, the weights are written into the model folder.
        """
        from launch.cluster.group import mean, print_once
        from launch.training.log import Log, NotFinite, read_log

        name, steps, enough = self.task.name, self.recipe.steps, self.done >= self.recipe.steps
        if enough or self._is_out_of_time:
            self._save_weights()
            minutes, more = self.seconds / 60, "--steps" if enough else "--max_minutes"
            print_once(f"{name}: was trained already, {self.done} steps in {minutes:.1f} minutes; more {more} train it further")
            return Trained(name, self.done, steps, minutes, "done" if enough else "time")
        beat("opening the data", self.done)
        self.task.open()
        self.held_out = self.task.held_out() if len(self.engine.phases) == 1 else None
        started = time.monotonic() - self.seconds
        left = self.limit - self.seconds if self.limit else 0.0
        log = Log(self.folder, name, steps, self.done, wandb, self.engine.rank == 0, mean, left)
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
        if ended != "stopped" and (found := overfitting(read_log(log.path))):
            print_once(f"{name}: {found}")
        return trained

    @property
    def _is_out_of_time(self) -> bool:
        return bool(self.limit) and self.seconds >= self.limit

    def _train(self, log: Log, stop: Stop, started: float, examples_every: int) -> str:
        """Run the remaining steps, and write log lines, checkpoints and examples when they are due.

        Returns how the run ended ("done", "time" or "stopped").
        """
        recipe, ended, opened = self.recipe, "done", time.monotonic()
        for step, parts, wait in batches(self.task, self.done, recipe.steps, self.engine):
            self.waited += wait
            beat("learning", step)
            moved = self._learn(step, parts, count=not self.flops and time.monotonic() - opened >= COUNT_AFTER)
            self.done = step + 1
            ended = self._agree(step, stop, started)
            last = ended != "done" or self.done == recipe.steps
            saves = last or self.done % recipe.save_every == 0
            log.add(self.done, moved | (self._measure_held_out() if saves else {}))
            if saves or self.done % recipe.log_every == 0:
                self._write_line(log)  # before the checkpoint: the log raises for values that are not finite
            if saves:
                self._save()
            if examples_every and (last or self.done % examples_every == 0):
                self._show(log)
            if last:
                break
        return ended

    def _learn(self, step: int, parts: Any, count: bool) -> dict[str, Any]:
        """Run a step of every phase that learns in `step`. Return the logged values by name.

        With `count` the floating-point operations of the step are counted into `flops`.
        """
        if count:
            from launch.engines.speed import counted

            moved, self.flops = counted(lambda: self._learn(step, parts, count=False))
            return moved
        place, moved = schedule_step(self.done, self.recipe.steps, self.seconds, self.limit), {}
        phases = [phase for phase in self.engine.phases.values() if phase.learns(step, place)]
        if len(phases) > 1:  # forward passes come before the update of any phase
            parts = [(number, batch, self._forward(number, batch, step, place)) for number, batch in parts]
        else:
            parts = [(number, batch, None) for number, batch in parts]
        for phase in phases:
            of_phase = self.engine.step(
                lambda part, name=phase.name: self._loss(part, step, place, name), parts, step, place, phase.name
            )
            first = phase.name == next(iter(self.engine.phases))
            moved |= {name if first else f"{phase.name}_{name}": value for name, value in of_phase.items()}
        return moved

    def _measure_held_out(self) -> dict[str, Tensor]:
        """Return the mean bits (else the loss) of windows of held-out songs, the same every time; empty if there are none."""
        import torch

        from launch.training.tasks.task import fold

        if self.held_out is None:
            return {}
        beat("measuring held-out songs", self.done)
        first, losses = self.engine.rank * self.engine.accumulate, []
        self.engine.model.eval()
        with torch.no_grad(), self.engine.autocast():
            for turn in range(HELD_OUT):
                numbers = range(first, first + self.engine.accumulate)
                parts = [self.held_out.batch(turn, number, self.engine.parts) for number in numbers]
                for number, batch in zip(numbers, self.held_out.share(parts), strict=True):
                    torch.manual_seed(fold(self.seed, HELD_OUT_SEED + turn, number))
                    losses.append(self.held_out.loss(batch, self.done))
        self.engine.model.train()
        name = "bits" if "bits" in losses[0] else "loss"
        return {f"held_out_{name}": torch.stack([each[name] for each in losses]).mean()}

    def _forward(self, number: int, batch: Any, step: int, place: int) -> Any:
        """Compute the values that the phases of a step share, for one part of the batch."""
        import torch

        from launch.training.tasks.task import fold

        torch.manual_seed(fold(self.seed, step, number))
        with self.engine.autocast():
            return self.task.forward(batch, place)

    def _loss(self, part: tuple[int, Any, Any], step: int, place: int, phase: str) -> dict[str, Tensor]:
        import torch

        from launch.training.tasks.task import fold

        number, batch, shared = part
        if shared is None:
            shared = self._forward(number, batch, step, place)
        if phase:
            torch.manual_seed(fold(self.seed, step, number, zlib.crc32(phase.encode())))
        return self.task.phase_loss(phase, batch, place, shared)

    def _agree(self, step: int, stop: Stop, started: float) -> str:
        """Return the reason to end after this step. All ranks return the same reason.

        "stopped": the user interrupted a rank. "time": the time limit is reached. "done": all steps are done, or there is no reason
        to end.
        """
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
        where |= {"identity": self.identity, "recipe": asdict(self.recipe), "exported": self.task.exported}
        tensors = self.engine.tensors()
        with beat_while_writing("writing a checkpoint"):
            if self.engine.rank == 0:
                save_checkpoint(self.folder, where | {"engine": self.engine.metadata()}, tensors, self.keep)
            else:
                deque(tensors, maxlen=0)  # consume the iterator, because all ranks take part in the gathering

    def _show(self, log: Log) -> None:
        """Write examples of the model on rank 0."""
        from launch.cluster.group import first

        folder, task = self.folder / "examples", self.task
        self.engine.model.eval()
        with beat_while_writing("writing examples"), self.engine.weights() as model:
            files = first(lambda: [str(file) for file in task.examples(model, folder, self.done)])
        self.engine.model.train()
        log.show(self.done, files)

    def _save_weights(self) -> None:
        """Write the weights of the last checkpoint into the model folder, on rank 0, tensor by tensor."""
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
        """Return the error for the user, with the step, the kept checkpoint and advice."""
        from launch.engines.checkpoint import load_checkpoint
        from launch.training.log import NotFinite

        # An error of the log names the step; an error of the model does not.
        what = str(error) if isinstance(error, NotFinite) else f"{error}, at step {self.done + 1}"
        kept, _ = load_checkpoint(self.folder)
        then = f"the checkpoint of step {kept.metadata['step']} is kept" if kept else "there is no checkpoint yet"
        return UserError(f"{self.task.name}: {what}; {then}; try a smaller --lr or --precision float32")


def fit(
    task: Task, recipe: Recipe, folder: Path, *, seed: int = 0, device: torch.device | str = "cpu", wandb: str = "",
    parallel: ParallelConfig | None = None, keep: int = 2, examples_every: int = 0,
) -> Trained:  # fmt: skip
    """Train `task` by `recipe`, or resume its training. `folder` holds the log and the last `keep` checkpoints.

    Every `examples_every` steps (0: never) audio and pictures are written into `folder`/examples
    (`launch/training/tasks/examples.py`). Several ranks (`launch/cluster/group.py`) train one model together, as specified by
    `parallel`. `max_minutes` of the recipe limits the time of all runs together. Raises UserError if the checkpoint belongs to
    another model, seed or data, or if the loss is not finite.
    """
    import torch

    from launch.engines.checkpoint import written
    from launch.engines.deepspeed_config import ParallelConfig

    kept = f"{folder} keeps the last checkpoint: the same command goes on from it"
    with keeping(kept, lambda: written(folder)), locked(folder, task.name):
        trainer = Trainer(task, recipe, folder, seed, torch.device(device), parallel or ParallelConfig(), keep)
        return trainer.run(wandb, examples_every)
