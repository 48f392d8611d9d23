"""Shape of the latent codec (MeLoDy, arXiv:2305.15719, section 4.2), without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate
from operator import mul
from typing import Any

from vqvae.jukebox.config import convolution, residual_stack
from vqvae.streams import CodecConfig, CodecSpec, Stream

LATENT = "latent"  # name of the stream
OUT_KERNEL = 7  # kernel of the last convolution, at the rate of the audio
GROWTH = 3  # factor of the dilation from one residual block to the next
STD = 1 / 3  # standard deviation of the normal distribution of the KL loss: 99.7 % of its values are in [-1, 1]


@dataclass(frozen=True)
class LatentConfig(CodecConfig):
    """Shape and losses of a KL autoencoder of waveforms. The defaults have 172 frames of 16 numbers per second at 22.05 kHz."""

    kind = "latent"
    sample_rate: int = 22050
    channels: int = 1
    strides: tuple[int, ...] = (8, 4, 4)  # strides of the encoder, in the order from audio to latents; even numbers
    widths: tuple[int, ...] = (32, 96, 160)  # number of channels after each stride
    depth: int = 3  # number of residual blocks after each stride
    out_width: int = 16  # number of channels before the last convolution
    latent: int = 16
    # weight of the KL divergence; a balancer weighs the losses of the audio
    kl: float = 1e-3
    # discriminators
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    windows: tuple[int, ...] = (512, 1024, 2048)
    discriminator_width: int = 8

    def __post_init__(self) -> None:
        for name in ("strides", "widths", "periods", "windows"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.strides) != len(self.widths) or any(stride < 2 or stride % 2 for stride in self.strides):
            raise ValueError(
                f"strides {self.strides}, widths {self.widths}; expected even strides, and a width for each of them"
            )

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(self.sample_rate, self.channels, (Stream(LATENT, self.hop, width=self.latent, dtype="float16"),))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatentConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"a latent codec has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**data)

    def codes_tensors(self, stream: str, names: Any) -> list[str]:
        return [name for name in names if name.startswith("encoder.")]

    # ---- sizes

    @property
    def _stages(self) -> list[tuple[int, int, int]]:
        """Number of input channels, number of output channels and stride of each stage of the encoder."""
        return list(zip((self.channels, *self.widths), self.widths, self.strides))

    def _decoder(self) -> list[tuple[int, int]]:
        """Number of parameters of each part of the decoder, and samples per step of the part."""
        hops = list(accumulate(self.strides, mul))
        parts = [(convolution(self.latent, self.widths[-1], 3), self.hop)]
        outs = (self.out_width, *self.widths[:-1])
        for width, out, stride, hop in zip(self.widths, outs, self.strides, hops, strict=True):
            parts += [(residual_stack(width, self.depth), hop), (convolution(width, out, 2 * stride), hop)]
        return [*parts, (convolution(self.out_width, self.channels, OUT_KERNEL), 1)]

    def parameter_count(self, stream: str) -> int:
        encoder = sum(convolution(a, b, 2 * stride) + residual_stack(b, self.depth) for a, b, stride in self._stages)
        encoder += convolution(self.widths[-1], 2 * self.latent, 3)
        return encoder + sum(numbers for numbers, _ in self._decoder())

    @property
    def reach(self) -> int:
        """Upper bound of the receptive field of encoder and decoder to one side, in frames."""
        stack, samples, hop = sum(GROWTH**i for i in range(self.depth)), 0, 1
        for stride in self.strides:
            samples, hop = samples + 3 * hop * stride // 2, hop * stride
            samples += stack * hop
        return -(-(samples + OUT_KERNEL) // self.hop) + 2

    def receptive_field(self, stream: str) -> int:
        return (self.reach + 1) * self.hop

    def decoder_state(self, stream: str) -> int:
        return (2 * self.reach + 1) * self.latent

    def decoder_products(self, stream: str) -> float:
        return sum(numbers / hop for numbers, hop in self._decoder())
