"""Task: the interface of trainings: a model, its batches and its loss; the trainer does not depend on audio or lyrics.

A task samples its batches from (seed, step) alone, and all noise of a row from (seed, step, row): rank r of w takes the r-th
part of the global batch, and the batch is the same for every w.
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

FIRST_WEIGHTS = 1 << 20  # used in place of the rank in the noise of a step: no such rank exists


class Task(ABC):
    """A training task.

    `name` is the name of its folder; a checkpoint is resumed only with the same `identity` (numbers and texts).

    A step trains on `amount` of `unit`. Batches are created in a separate thread; on a GPU their method `pin_memory`, if any,
    is called there.
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
        """Find the data, if there are steps to do."""

    @abstractmethod
    def batch(self, step: int, rank: int, world: int) -> Any:
        """CPU tensors, a pure function of (seed, step): the part of that rank of `world` equal parts of the global batch."""

    def share(self, parts: Sequence[Any]) -> list[Any]:
        """Add values that need all ranks to the parts of this rank; all ranks call it."""
        return list(parts)

    def phases(self, recipe: Recipe) -> list[Phase]:
        """The phases in order; names in the log without a phase refer to the first one."""
        return [Phase.of(recipe, "", self.model)]

    def forward(self, batch: Any, step: int) -> Any:
        """Values that the phases of a step share, computed once before them; gradients of one phase may flow through them.

        For a batch in parts they are computed for all parts first, which needs the memory of the whole batch.
        """
        return None

    def loss(self, batch: Any, step: int) -> dict[str, Tensor]:
        """The terms of the loss for the log, the total as "loss", each the mean over its part of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has neither a loss nor a phase_loss")

    def phase_loss(self, phase: str, batch: Any, step: int, shared: Any) -> dict[str, Tensor]:
        """The loss of one phase; `shared` is the result of `forward`."""
        return self.loss(batch, step)

    @abstractmethod
    def save(self, model: Any) -> None:
        """Write a model with the final weights into the model folder."""

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Write example files of the model (`launch/training/tasks/examples.py`)."""
        return []


@dataclass(frozen=True)
class TaskSetup:
    """Arguments of a training task; `part` is the stream of a codec or the name of a prior, `config` that of the prior.

    Data derived from `data` (decoded audio, codes) are in `cache`, or (None) in `data`.
    """

    model: ModelFolder
    part: str
    data: Path
    recipe: Recipe
    seed: int
    device: str
    config: PriorConfig | None = None
    from_audio: bool = False
    hollow: bool = False  # weights of a prior on the meta device: in ZeRO 3 rank 0 has them until they are sharded
    cache: Path | None = None


def fold(*numbers: int) -> int:
    """A 63-bit seed from a seed, a step, a rank .., so that random numbers are independent."""
    padded = (*numbers, 0, 0)[: max(len(numbers), 3)]
    return int(np.random.SeedSequence(padded).generate_state(1, np.uint64)[0] >> np.uint64(1))


def part(rows: int, rank: int, world: int) -> slice:
    """The rows of a global batch for a rank; the concatenated shares of the ranks are the batch."""
    if rows % world:
        raise UserError(f"a batch of {rows} cannot be shared equally by {world} processes; give a multiple of {world}")
    return slice(rank * rows // world, (rank + 1) * rows // world)


def settings(config: Any, part: str) -> dict[str, Any]:
    """The identity of a part and its configuration in a checkpoint: one plain value per setting."""
    plain = {f"setting {key}": json.dumps(value) for key, value in config.to_json().items()}
    return {"kind": config.kind, "part": part} | plain


def training_rows(data: Path) -> list[SongRow]:
    """The training songs: those of the split "train"."""
    rows = [row for row in load_manifest(data) if row.split == "train"]
    if not rows:
        raise UserError(f"{data} has no songs of the split train; run `jukebox prepare MUSIC --out {data}` first")
    return rows
