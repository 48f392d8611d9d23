"""GanTask: training of a latent GAN on windows of encoded songs, alternating generator and critic, with tempo and note density by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jukebox.model.recipe import Recipe
from launch.corpus.controls import measured_controls, note_density
from launch.engines.phases import Phase
from launch.training.tasks.prior import PriorTask
from launch.training.tasks.task import training_rows
from priors.gan.model import CRITIC, GENERATOR, NUMBERS, STARTS, GanPrior
from priors.prior import Batch


class GanTask(PriorTask):
    """The phases share the windows that are generated in a step."""

    model: GanPrior

    def open(self) -> None:
        """Finds the encoded songs, and measures missing tempos and note densities."""
        super().open()
        rows = {row.song: row for row in training_rows(self.data)}
        self.curves: dict[str, dict[str, Any]] = {}
        if not self.config.controls:  # type: ignore[attr-defined]
            return
        known = measured_controls(self.data, [rows[song] for song in self.songs], self.setup.cache)
        second = self.config.hop / self.config.sample_rate
        for song in self.songs:
            found, frames = known[rows[song].hash], self.codes.length(song, self.stream)
            tempo = np.full(frames, found["tempo"], np.float32)
            self.curves[song] = {"tempo": tempo, "density": note_density(found["onsets"], frames, second)}

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Add the random numbers of each row, which depend on its index in the global batch."""
        batch = super().batch(step, rank, world)
        rows, config = len(batch.sequences[self.stream]), self.model.config
        rngs = [np.random.default_rng((self.seed, step, rank * rows + i, 3)) for i in range(rows)]
        numbers = np.stack([rng.standard_normal(self.model.numbers, np.float32) for rng in rngs])
        starts = np.array([rng.integers(config.starts) for rng in rngs])
        drawn = {NUMBERS: torch.from_numpy(numbers), STARTS: torch.from_numpy(starts)}
        return replace(batch, sequences={**batch.sequences, **drawn})

    def _row(self, song: int, start: int, seed: Sequence[int]) -> tuple[dict[str, Tensor], Any]:
        """Add the controls of the window, each with dropout as for labels."""
        codes, cond = super()._row(song, start, seed)
        rng, controls = np.random.default_rng((*seed, 4)), {}
        for name in self.model.config.controls:
            values = self.curves[self.songs[song]][name][start : start + self.config.n_ctx]
            dropped = rng.random() < self.recipe.drop_labels
            controls[name] = torch.from_numpy(np.zeros_like(values) if dropped else values)[None]
        return codes, replace(cond, controls=controls)

    def phases(self, recipe: Recipe) -> list[Phase]:
        model = self.model
        parts = {GENERATOR: (model.generator, model.labels), CRITIC: (model.critic, model.critic_labels)}
        return [Phase.of(recipe, name, *(each for each in modules if each is not None)) for name, modules in parts.items()]

    def forward(self, batch: Batch, step: int) -> Tensor:
        return self.model.generated(batch.to(self.device))

    def phase_loss(self, phase: str, batch: Batch, step: int, shared: Tensor) -> dict[str, Tensor]:
        return self.model.loss(batch.to(self.device), phase, shared)
