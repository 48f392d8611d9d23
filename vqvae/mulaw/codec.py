"""MuLawCodec: quantises each sample to one of 256 codes. The quantisation step grows with the amplitude.

The code of a sample x is round(128 mu(x)) + 128 with mu(x) = sign(x) ln(1 + 255 |x|) / ln 256. The code of silence is 128,
which decodes to exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqvae.codec import Codec, Sequences
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig

MU = BINS - 1


def companded_level(audio: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """mu(x) of each sample x, from -1 to 1, in float64. Samples are clipped to [-1, 1] first."""
    x = audio.double().clamp(-1, 1)
    return torch.sign(x) * torch.log1p(MU * x.abs()) / math.log(BINS)


def companded(audio: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Encode each sample to its mu-law code."""
    return (torch.round(companded_level(audio) * SILENCE).long() + SILENCE).clamp(max=BINS - 1)


def expanded(codes: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Decode each mu-law code to its sample."""
    level = (codes - SILENCE).double() / SILENCE
    return (torch.sign(level) * torch.expm1(level.abs() * math.log(BINS)) / MU).float()


class MuLawCodec(Codec):
    """The codec of the stream `mulaw`. The table of decoded samples is a buffer, so `codes_hash` works as in other codecs."""

    config: MuLawConfig
    values: Float[Tensor, " k"]

    def __init__(self, config: MuLawConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("values", expanded(torch.arange(BINS)))

    @property
    def device(self) -> torch.device:
        return self.values.device

    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return {stream: companded(self.check_audio(audio)[:, 0]) for stream in streams}

    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        return self.values[sequences[stream]][:, None]  # (B, T) -> (B, 1, T)

    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        for block in blocks:
            yield {stream: codes[0] for stream, codes in self.encode(block[None], streams).items()}

    def decoder_stream(self, stream: str) -> MuLawCodec:
        return self  # the decoder has no state

    def push(self, values: Int[Tensor, " t"], last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        yield self.decode({MULAW: values[None]}, MULAW)[0]

    def embeddings(self, stream: str) -> Float[Tensor, "k e"]:
        """Return two numbers per code: the decoded sample, and the code scaled to [-1, 1].

        So codes of similar samples have similar initial embeddings.
        """
        return torch.stack([self.values, torch.linspace(-1, 1, BINS, device=self.device)], dim=1)
