"""Shapes of the conditioning modules, without torch: labels and timing, lyrics, the codes of the stream above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.transformer.config import TrunkConfig
from vqvae.jukebox.config import convolution, residual_stack


@dataclass(frozen=True)
class LabelConfig:
    """Sizes of the label tables and the ranges of timing in seconds; genres of a song are summed as a bag."""

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
        """Rows of all tables."""
        return self.artists + self.genres + 3 * self.timing_bins


@dataclass(frozen=True)
class LyricConfig:
    """Shape of the lyric encoder; if `causal`, as published, a state depends on earlier tokens only and predicts the next.

    With depth 0 the lyric tokens come first in the prior's sequence.
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
        """Number of parameters of the encoder's norms, and of the rest, for a prior of that width."""
        inner = self.trunk
        norms, others = inner.other_parameters()
        others += sum(n_in * n_out for n_in, n_out in [*inner.products(), (inner.width, width)]) + width
        others += (self.vocabulary + self.n_tokens) * inner.width
        others += (inner.width + self.vocabulary * width) if self.causal else 0
        return norms + 2 * width, others


FRAME_KERNEL = 5


@dataclass(frozen=True)
class FrameLyricConfig:
    """Shape of lyrics by frames: `per_frame` characters in each, embedded in `width`, followed by convolutions of `hidden` channels."""

    vocabulary: int
    per_frame: int = 2
    width: int = 64
    hidden: int = 128
    n_tokens: int = 0  # tokens of a window of text: there is none

    def parameters(self, width: int) -> int:
        """Number of parameters of the encoder, for a prior of that width."""
        convolutions = convolution(self.width, self.hidden, FRAME_KERNEL) + convolution(self.hidden, self.hidden, FRAME_KERNEL)
        return (self.vocabulary + 2) * self.width + convolutions + (self.per_frame * self.hidden + 1) * width


@dataclass(frozen=True)
class UpsamplerConfig:
    """`ups` transposed convolutions of `stride` each: stride**ups steps per code above; dilations restart every `cycle` blocks."""

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
        """Number of parameters of the convolutions, for a prior of that width."""
        outputs = [self.width] * (self.ups - 1) + [width]
        steps = sum(residual_stack(self.width, self.depth) + convolution(self.width, out, 2 * self.stride) for out in outputs)
        return convolution(width, self.width, 3) + steps
