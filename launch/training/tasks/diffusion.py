"""DiffusionTask: a latent diffusion prior on windows of encoded songs, with the angles, the noise and the dropped tokens of each row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from launch.training.tasks.prior import PriorTask
from priors.diffusion.model import ALONE, ANGLES, DROPPED, NOISE, DiffusionPrior
from priors.diffusion.schedule import FULL
from priors.prior import Batch

STATISTICS = 16  # batches on which latents are measured


class DiffusionTask(PriorTask):
    model: DiffusionPrior

    def open(self) -> None:
        """Finds the songs that are encoded, and measures their latents where no checkpoint has that."""
        super().open()
        if not self.model.fitted:
            some = [super(DiffusionTask, self).batch(step, 0, 1).sequences[self.stream] for step in range(STATISTICS)]
            self.model.fit(torch.cat(some))

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """With the random numbers of each row, which depend on its place in the batch of all ranks."""
        batch, config = super().batch(step, rank, world), self.model.config
        rows = len(batch.sequences[self.stream])
        rngs = [np.random.default_rng((self.seed, step, rank * rows + i, 3)) for i in range(rows)]
        drawn = {
            ANGLES: np.stack([FULL * rng.random(config.chunks, np.float32) for rng in rngs]),
            NOISE: np.stack([rng.standard_normal((config.window, config.latent), np.float32) for rng in rngs]),
            ALONE: np.array([rng.random() < DROPPED for rng in rngs]),
        }
        return replace(batch, sequences=batch.sequences | {name: torch.from_numpy(each) for name, each in drawn.items()})
