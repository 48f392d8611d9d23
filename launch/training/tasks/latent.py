"""LatentTask: training of a latent codec on crops of the training songs, alternating autoencoder and discriminators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.model.folder import build_codec
from jukebox.model.recipe import Recipe
from launch.cluster.group import who
from launch.engines.phases import Phase
from launch.training.tasks.codec import CodecTask
from launch.training.tasks.decoder import DISCRIMINATOR
from launch.training.tasks.task import FIRST_WEIGHTS, fold, part
from vqvae.latent.adversary import AdversarialAutoencoder, DecodedAudio
from vqvae.spectral.losses import SCALES

AUTOENCODER = "autoencoder"


class LatentTask(CodecTask):
    """Training of a latent codec. If the recipe has no phase "discriminator", only the autoencoder is trained."""

    name, exported = "latent", "codec."

    @property
    def shortest(self) -> int:
        return max(SCALES) // 2

    def build(self) -> AdversarialAutoencoder:
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        codec: Any = build_codec(self.config)
        return AdversarialAutoencoder(codec, DISCRIMINATOR in self.recipe.phases)

    def phases(self, recipe: Recipe) -> list[Phase]:
        autoencoder = Phase.of(recipe, AUTOENCODER, self.model.codec)
        if DISCRIMINATOR not in recipe.phases:
            return [autoencoder]
        return [autoencoder, Phase.of(recipe, DISCRIMINATOR, self.model.discriminator)]

    def forward(self, batch: Float[Tensor, "b c t"], step: int) -> DecodedAudio:
        """Encode and decode a part of a batch. The noise of a row depends on its index in the global batch."""
        generator, rows = torch.Generator().manual_seed(fold(self.seed, step)), self.recipe.batch
        noise = torch.randn(rows, batch.shape[-1] // self.stream.hop, self.stream.width, generator=generator)
        return self.model(batch.to(self.device, non_blocking=True), noise[part(rows, *who())].to(self.device))

    def phase_loss(self, phase: str, batch: Tensor, step: int, shared: Any) -> dict[str, Tensor]:
        return self.model.autoencoder_loss(shared) if phase == AUTOENCODER else self.model.discriminator_loss(shared)

    def save(self, model: Any) -> None:
        super().save(model.codec)

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        return super().examples(model.codec, folder, step)
