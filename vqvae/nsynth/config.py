"""Shape of the encoder of NSynth (WaveNet autoencoder, Engel et al. 2017, arXiv:1704.01279), without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqvae.streams import CodecConfig, CodecSpec, Stream

EMBEDDING = "nsynth"  # name of the stream


@dataclass(frozen=True)
class NSynthConfig(CodecConfig):
    """Shape of an encoder of non-causal dilated convolutions over samples.

    The dilations of `cycle` layers are 1, 2, 4 .. This cycle is repeated `repeats` times.
    """

    kind = "nsynth"
    decodes = False
    sample_rate: int = 22050
    hop: int = 512  # samples per latent
    latent: int = 16
    width: int = 128
    cycle: int = 10
    repeats: int = 3
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}; expected an odd number, whose taps lie on both sides of a sample")

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(self.sample_rate, 1, (Stream(EMBEDDING, self.hop, width=self.latent, dtype="float32"),))

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(self.cycle)) * self.repeats

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NSynthConfig:
        return cls(**data)

    def parameter_count(self, stream: str) -> int:
        width, kernel = self.width, self.kernel
        layer = (kernel * width + 1) * width + (width + 1) * width
        return (kernel + 1) * width + len(self.dilations) * layer + (width + 1) * self.latent

    def receptive_field(self, stream: str) -> int:
        return self.kernel // 2 * (1 + sum(self.dilations))

    def decoder_state(self, stream: str) -> int:
        return 0

    def decoder_products(self, stream: str) -> float:
        return 0.0
