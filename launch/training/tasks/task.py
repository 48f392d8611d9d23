"""Task: the interface of trainings. A task has a model, batches and a loss. The trainer does not depend on audio or lyrics.

A task samples each global batch from (seed, step) alone, and all noise of a batch row from (seed, step, row). Rank r of w takes
the r-th of w parts. So the global batch does not depend on the number of ranks.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data_prep.errors import UserError
from data_prep.manifest import SongRow, load_manifest
from jukebox.model.folder import ModelFolder
from jukebox.model.recipe import Recipe
from launch.engines.phases import Phase
from priors.spec import PriorConfig

FIRST_WEIGHTS = 1 << 20  # number in the place of the rank in seeds of initial weights; no rank has this number


class Task(ABC):
    """A training task.

    `name` is the name of the training folder. A checkpoint is resumed only by a task with the same `identity` (numbers and
    texts). A step trains on `amount` units of `unit`, such as seconds. Batches are created in separate threads. On a GPU these
    threads call the method `pin_memory` of a batch, if it has this method.
    """

    name: str
    model: Any  # a torch module
    identity: dict[str, Any]
    unit: str
    amount: float
    exported: str = ""  # prefix of the tensor names of the trained part in the model
    old_identity: dict[str, Any] = {}  # additional values in checkpoints of earlier versions

    @abstractmethod
    def open(self) -> None:
        """Open the data. The trainer calls this method only if there are steps to do."""

    @abstractmethod
    def batch(self, step: int, rank: int, world: int) -> Any:
        """Return part number `rank` of `world` equal parts of the global batch of `step`, as CPU tensors.

        The global batch is a pure function of (seed, step).
        """

    def share(self, parts: Sequence[Any]) -> list[Any]:
        """Return the parts of this rank with values that need communication between ranks. All ranks call this method."""
        return list(parts)

    def held_out(self) -> Task | None:
        """Return a task with batches of held-out songs, without condition dropout; None if there are no such songs.

        The trainer calls this method after `open`. The other task has the same model.
        """
        return None

    def phases(self, recipe: Recipe) -> list[Phase]:
        """Return the phases in order. In the log, the values of the first phase have no phase in their names."""
        return [Phase.of(recipe, "", self.model)]

    def forward(self, batch: Any, step: int) -> Any:
        """Compute values that all phases of a step share. Gradients may flow through these values.

        If a step has several phases, the values of all parts of a batch are computed first, which needs the memory of the whole
        batch.
        """
        return None

    def loss(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Return the total loss as "loss", and terms for the log by name. Each value is a mean over the part `batch`."""
        raise NotImplementedError(f"{type(self).__name__} has neither a loss nor a phase_loss")

    def phase_loss(self, phase: str, batch: Any, step: int, shared: Any) -> dict[str, Tensor]:
        """Return the loss of one phase, in the format of `loss`. `shared` is the result of `forward`."""
        return self.loss(batch, step)

    @abstractmethod
    def save(self, model: Any) -> None:
        """Write `model`, which has the final weights, into the model folder."""

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Write example files of the model (`launch/training/tasks/examples.py`), and return their paths."""
        return []


@dataclass(frozen=True)
class TaskSetup:
    """Arguments of a training task.

    `part` is the stream of a codec, or the name of a prior with configuration `config`. Data derived from the folder `data`
    (decoded audio, codes) are in `cache`, or if None, in `data`.
    """

    model: ModelFolder
    part: str
    data: Path
    recipe: Recipe
    seed: int
    device: str
    config: PriorConfig | None = None
    from_audio: bool = False
    hollow: bool = False  # True: weights are on the meta device, because in ZeRO 3 only rank 0 has weights before the sharding
    cache: Path | None = None


def fold(*numbers: int) -> int:
    """Combine numbers (a seed, a step, a rank ..) into a 63-bit seed. Different numbers lead to independent random values."""
    padded = (*numbers, 0, 0)[: max(len(numbers), 3)]
    return int(np.random.SeedSequence(padded).generate_state(1, np.uint64)[0] >> np.uint64(1))


def part(rows: int, rank: int, world: int) -> slice:
    """Return the rows of rank `rank` in a global batch of `rows` rows. The concatenated shares of all ranks are the batch.

    Raises UserError if the rows cannot be divided equally.
    """
    if rows % world:
        raise UserError(f"a batch of {rows} cannot be shared equally by {world} processes; give a multiple of {world}")
    return slice(rank * rows // world, (rank + 1) * rows // world)


def settings(config: Any, part: str) -> dict[str, Any]:
    """Return the identity of a part for checkpoints: kind, part, and one plain value per setting of the configuration."""
    plain = {f"setting {key}": json.dumps(value) for key, value in config.to_json().items()}
    return {"kind": config.kind, "part": part} | plain


def training_rows(data: Path) -> list[SongRow]:
    """Return the songs of the split "train"; raise UserError if there are none."""
    rows = [row for row in load_manifest(data) if row.split == "train"]
    if not rows:
        raise UserError(f"{data} has no songs of the split train; run `jukebox prepare MUSIC --out {data}` first")
    return rows
