"""GanTask: training of a latent GAN on windows of encoded songs, alternating generator and critic.

The GAN is conditioned on tempo and note density per frame.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jukebox.model.recipe import Recipe
from launch.engines.phases import Phase
from launch.training.tasks.prior import PriorTask
from priors.gan.model import CRITIC, GENERATOR, NUMBERS, STARTS, GanPrior
from priors.prior import Batch


class GanTask(PriorTask):
    """Training of a latent GAN. Generator and critic share the windows that are generated in a step."""

    model: GanPrior

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Add the random numbers of each row, which depend on its index in the global batch."""
        batch = super().batch(step, rank, world)
        rows, config = len(batch.sequences[self.stream]), self.model.config
        rngs = [np.random.default_rng((self.seed, step, rank * rows + i, 3)) for i in range(rows)]
        numbers = np.stack([rng.standard_normal(self.model.numbers, np.float32) for rng in rngs])
        starts = np.array([rng.integers(config.starts) for rng in rngs])
        drawn = {NUMBERS: torch.from_numpy(numbers), STARTS: torch.from_numpy(starts)}
        return replace(batch, sequences={**batch.sequences, **drawn})

    def phases(self, recipe: Recipe) -> list[Phase]:
        model = self.model
        parts = {GENERATOR: (model.generator, model.labels), CRITIC: (model.critic, model.critic_labels)}
        return [Phase.of(recipe, name, *(each for each in modules if each is not None)) for name, modules in parts.items()]

    def forward(self, batch: Batch, step: int) -> Tensor:
        return self.model.generated(batch.to(self.device))

    def phase_loss(self, phase: str, batch: Batch, step: int, shared: Tensor) -> dict[str, Tensor]:
        return self.model.loss(batch.to(self.device), phase, shared)
