"""Shapes of the conditioning modules, without torch: labels and timing, lyrics, and the codes of the stream above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.transformer.config import TrunkConfig
from vqvae.jukebox.config import convolution, residual_stack


@dataclass(frozen=True)
class LabelConfig:
    """Sizes of the tables of artists and genres, and ranges of timing in seconds. The vectors of a song's genres are summed."""

    artists: int
    genres: int
    max_genres: int = 5
    timing_bins: int = 0  # 0: no timing, as in the published upsamplers
    min_seconds: float = 0.0
    max_seconds: float = 600.0
    sample_rate: int = 44100
    everywhere: bool = False  # add artist and genre to every step, not only to the first

    @property
    def rows(self) -> int:
        """Number of rows of all tables together."""
        return self.artists + self.genres + 3 * self.timing_bins


@dataclass(frozen=True)
class LyricConfig:
    """Shape of the lyric encoder.

    If `causal`, as published, the encoder attends to earlier tokens only and also predicts the next token. With depth 0 there
    is no encoder: the lyric tokens precede the codes in the sequence of the prior.
    """

    vocabulary: int
    n_tokens: int
    trunk: TrunkConfig
    causal: bool = False
    loss_weight: float = 0.0  # share of the lyric loss in the total (published: 0.4)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LyricConfig:
        return LyricConfig(**{**data, "trunk": TrunkConfig.from_json(data["trunk"])})

    def parameters(self, width: int) -> tuple[int, int]:
        """Return two numbers of parameters for a prior of this width: those of the encoder's norms, and all others."""
        inner = self.trunk
        norms, others = inner.other_parameters()
        others += sum(n_in * n_out for n_in, n_out in [*inner.products(), (inner.width, width)]) + width
        others += (self.vocabulary + self.n_tokens) * inner.width
        others += (inner.width + self.vocabulary * width) if self.causal else 0
        return norms + 2 * width, others


FRAME_KERNEL = 5


@dataclass(frozen=True)
class FrameLyricConfig:
    """Shape of the encoder of lyrics by frame. Each frame has `per_frame` characters.

    Characters have embeddings of size `width`. Two convolutions with `hidden` channels follow.
    """

    vocabulary: int
    per_frame: int = 2
    width: int = 64
    hidden: int = 128
    n_tokens: int = 0  # lyric tokens of a window: there are none, because the characters come by frame

    def parameters(self, width: int) -> int:
        """Return the number of parameters of the encoder for a prior of this width."""
        convolutions = convolution(self.width, self.hidden, FRAME_KERNEL) + convolution(self.hidden, self.hidden, FRAME_KERNEL)
        return (self.vocabulary + 2) * self.width + convolutions + (self.per_frame * self.hidden + 1) * width


@dataclass(frozen=True)
class UpsamplerConfig:
    """Shape of the upsampler: `ups` transposed convolutions, each with this `stride`.

    So each code above is upsampled to stride**ups steps. Dilations restart every `cycle` blocks.
    """

    bins: int
    ups: int
    stride: int
    width: int
    depth: int
    growth: int = 3
    cycle: int | None = 8
    res_scale: bool = False
    m_conv: float = 1.0

    @property
    def ratio(self) -> int:
        return self.stride**self.ups

    def parameters(self, width: int) -> int:
        """Return the number of parameters of the convolutions for a prior of this width."""
        outputs = [self.width] * (self.ups - 1) + [width]
        steps = sum(residual_stack(self.width, self.depth) + convolution(self.width, out, 2 * self.stride) for out in outputs)
        return convolution(width, self.width, 3) + steps
