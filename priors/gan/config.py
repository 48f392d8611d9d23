"""Shape of a latent GAN and its sampling parameters, without torch (Musika, arXiv:2208.08706)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.conditioning.config import LabelConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TrainingCost

FIRST = 4  # number of frames in the generator's first layer
MOST_TRUNCATION, LEAST_ANCHORS = 3.9, 1.75  # largest truncation of the style, smallest truncation of the anchors
MOST_CONTROL, LARGEST_SEED = 1000, 2**53 - 1  # largest tempo and density, largest seed of the style


@dataclass(frozen=True)
class GanParams:
    """Sampling parameters of a latent GAN.

    truncation: bound of the normal numbers of the style, from 0.1 to 3.9; lower values are more typical
    loop: repeat the music after two anchors of the coordinates
    tempo: beats per minute to ask for (0: unknown)
    density: notes per second to ask for (0: unknown)
    style: seed of the style only (-1: derived from the general seed)
    """

    truncation: float = 2.0
    loop: bool = False
    tempo: float = 0.0
    density: float = 0.0
    style: int = -1

    def __post_init__(self) -> None:
        ranges = {"truncation": (0.1, MOST_TRUNCATION), "tempo": (0, MOST_CONTROL), "density": (0, MOST_CONTROL)}
        for name, (low, high) in (ranges | {"style": (-1, LARGEST_SEED)}).items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name):g}; expected {low:g} to {high:g}")


@dataclass(frozen=True)
class GanConfig(PriorConfig):
    """Shape of a generator of patches with `patch` frames, and of a critic of windows with two adjacent patches.

    Coordinates are interpolated between anchors at a distance of `spacing` frames. `widths` are the channels of the generator's
    layers, from `FIRST` frames to `patch` frames. `critic_widths` are the channels of the critic's layers. Each layer of the
    critic has half as many frames as the previous layer.
    """

    kind = "gan"
    route = "musika"
    stream: str
    latent: int
    hop: int  # samples per frame
    sample_rate: int
    patch: int = 32
    spacing: int = 64
    coordinates: int = 64
    style: int = 64
    widths: tuple[int, ...] = (256, 192, 128, 96)
    critic_widths: tuple[int, ...] = (128, 192, 256, 256)
    embedding: int = 32  # width of the vectors of artist and genre
    controls: tuple[str, ...] = ("tempo", "density")
    labels: LabelConfig | None = None
    lyrics: None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("widths", "critic_widths", "controls"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.patch != FIRST << len(self.widths) - 1 or 2 * self.patch < 2 << len(self.critic_widths):
            raise ValueError(
                f"patch {self.patch} with {len(self.widths)} widths and {len(self.critic_widths)} of the critic; expected "
                f"{FIRST << len(self.widths) - 1} frames, {FIRST} doubled by each further width, and at least 2 that the critic leaves"
            )
        if self.spacing % self.patch or self.spacing < 2 * self.patch:
            raise ValueError(
                f"spacing {self.spacing}; expected a multiple of the patch of {self.patch} frames, twice it or more"
            )

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((), (self.stream,), 2 * self.patch)

    @property
    def inputs(self) -> int:
        """Number of channels of the generator's input in each frame."""
        return self.coordinates + self.style + self.conditions

    @property
    def conditions(self) -> int:
        """Number of channels of the conditions in each frame."""
        return (self.embedding if self.labels else 0) + 2 * len(self.controls)

    @property
    def noise(self) -> int:
        """Number of noise values in the layers of a patch: one per frame before each nonlinearity."""
        return FIRST + 2 * sum(FIRST << i for i in range(1, len(self.widths)))

    @property
    def starts(self) -> int:
        """Number of positions of a training window among three anchors: half a patch after the first, then every patch."""
        return (2 * self.spacing - 2 * self.patch - self.patch // 2) // self.patch + 1

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GanConfig:
        return cls(**{**data, "labels": data["labels"] and LabelConfig(**data["labels"])})

    # ---- costs

    def _generator(self) -> tuple[int, int]:
        """Return the number of parameters of the generator, and its multiplications per patch."""
        tables = (self.labels.artists + self.labels.genres) * self.embedding if self.labels else 0
        first, last, norm = (
            self.widths[0],
            self.widths[-1],
            self.inputs + 2,
        )  # weights and bias of a scale, and the noise gain
        numbers = tables + (2 * self.inputs + 1) * FIRST * first + norm * first + (last + 1) * self.latent
        products = 2 * self.inputs * FIRST * first + self.patch * last * self.latent
        for i, (a, b) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            stage = 4 * a * b + b + 3 * b * b + b + (a + 1) * 2 * b + 2 * norm * b
            numbers, products = numbers + stage, products + stage * (FIRST << i + 1)
        return numbers, products

    def _critic(self) -> int:
        """Return the number of parameters of the critic, including its frozen mixing matrix."""
        tables = (self.labels.artists + self.labels.genres) * self.embedding if self.labels else 0
        first, last, left = self.critic_widths[0], self.critic_widths[-1], 2 * self.patch >> len(self.critic_widths)
        numbers = tables + 2 * self.latent**2 + (4 * (2 * self.latent + self.conditions) + 1) * first + left * last + 1
        for a, b in zip(self.critic_widths, self.critic_widths[1:], strict=False):
            numbers += (3 * a + 1) * a + (4 * a + 1) * b + a * b
        rising = (*reversed(self.critic_widths), self.latent)
        return numbers + sum(4 * a * b + b for a, b in itertools.pairwise(rising)) + 1

    def parameters(self) -> ParameterCount:
        return ParameterCount(0, 0, 0, self._generator()[0] + self._critic(), 0)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        """Return the cost of decoding. One step is a window, because the patches of a window are generated in parallel."""
        _, item = BYTES[job.dtype]
        weights, patches = item * self.parameters().all, 3  # two, and one more if a window begins inside a patch
        parts = {
            "weights": weights, "cache": 0, "conditions": item * job.rows * patches * self.patch * self.inputs,
            "activations": 4 * item * job.rows * patches * self.patch * max(self.widths),
        }  # fmt: skip
        frames = sum(end - begin for _, begin, end in job.windows)
        products = self._generator()[1] * job.samples * (frames / self.patch + len(job.windows))
        return DecodingCost(job.rows, parts, job.batches * len(job.windows), 0, len(self.widths), float(products))

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost:
        """Return the cost of training: two patches through the generator, and two windows through the critic."""
        kept = 16 * 2 * self.patch * (sum(self.widths) + 2 * sum(self.critic_widths))
        return TrainingCost(kept, 0.0, 2.0 * (2 * self._generator()[1] + 2 * self.patch * self._critic()))
