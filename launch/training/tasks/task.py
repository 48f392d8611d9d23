"""Task: something to train. It names a model, its batches and its loss; the trainer knows nothing of audio or lyrics.

A task draws its batches from (seed, step) alone, and all noise of a row from (seed, step, row): rank r of w takes the r-th part of the
global batch, and the batch is the same for every w.
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

FIRST_WEIGHTS = 1 << 20  # stands where the noise of a step has its rank: no such rank exists


class Task(ABC):
    """Something to train. `name` is the name of its folder; checkpoints go on only where `identity` (numbers and texts) is the same.

    A step trains on `amount` of `unit`. Batches are made in a thread of their own; on a GPU their method `pin_memory` is called there,
    where they have one.
    """

    name: str
    model: Any  # a torch module
    identity: dict[str, Any]
    unit: str
    amount: float
    exported: str = ""  # the names of the tensors of the part that is trained begin so in the model
    old_identity: dict[str, Any] = {}  # further values that checkpoints of earlier versions have

    @abstractmethod
    def open(self) -> None:
        """Find the data, once there is something to do."""

    @abstractmethod
    def batch(self, step: int, rank: int, world: int) -> Any:
        """CPU tensors, a pure function of (seed, step): of `world` equal parts of the global batch, the one of that rank."""

    def share(self, parts: Sequence[Any]) -> list[Any]:
        """The parts of this rank with what only all ranks together know; all of them call it."""
        return list(parts)

    def phases(self, recipe: Recipe) -> list[Phase]:
        """What learns in turns, in this order; the module of the first phase is what the log's plain names are of."""
        return [Phase.of(recipe, "", self.model)]

    def forward(self, batch: Any, step: int) -> Any:
        """What the phases of a step share, computed once before them; the gradients of one phase may flow back through it.

        Of a batch in parts it is computed for all of them first: there it takes the memory of the whole batch.
        """
        return None

    def loss(self, batch: Any, step: int) -> dict[str, Tensor]:
        """The terms of the loss for the log, the total as "loss", each the mean over its part of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has neither a loss nor a phase_loss")

    def phase_loss(self, phase: str, batch: Any, step: int, shared: Any) -> dict[str, Tensor]:
        """The loss of one phase; `shared` is what `forward` returned."""
        return self.loss(batch, step)

    @abstractmethod
    def save(self, model: Any) -> None:
        """Write a model, which has the weights to keep, into the model folder."""

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Files that show what the model has learned (`launch/training/tasks/examples.py`)."""
        return []


@dataclass(frozen=True)
class TaskSetup:
    """What a training task is made from; `part` is the stream of a codec or the name of a prior, `config` that of the prior.

    What is derived of `data`, decoded audio and codes, is in `cache`, or (None) in `data` itself.
    """

    model: ModelFolder
    part: str
    data: Path
    recipe: Recipe
    seed: int
    device: str
    config: PriorConfig | None = None
    from_audio: bool = False
    hollow: bool = False  # weights of a prior that take no memory: in ZeRO 3 rank 0 has them, until they are cut up
    cache: Path | None = None


def fold(*numbers: int) -> int:
    """One 63-bit seed of a seed, a step, a rank .., so that neighbours share nothing."""
    padded = (*numbers, 0, 0)[: max(len(numbers), 3)]
    return int(np.random.SeedSequence(padded).generate_state(1, np.uint64)[0] >> np.uint64(1))


def part(rows: int, rank: int, world: int) -> slice:
    """The rows of a global batch that a rank takes; the ranks' shares joined in their order are the batch."""
    if rows % world:
        raise UserError(f"a batch of {rows} cannot be shared equally by {world} processes; give a multiple of {world}")
    return slice(rank * rows // world, (rank + 1) * rows // world)


def settings(config: Any, part: str) -> dict[str, Any]:
    """A part and its configuration as a checkpoint's identity: one plain value per setting."""
    plain = {f"setting {key}": json.dumps(value) for key, value in config.to_json().items()}
    return {"kind": config.kind, "part": part} | plain


def training_rows(data: Path) -> list[SongRow]:
    """The songs that may be trained on: those of the split "train"."""
    rows = [row for row in load_manifest(data) if row.split == "train"]
    if not rows:
        raise UserError(f"{data} has no songs of the split train; run `jukebox prepare MUSIC --out {data}` first")
    return rows
