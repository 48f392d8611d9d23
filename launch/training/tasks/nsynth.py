"""NSynthTask: joint training of an encoder of latents and the WaveNet that decodes the latents, on crops of training songs.

The codec (the encoder) and the prior (the WaveNet) are written into the model folder together. The prior can be trained further
alone, like any prior.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from jukebox.model.folder import build_prior
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from launch.training.tasks.codec import CodecTask
from launch.training.tasks.examples import nothing_known
from launch.training.tasks.task import TaskSetup, fold, settings
from priors.conditioning.conditions import Conditions
from priors.noise import Generators
from priors.prior import Batch, Prior, Window, sample_window
from priors.registry import PRIOR_PARAMS
from priors.spec import PriorConfig
from vqvae.codec import Codec


def decoder_of(info: ModelInfo, stream: str) -> tuple[str, PriorConfig]:
    """Return name and configuration of the prior that decodes `stream`, from the presets of the model.

    Raises UserError if no preset has such a prior.
    """
    for preset in map(find, info.presets):
        for name, config in preset.priors.items():
            if config.spec.reads == (stream,):
                return name, config
    raise UserError(f"no preset of {info.folder} has a prior that decodes {stream}; train it with --preset nsynth")


class JointAutoencoder(nn.Module):
    """An encoder of latents, a prior over samples that reads the latents, and the codec of the samples (not trained)."""

    def __init__(self, codec: Any, decoder: Prior, samples: Codec) -> None:
        super().__init__()
        self.codec, self.decoder = codec, decoder
        self.targets = [samples]  # in a list, so that torch does not register the codec as a submodule

    def loss(self, audio: Float[Tensor, "b c t"]) -> dict[str, Tensor]:
        """Return the loss of the prior: bits per sample, conditioned on the latents of the same clip."""
        sequences = self.targets[0].encode(audio, self.decoder.spec.writes)
        return self.decoder.loss(Batch(sequences, Conditions(above=self.codec.latents(audio))))


class NSynthTask(CodecTask):
    """Training of an encoder of latents together with its decoder, a prior over samples."""

    name, exported = "nsynth", "codec."

    def __init__(self, setup: TaskSetup) -> None:
        labels = setup.model.labels
        self.together, decoder = decoder_of(setup.model.info, setup.part)
        self.decoder = decoder.for_corpus(len(labels.artists), len(labels.genres))
        self.samples = setup.model.codec(self.decoder.spec.writes)
        if setup.recipe.crop != self.decoder.n_ctx * self.decoder.hop:
            raise UserError(f"a crop of {setup.recipe.crop} samples; expected the decoder's window of {self.decoder.n_ctx}")
        super().__init__(setup)
        self.samples = self.samples.to(self.device)
        self.identity |= {f"decoder {name}": value for name, value in settings(self.decoder, self.together).items()}

    def build(self) -> JointAutoencoder:
        codec, decoder = super().build(), build_prior(self.decoder)
        vectors = {stream: self.samples.embeddings(stream) for stream in self.decoder.spec.writes}
        decoder.initialise_embeddings({stream: v for stream, v in vectors.items() if v is not None})
        return JointAutoencoder(codec, decoder, self.samples)

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        return self.model.loss(batch.to(self.device, non_blocking=True))

    def save(self, model: Any) -> None:
        super().save(model.codec)
        self.jukebox.save_prior(self.together, model.decoder, without_lyrics=True)

    @torch.no_grad()
    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Write the first window of the first training song, and the audio that is decoded from its latents."""
        assert self.songs is not None
        folder.mkdir(parents=True, exist_ok=True)
        stream, length = self.decoder.spec.writes[0], self.decoder.n_ctx
        true = torch.from_numpy(self.songs.crop(0, 0, self.recipe.crop))[None].to(self.device)
        noise = Generators([torch.Generator().manual_seed(fold(self.seed, self.key))])
        known, params = nothing_known(model.decoder, self.samples, length, self.device), PRIOR_PARAMS.load(self.decoder.kind)()
        cond, window = Conditions(above=model.codec.latents(true)), Window(0, length, length)
        made = sample_window(model.decoder, window, known, cond, noise, {stream: params})
        files = {
            folder / "original.wav": true,
            folder / f"step_{step:07d}_reconstruction.wav": self.samples.decode(made, stream),
        }
        for path, wave in files.items():
            write_wav(path, wave[0].cpu().numpy(), self.config.spec.sample_rate)
        return [*files]
