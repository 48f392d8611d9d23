"""The description of a prior for planning, requests and help, without torch: streams, configuration, costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from priors.conditioning.config import LabelConfig, LyricConfig

C = TypeVar("C", bound="PriorConfig")
# dtype -> bytes per value in the layers' matrices, and in all other tensors except norms
BYTES = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "int8": (1, 2)}


@dataclass(frozen=True)
class PriorSpec:
    """The streams that a prior reads and writes, finest first, the frames of a window, and the kind of prompt.

    At most one of the streams that it reads is not also written: the one above.

    `prefix`: the first frames of a window; `any`: any frames, so that it can inpaint. The length of a window of several streams
    is in frames of the coarsest.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    n_ctx: int
    prompt: Literal["prefix", "any"] = "prefix"


@dataclass(frozen=True)
class TokenParams:
    """Sampling parameters of every prior of codes; each kind adds fields (`priors/registry.py`).

    temperature: divides the logits; 0 takes the most likely code
    top_k: number of most likely codes that are kept (0: all)
    top_p: total probability of the most likely codes that are kept (0: all)
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a prior by use: matrices of the trunk, layer norms (float32 in every dtype), others."""

    matrices: int
    columns: int  # columns of all matrices together
    norms: int
    others: int
    table: int  # part of `others`: the output table, which every step reads like the matrices

    @property
    def all(self) -> int:
        return self.matrices + self.norms + self.others


@dataclass(frozen=True)
class DecodingJob:
    """Windows of one stream to sample, each (start, begin, end); frames `begin` to `end` are new."""

    stream: str
    dtype: str  # a key of BYTES
    samples: int
    batches: int
    rows: int  # rows in parallel: samples of a batch, times parallel windows
    parallel: int  # windows of a sample in parallel
    windows: Sequence[tuple[int, int, int]]
    params: Mapping[str, Any]  # fields of the sampling parameters of the prior's kind
    device: str = "cpu"


@dataclass(frozen=True)
class DecodingCost:
    """Cost of a DecodingJob: bytes by part, rows in memory, sequential steps, bytes read per step, and multiplications."""

    rows: int
    parts: dict[str, int]  # weights, cache, conditions, activations
    steps: int
    step_bytes: int  # bytes that one step reads; 0: steps are limited by multiplications
    step_layers: int
    products: float


@dataclass(frozen=True)
class TrainingCost:
    """Cost of training on one window: bytes of activations, and forward operations of the trunk and of the rest."""

    activations: float
    trunk: float
    rest: float


class PriorConfig(ABC):
    """Shape of a prior. It imports no torch. `labels` and `lyrics` are None if it is not conditioned on them."""

    kind: ClassVar[str]  # its name in config.json and in the registries
    route: ClassVar[str] = ""  # name of routes that end with this prior; empty: its kind
    hop: int  # samples per frame of a window
    sample_rate: int
    labels: LabelConfig | None
    lyrics: LyricConfig | None
    controls: tuple[str, ...] = ()  # frame-wise conditions by name (`priors/conditioning/controls.py`)
    patch: int = 0  # frames that depend on their position only, for music of unbounded length; 0: not supported

    @property
    @abstractmethod
    def spec(self) -> PriorSpec: ...

    @property
    def n_ctx(self) -> int:
        """Frames of a window."""
        return self.spec.n_ctx

    @property
    def n_tokens(self) -> int:
        """Lyric tokens of a window (0 without lyrics)."""
        return self.lyrics.n_tokens if self.lyrics else 0

    @property
    def ratio(self) -> int:
        """Frames of a window per frame of the stream that it reads (1 if it reads none)."""
        return 1

    @property
    def control_frame(self) -> int:
        """Frames of a window that have the same controls."""
        return 1

    @property
    def memory(self) -> int:
        """Number of previous frames that a frame depends on, if less than a window (0: the whole window).

        Consecutive windows overlap by this number. With prompt "prefix" the result does not depend on the positions of windows.
        """
        return 0

    @property
    def width(self) -> int:
        """Width of the widest layers, from which the number of CPU threads is chosen."""
        return 0

    @property
    def depth(self) -> int:
        """Number of layers per sequential step; 0 if steps are not sequential."""
        return 0

    @property
    def seed_key(self) -> int:
        """Key of the prior in the seeds of training; 0: the key of the coarsest stream that it writes."""
        return 0

    def frames(self, stream: str) -> int:
        """Frames of a stream in a window."""
        return self.n_ctx

    def for_corpus(self: C, artists: int, genres: int, vocabulary: int = 0) -> C:
        """The same configuration with tables sized for a corpus; with `vocabulary` 0 that of the lyrics does not change."""
        lyrics = replace(self.lyrics, vocabulary=vocabulary) if self.lyrics and vocabulary else self.lyrics
        labels = self.labels and replace(self.labels, artists=artists, genres=genres)
        return replace(self, labels=labels, lyrics=lyrics)  # type: ignore[type-var]

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json; the inverse is `from_json`."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    @abstractmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C: ...

    def state_name(self, name: str) -> str:
        """The current name of a tensor in a file that an earlier version may have written."""
        return name

    # ---- costs

    @abstractmethod
    def parameters(self) -> ParameterCount: ...

    @abstractmethod
    def decoding_cost(self, job: DecodingJob) -> DecodingCost: ...

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost | None:
        """Cost of training on one window; None if it is unknown."""
        return None
