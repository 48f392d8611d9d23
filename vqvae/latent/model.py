"""LatentCodec: audio to 16 numbers per frame and back, the KL autoencoder of MeLoDy (arXiv:2305.15719, section 4.2).

    audio -> strided convolutions, each with a stack of residual blocks -> mean and variance -> stream "latent"
    latent -> the same layers in reverse, with transposed convolutions -> audio

The mean is the output of a tanh, so latents are in [-1, 1]. MeLoDy scales the latents to this range afterwards and clips some
of them. In training the decoder gets a sample of the posterior. A small loss penalises the KL divergence between the posterior
and a normal distribution of standard deviation `STD`. So the latents are smooth, as a diffusion model needs. Songs are
processed on a fixed grid of blocks with the receptive field on both sides. So streaming and whole-song processing have equal
results.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.codec import Codec, Sequences
from vqvae.jukebox.blocks import DownStep, UpStep
from vqvae.latent.config import GROWTH, OUT_KERNEL, STD, LatentConfig
from vqvae.spectral.stream import Grid

BLOCK = 256  # frames per block of the grid


class Posterior(NamedTuple):
    """Normal distribution of the latents, given audio: mean and log variance of each number."""

    mean: Float[Tensor, "b t e"]
    log_variance: Float[Tensor, "b t e"]

    def kl(self) -> Float[Tensor, ""]:
        """KL divergence from a normal distribution of mean 0 and standard deviation STD, in nats per number of a latent."""
        relative = self.log_variance - 2 * math.log(STD)
        return 0.5 * ((self.mean / STD).square() + relative.exp() - 1 - relative).mean()


class LatentEncoder(nn.Module):
    """Encodes audio to the posterior of its latents."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        inputs = (config.channels, *config.widths)
        self.steps = nn.Sequential(
            *(DownStep(a, b, s, config.depth, growth=GROWTH) for a, b, s in zip(inputs, config.widths, config.strides))
        )
        self.out = nn.Conv1d(config.widths[-1], 2 * config.latent, 3, padding=1)

    def forward(self, audio: Float[Tensor, "b c t"]) -> Posterior:
        mean, log_variance = self.out(self.steps(audio)).mT.float().chunk(2, dim=-1)  # (B, 2E, T) -> 2 (B, T, E)
        return Posterior(mean.tanh(), log_variance.clamp(-6, 6) - 6)  # - 6: training begins with little noise


class LatentDecoder(nn.Module):
    """Decodes latents to audio, `hop` samples per frame."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(config.latent, config.widths[-1], 3, padding=1)
        outs = (config.out_width, *config.widths)
        steps = zip(config.widths, outs, config.strides)
        self.steps = nn.Sequential(
            *(UpStep(a, b, s, config.depth, flat=True, growth=GROWTH, reverse=True) for a, b, s in reversed(list(steps)))
        )
        self.out = nn.Conv1d(config.out_width, config.channels, OUT_KERNEL, padding=OUT_KERNEL // 2)

    def forward(self, latents: Float[Tensor, "b t e"]) -> Float[Tensor, "b c s"]:
        return self.out(F.leaky_relu(self.steps(self.inlet(latents.mT)), 0.1)).float()


class LatentCodec(Codec):
    """The codec of the stream `latent`."""

    config: LatentConfig

    def __init__(self, config: LatentConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = LatentEncoder(config), LatentDecoder(config)

    @torch.no_grad()
    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return self.encode_long(audio, streams)

    def encode_long(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return super().encode_long(self.check_audio(audio), streams)

    @torch.no_grad()
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        return self.decode_long(self.check_latents(sequences[stream]), stream)

    @torch.no_grad()
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """Encode block by block on the grid. Samples after the last whole frame are dropped."""
        config, grid = self.config, Grid(self.config.reach, BLOCK)
        rest = torch.zeros(config.channels, 0, device=self.device)
        for audio, last in _with_last(blocks, rest):
            rest = torch.cat([rest, audio.to(self.device)], dim=1)
            whole = rest.shape[1] // config.hop * config.hop
            frames = rest[:, :whole].unflatten(1, (-1, config.hop)).transpose(0, 1)  # (C, T * hop) -> (T, C, hop)
            rest = rest[:, whole:]
            for block in grid.push(frames, last):
                mean = self.encoder(block.items.transpose(0, 1).flatten(1)[None]).mean[0]
                yield {stream: block.cut(mean) for stream in streams}

    def decoder_stream(self, stream: str) -> LatentDecoderStream:
        return LatentDecoderStream(self)

    def check_latents(self, values: Tensor) -> Float[Tensor, "b t e"]:
        """Convert latents to float32; ValueError unless their shape is (b, t, latent)."""
        if values.dim() != 3 or values.shape[-1] != self.config.latent:
            raise ValueError(f"latents of shape {tuple(values.shape)}; expected (batch, time, {self.config.latent})")
        return values.float()


class LatentDecoderStream:
    """Decodes latents that arrive over time."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec, self.grid = codec, Grid(codec.config.reach, BLOCK)

    @torch.no_grad()
    def push(self, values: Float[Tensor, "t e"], last: bool = False) -> Iterator[Float[Tensor, "c s"]]:
        for block in self.grid.push(self.codec.check_latents(values[None])[0], last):
            audio = self.codec.decoder(block.items[None])[0]
            yield block.cut(audio.T, self.codec.config.hop).T


def _with_last(blocks: Iterable[Tensor], empty: Tensor) -> Iterator[tuple[Tensor, bool]]:
    """Yield each block with False, then the empty block `empty` with True, which marks the end."""
    for block in blocks:
        yield block, False
    yield empty, True
