"""Shape of the mu-law codec, without torch: one 8-bit code per sample (ITU-T G.711; WaveNet, arXiv:1609.03499, section 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqvae.streams import CodecConfig, CodecSpec, Stream

MULAW, BINS, SILENCE = "mulaw", 256, 128  # name of the stream; number of codes; code of silence


@dataclass(frozen=True)
class MuLawConfig(CodecConfig):
    """Shape of a codec with one channel, one code per sample and no learned parameters."""

    kind = "mulaw"
    learned = False
    sample_rate: int = 22050

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(self.sample_rate, 1, (Stream(MULAW, 1, bins=BINS, dtype="uint8"),))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MuLawConfig:
        return cls(**data)

    def parameter_count(self, stream: str) -> int:
        return BINS

    def receptive_field(self, stream: str) -> int:
        return 0

    def decoder_state(self, stream: str) -> int:
        return 0

    def decoder_products(self, stream: str) -> float:
        return 0.0
