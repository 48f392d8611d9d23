"""DecoderTask: the adversarial second phase of a spectral codec's decoder; the codes of the codec, and the priors of them, stay valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.model.recipe import Recipe
from launch.engines.phases import Phase
from launch.training.tasks.codec import SpectralTask
from launch.training.tasks.task import FIRST_WEIGHTS, TaskSetup, fold
from vqvae.spectral.adversary import AdversarialDecoder
from vqvae.spectral.model import SpectralCodec

DECODER, DISCRIMINATOR = "decoder", "discriminator"


class DecoderTask(SpectralTask):
    """Discriminator and decoder in turns, on crops; without the phase "discriminator" in the recipe, the decoder alone."""

    name, exported = "decoder", "codec."

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self.identity |= {f"codes of {setup.part}": setup.model.info.codes_hash(setup.part), "phase": self.name}

    def build(self) -> AdversarialDecoder:
        codec: Any = self.jukebox.codec([self.stream.name])
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        return AdversarialDecoder(codec, DISCRIMINATOR in self.recipe.phases)

    def phases(self, recipe: Recipe) -> list[Phase]:
        decoder = Phase.of(recipe, DECODER, self.model.codec.decoder)
        if DISCRIMINATOR not in recipe.phases:
            return [decoder]
        return [decoder, Phase.of(recipe, DISCRIMINATOR, self.model.discriminator)]

    def forward(self, batch: Float[Tensor, "b c t"], step: int) -> Any:
        return self.model(batch.to(self.device, non_blocking=True), self.drawn(batch.shape[-1], step))

    def phase_loss(self, phase: str, batch: Tensor, step: int, shared: Any) -> dict[str, Tensor]:
        return self.model.decoder_loss(shared) if phase == DECODER else self.model.discriminator_loss(shared)

    @property
    def codec(self) -> SpectralCodec:
        return self.model.codec

    def save(self, model: Any) -> None:
        super().save(model.codec)

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        return super().examples(model.codec, folder, step)
