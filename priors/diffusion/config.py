"""Shape of a latent diffusion prior and its sampling parameters, without torch (MeLoDy, arXiv:2305.15719, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from priors.conditioning.config import LabelConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TrainingCost

KEPT = 26  # values that a block keeps for the backward pass, per value of its input


@dataclass(frozen=True)
class DiffusionParams:
    """Sampling parameters of latent diffusion.

    steps: passes through the network for a window
    token_guidance: scale of classifier-free guidance by the tokens (1: none, and half the work)
    schedule: steps of the angle: linear, the largest first, or uniform
    """

    steps: int = 20
    token_guidance: float = 2.5
    schedule: Literal["linear", "uniform"] = "linear"


@dataclass(frozen=True)
class DiffusionConfig(PriorConfig):
    """Shape of a prior of latents of `stream`, conditioned on tokens of `reads`.

    One token lasts `read_ratio` frames of latents. A window has `window` frames in `chunks` chunks. In a long song each window
    begins with the last `context` chunks of the previous window. The fine path of the network works in half-overlapping
    segments of `segment` frames.
    """

    kind = "diffusion"
    route = "melody"
    stream: str
    latent: int  # numbers per frame
    hop: int  # samples per frame
    sample_rate: int
    reads: str
    read_ratio: int
    read_bins: int
    read_books: int = 1
    read_vector: int = 64  # width of the codebook vectors of the tokens
    window: int = 1024
    chunks: int = 4
    context: int = 2
    segment: int = 32
    width: int = 96  # type: ignore[assignment]
    layers: int = 4
    heads: int = 4
    angle_width: int = 64
    clean: float = 0.4  # share of training windows with known frames
    multi_chunk: bool = True  # False (an ablation): a training window has one angle and no known frames
    labels: LabelConfig | None = None
    lyrics: None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.window % (self.chunks * self.read_ratio) or not 0 < self.context < self.chunks:
            raise ValueError(
                f"a window of {self.window} frames in {self.chunks} chunks with {self.context} as context; expected whole chunks of "
                f"whole tokens, {self.read_ratio} frames each, and at least one chunk of both kinds"
            )
        if self.segment < 4 or self.segment & (self.segment - 1) or self.width % (4 * self.heads):
            raise ValueError(
                f"segments of {self.segment} frames, {self.heads} heads in a width of {self.width}; expected a power of two from 4 on, and "
                "a width that is a multiple of 4 per head"
            )

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((self.reads,), (self.stream,), self.window, "any")

    @property
    def ratio(self) -> int:
        return self.read_ratio

    @property
    def memory(self) -> int:
        return self.window // self.chunks * self.context

    def merged(self, layer: int) -> int:
        """Return the number of columns of a segment in the coarse path of a layer. The middle layers have the fewest."""
        return max(1, self.segment // 2 ** (1 + min(layer, self.layers - 1 - layer)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DiffusionConfig:
        return cls(**{**data, "labels": data["labels"] and LabelConfig(**data["labels"])})

    # ---- costs

    def _block(self) -> int:
        """Return the number of parameters of a block: attention to segments and to tokens, MLP, SRU and FiLM, with biases."""
        w = self.width
        attention = 4 * (w * w + w)
        return 2 * attention + (w + 1) * 4 * w + (4 * w + 1) * w + (w + 1) * 3 * w + (w + 1) * 2 * w

    def parameters(self) -> ParameterCount:
        w = self.width
        norms = w * (5 * self.layers + 4)  # five per layer, and one each for angle, tokens, input and output
        others = self.layers * self._block() + (self.latent + 1) * w + (w + 1) * self.latent
        others += 2 * self.angle_width + (self.angle_width + 1) * w + (w + 1) * w
        others += self.read_books * self.read_bins * (w + self.read_vector) + (self.read_vector + 1) * w + 2 * (w + 1) * w
        others += self.labels.rows * w if self.labels else 0
        return ParameterCount(0, 0, norms, others + 2 * self.latent + 1, 0)

    def _products(self) -> float:
        """Return the multiplications of a pass per frame of a window. Each frame is in two segments."""
        w = self.width
        total = 2.0 * (self.angle_width + w) * w + 2 * self.latent * w
        segments = 2 * self.window / self.segment
        for layer in range(self.layers):
            share = 2 * self.merged(layer) / self.segment  # columns of the coarse path per frame
            total += share * (14 * w * w + 2 * w * (segments + self.window / self.read_ratio)) + 2 * 3 * w * w + 2 * w * w
        return total

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        """Return the cost of decoding. A step is one pass, limited by multiplications. Guidance doubles the batch rows."""
        item, steps = BYTES[job.dtype][1], int(job.params.get("steps", DiffusionParams.steps))
        rows = job.rows * (1 if job.params.get("token_guidance", DiffusionParams.token_guidance) == 1.0 else 2)
        frames = max((end - start for start, _, end in job.windows), default=0)
        parts = {
            "weights": item * self.parameters().all, "cache": 0,
            "conditions": item * rows * (frames // self.read_ratio + 2 * frames // self.segment) * self.width,
            "activations": 2 * item * rows * frames * 16 * self.width,
        }  # fmt: skip
        seen = sum(end - start for start, _, end in job.windows)
        products = 2 * steps * job.samples * rows / job.rows * seen * self._products()
        return DecodingCost(rows, parts, job.batches * len(job.windows) * steps, 0, 0, products)

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost:
        kept = 4 * 2 * self.window * self.width * (KEPT * self.layers + 8)
        return TrainingCost(kept, 0.0, 2 * self.window * self._products())
