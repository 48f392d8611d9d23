"""A toy codec of one stream whose frames hold three codes, and a masked prior of it: what tests of several books train.

Each of three numbers of a frame of the toy codec, rounded to 16 steps, is one book.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from toy_codec import BINS, HOP, ToyCodec, ToyCodecConfig

from jukebox.model.presets import Preset
from jukebox.model.recipe import Recipe
from priors.conditioning.config import LabelConfig
from priors.masked.config import MaskedConfig
from priors.transformer.config import Init, TrunkConfig
from vqvae.codec import Sequences
from vqvae.streams import CodecSpec, Stream

STREAM, BOOKS, N_CTX, VECTOR = "toy.tokens", 3, 64, 8


@dataclass(frozen=True)
class ToyTokensConfig(ToyCodecConfig):
    """As the toy codec, with one stream."""

    kind = "toy-tokens"

    @property
    def spec(self) -> CodecSpec:
        return CodecSpec(self.sample_rate, 1, (Stream(STREAM, HOP, books=BOOKS, bins=BINS, dtype="uint8"),))


class ToyTokens(ToyCodec):
    """Frames to three codes and back."""

    @torch.no_grad()
    def encode(self, audio: Tensor, streams: Collection[str]) -> Sequences:
        codes = ((self._latents(audio)[..., :BOOKS].tanh() + 1) / 2 * (BINS - 1)).round().long()
        return dict.fromkeys(streams, codes)

    @torch.no_grad()
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Tensor:
        near = (sequences[stream].float() / (BINS - 1) * 2 - 1).clamp(-0.99, 0.99).atanh()
        latents = torch.nn.functional.pad(near, (0, self.config.width - BOOKS))
        return self.decoder(latents).flatten(1)[:, None]

    def embeddings(self, stream: str) -> Tensor:
        """(books, bins, e): cosines of the step of a code."""
        steps = torch.arange(BINS)[:, None] * torch.arange(1, VECTOR + 1) / BINS
        return torch.stack([(steps * (book + 1)).cos() for book in range(BOOKS)])


_TRUNK = TrunkConfig(N_CTX, 32, 2, 2, ("full", "full"), m_attn=1.0, m_mlp=2.0, init=Init(0.03, 0.3, 0.1, 0.3))
_PRIOR = MaskedConfig(
    BINS, (HOP,), 8000, _TRUNK, vector=VECTOR, head_width=16, local=1, labels=LabelConfig(1, 1, sample_rate=8000),
    streams=(STREAM,), books=BOOKS,
)  # fmt: skip
_RECIPE = Recipe(steps=40, batch=8, lr=1e-2, crop=1024, warmup=5, log_every=10, save_every=20)
PRESET = Preset(
    ToyTokensConfig(),
    {STREAM: _RECIPE},
    {"masked": _PRIOR},
    {"masked": Recipe(steps=60, batch=8, lr=1e-2, warmup=5, log_every=10, save_every=30)},
)
