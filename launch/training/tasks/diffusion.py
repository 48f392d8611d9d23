"""DiffusionTask: training of a latent diffusion prior on windows of encoded songs.

Each batch row has random angles (noise levels), noise, and a flag that drops the tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from launch.training.tasks.prior import PriorTask
from priors.diffusion.model import ALONE, ANGLES, DROPPED, NOISE, DiffusionPrior
from priors.diffusion.schedule import FULL
from priors.prior import Batch

STATISTICS = 16  # number of batches for the statistics of the latents


class DiffusionTask(PriorTask):
    model: DiffusionPrior

    def open(self) -> None:
        """Find the encoded songs, and measure the statistics of their latents unless a checkpoint has them."""
        super().open()
        if not self.model.fitted:
            some = [super(DiffusionTask, self).batch(step, 0, 1).sequences[self.stream] for step in range(STATISTICS)]
            self.model.fit(torch.cat(some))

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Add the random numbers of each row, which depend on its index in the global batch."""
        batch, config = super().batch(step, rank, world), self.model.config
        rows = len(batch.sequences[self.stream])
        rngs = [np.random.default_rng((self.seed, step, rank * rows + i, 3)) for i in range(rows)]
        drawn = {
            ANGLES: np.stack([FULL * rng.random(config.chunks, np.float32) for rng in rngs]),
            NOISE: np.stack([rng.standard_normal((config.window, config.latent), np.float32) for rng in rngs]),
            ALONE: np.array([rng.random() < DROPPED for rng in rngs]),
        }
        return replace(batch, sequences=batch.sequences | {name: torch.from_numpy(each) for name, each in drawn.items()})
