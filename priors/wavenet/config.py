"""Shape of a WaveNet (van den Oord et al. 2016, arXiv:1609.03499), without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.conditioning.config import LabelConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TokenParams, TrainingCost

BLOCK_SECONDS = 0.05  # length of an update in seconds, because a WaveNet writes 22,050 values per second
FLOAT = 4  # bytes per value


@dataclass(frozen=True)
class WaveNetParams(TokenParams):
    """Sampling parameters of a WaveNet.

    tempo: beats per minute to ask for (0: unknown)
    density: notes per second to ask for (0: unknown)
    """

    tempo: float = 0.0
    density: float = 0.0


@dataclass(frozen=True)
class StackConfig:
    """Shape of a stack of gated dilated causal layers: `repeats` cycles of `cycle` layers with dilations 1, 2, 4, .."""

    cycle: int = 10
    repeats: int = 2
    channels: int = 64  # width of the residual stream
    gate: int = 64
    skip: int = 64
    kernel: int = 2

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(self.cycle)) * self.repeats

    @property
    def depth(self) -> int:
        return self.cycle * self.repeats

    @property
    def receptive_field(self) -> int:
        """Receptive field in samples: 1 + (kernel - 1) * the sum of the dilations."""
        return 1 + (self.kernel - 1) * sum(self.dilations)

    @property
    def slots(self) -> int:
        """Number of slots of all ring buffers.

        A layer keeps its inputs of (kernel - 1) * dilation steps and the current one.
        """
        return self.receptive_field - 1 + self.depth

    @property
    def products(self) -> list[tuple[int, int]]:
        """(rows, columns) of the matrices of all layers: taps to gates, gates to the residual stream, gates to skips."""
        taps, residual = (self.kernel * self.channels, 2 * self.gate), (self.gate, self.channels)
        return [taps] * self.depth + [residual] * (self.depth - 1) + [(self.depth * self.gate, self.skip)]


@dataclass(frozen=True)
class WaveNetConfig(PriorConfig):
    """Shape of a WaveNet of `stream`, conditioned on labels, timing, frame-wise controls and the stream `reads`.

    A frame of conditions lasts `frame` samples of the written stream. If a stream is read, each frame of it is one frame of
    conditions. It has either codes (`read_bins` of them) or latents of width `read_width` (then `read_bins` is 0). `controls`
    has the names of the frame-wise controls.
    """

    kind = "wavenet"
    stream: str
    bins: int
    hop: int
    sample_rate: int
    window: int  # length of a window in samples
    silence: int  # the code of silence, which is the input before the start of a song
    stack: StackConfig = StackConfig()
    frame: int = 128
    labels: LabelConfig | None = None
    lyrics: None = None  # type: ignore[assignment]
    reads: str = ""
    read_bins: int = 0
    read_width: int = 0
    controls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", tuple(self.controls))
        if self.window % self.frame or self.window <= self.memory:
            raise ValueError(
                f"a window of {self.window} samples; expected a multiple of {self.frame} above the receptive field of {self.memory}"
            )

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((self.reads,) if self.reads else (), (self.stream,), self.window)

    @property
    def memory(self) -> int:
        return self.stack.receptive_field

    @property
    def ratio(self) -> int:
        return self.frame if self.reads else 1

    @property
    def control_frame(self) -> int:
        return self.frame

    @property
    def frames_of_conditions(self) -> int:
        return self.n_ctx // self.frame

    @property
    def block(self) -> int:
        """Number of samples per update."""
        return -(-int(BLOCK_SECONDS * self.sample_rate) // self.hop)

    @property
    def width(self) -> int:
        return self.stack.channels

    @property
    def depth(self) -> int:
        return self.stack.depth

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WaveNetConfig:
        parts = {"stack": StackConfig(**data["stack"]), "labels": data["labels"] and LabelConfig(**data["labels"])}
        return cls(**{**data, **parts})

    # ---- sizes

    def parameters(self) -> ParameterCount:
        stack, width = self.stack, self.stack.channels
        head = [(stack.skip, stack.skip), (stack.skip, self.bins)]
        matrices = [*stack.products, (width, stack.depth * 2 * stack.gate), *head]
        columns = sum(out for _, out in [*head, matrices[-3]]) + stack.skip  # columns of the matrices that have a bias
        others = self.bins * width + columns
        others += self.labels.rows * width if self.labels else 0
        others += (self.read_bins or self.read_width) * width + 2 * len(
            self.controls
        ) * width  # two channels per control: the value, and a flag that the value is known
        return ParameterCount(sum(a * b for a, b in matrices), columns, 0, others, stack.skip * self.bins)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        """Return the cost of decoding. A step reads all weights once. A window starts with one pass over its known samples."""
        stack, item = self.stack, BYTES[job.dtype][1]
        known = max(begin - start + 1 for start, begin, _ in job.windows)
        weights = self.parameters().all * item
        parts = {
            "weights": weights, "cache": job.rows * item * stack.slots * stack.channels,
            "conditions": job.rows * item * self.frames_of_conditions * stack.depth * 2 * stack.gate,
            "activations": job.rows * known * item * (stack.depth * stack.gate + 6 * stack.gate + 3 * stack.channels),
        }  # fmt: skip
        steps = job.batches * sum(end - begin for _, begin, end in job.windows[:: job.parallel])
        products = 2.0 * self.parameters().matrices * job.samples * sum(begin - start for start, begin, _ in job.windows)
        return DecodingCost(job.rows, parts, steps, weights, stack.depth, products)

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost:
        """Return the cost of training: the taps and gates of each layer, gates after the nonlinearity, and two copies of the
        logits.
        """
        stack = self.stack
        kept = stack.depth * (stack.kernel * stack.channels + 6 * stack.gate + stack.channels) + 3 * stack.skip + 2 * self.bins
        operations = 2.0 * sum(a * b for a, b in stack.products) * self.n_ctx
        return TrainingCost(FLOAT * kept * self.n_ctx, operations, 2.0 * stack.skip * (stack.skip + self.bins) * self.n_ctx)
