"""Adversarial trainings of a spectral codec: further training of its decoder, or training of its second autoencoder.

The encoder and the codebooks of the first autoencoder are frozen, so existing codes stay valid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.model.folder import build_codec
from jukebox.model.recipe import Recipe
from launch.engines.phases import Phase
from launch.training.tasks.codec import CodecTask, SpectralTask
from launch.training.tasks.task import FIRST_WEIGHTS, TaskSetup, fold
from vqvae.spectral.adversary import AdversarialDecoder, AdversarialStack
from vqvae.spectral.config import LATENTS
from vqvae.spectral.model import SpectralCodec

DISCRIMINATOR = "discriminator"


class DecoderTask(SpectralTask):
    """Alternating training of decoder and discriminators on crops.

    If the recipe has no phase "discriminator", only the decoder is trained.
    """

    name, exported = "decoder", "codec."

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        kept = self.kept
        self.identity |= {f"codes of {kept}": setup.model.info.codes_hash(kept), "phase": self.name}

    @property
    def kept(self) -> str:
        """Name of the stream on which the training depends. The training does not change the codes of this stream."""
        return self.stream.name

    def build(self) -> AdversarialDecoder:
        codec: Any = self.jukebox.codec([self.stream.name])
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        return AdversarialDecoder(codec, DISCRIMINATOR in self.recipe.phases)

    def phases(self, recipe: Recipe) -> list[Phase]:
        decoder = Phase.of(recipe, self.name, self.learns)
        if DISCRIMINATOR not in recipe.phases:
            return [decoder]
        return [decoder, Phase.of(recipe, DISCRIMINATOR, self.model.discriminator)]

    @property
    def learns(self) -> torch.nn.Module:
        return self.codec.decoder

    def forward(self, batch: Float[Tensor, "b c t"], step: int) -> Any:
        return self.model(batch.to(self.device, non_blocking=True), self.drawn(batch.shape[-1], step))

    def phase_loss(self, phase: str, batch: Tensor, step: int, shared: Any) -> dict[str, Tensor]:
        return self.model.decoder_loss(shared) if phase == self.name else self.model.discriminator_loss(shared)

    @property
    def codec(self) -> SpectralCodec:
        return self.model.codec

    def save(self, model: Any) -> None:
        super().save(model.codec)

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        return super().examples(model.codec, folder, step)


class StackedTask(DecoderTask):
    """Training of the second autoencoder through both decoders. The first autoencoder is frozen."""

    name = "stacked"

    def build(self) -> AdversarialStack:
        first = self.jukebox.codec([LATENTS])
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        codec: Any = build_codec(self.config, [self.stream.name])
        codec.load_state_dict(first.state_dict(), strict=False)
        return AdversarialStack(codec, DISCRIMINATOR in self.recipe.phases)

    @property
    def kept(self) -> str:
        return LATENTS

    @property
    def learns(self) -> torch.nn.Module:
        return self.codec.second

    def save(self, model: Any) -> None:
        CodecTask.save(self, model.codec)
