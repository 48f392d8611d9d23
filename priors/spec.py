"""The description of a prior without torch: streams, configuration and costs. Planning, requests and --help read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from priors.conditioning.config import LabelConfig, LyricConfig

C = TypeVar("C", bound="PriorConfig")
# dtype -> (bytes per value of the layers' matrices, bytes per value of all other tensors except norms)
BYTES = {"float64": (8, 8), "float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "int8": (1, 2)}


@dataclass(frozen=True)
class PriorSpec:
    """The streams that a prior reads and writes (finest first), the number of frames of a window, and the kind of prompt.

    Among the streams that a prior reads, at most one is not also written. It is called the stream above. If a prior writes
    several streams, `n_ctx` counts frames of the coarsest stream.

    `prefix`: the prompt is the first frames of a window. `any`: the prompt is any set of frames, so that the prior can inpaint.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    n_ctx: int
    prompt: Literal["prefix", "any"] = "prefix"


@dataclass(frozen=True)
class TokenParams:
    """Sampling parameters of every prior of codes. Each kind of prior adds fields (`priors/registry.py`).

    temperature: divides the logits; 0 takes the most likely code
    top_k: number of most likely codes that are kept (0: all)
    top_p: total probability of the most likely codes that are kept (0: all)
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a prior by use: matrices of the trunk, layer norms (at least float32), and others."""

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
    """Windows of one stream to sample. Each window is (start, begin, end), and its frames [begin, end) are new."""

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
    """Cost of a DecodingJob: rows in memory, bytes by part, sequential steps, bytes read per step, and multiplications."""

    rows: int
    parts: dict[str, int]  # weights, cache, conditions, activations
    steps: int
    step_bytes: int  # bytes that one step reads; 0: multiplications, not memory reads, limit the speed of a step
    step_layers: int
    products: float


@dataclass(frozen=True)
class TrainingCost:
    """Cost of training on one window: bytes of activations, and operations of the forward pass in the trunk and elsewhere."""

    activations: float
    trunk: float
    rest: float


class PriorConfig(ABC):
    """Shape of a prior, without torch. `labels` or `lyrics` is None if the prior is not conditioned on them."""

    kind: ClassVar[str]  # name of this kind of prior in config.json and in the registries
    route: ClassVar[str] = ""  # name of the routes that end with this kind of prior; empty: the same as `kind`
    hop: int  # samples per frame of a window
    sample_rate: int
    labels: LabelConfig | None
    lyrics: LyricConfig | None
    controls: tuple[str, ...] = ()  # frame-wise conditions by name (`priors/conditioning/controls.py`)
    patch: int = 0  # frames per patch, for music of unbounded length: a patch depends on its position only; 0: not supported

    @property
    @abstractmethod
    def spec(self) -> PriorSpec: ...

    @property
    def n_ctx(self) -> int:
        """Number of frames of a window."""
        return self.spec.n_ctx

    @property
    def n_tokens(self) -> int:
        """Number of lyric tokens of a window (0 without lyrics)."""
        return self.lyrics.n_tokens if self.lyrics else 0

    @property
    def ratio(self) -> int:
        """Frames of a window per frame of the stream above (1 if there is no stream above)."""
        return 1

    @property
    def control_frame(self) -> int:
        """Number of consecutive frames of a window that share one value of each control."""
        return 1

    @property
    def memory(self) -> int:
        """Number of previous frames that a frame depends on, if this is less than a window (0: the whole window).

        Consecutive windows overlap by this number. With prompt "prefix" the result does not depend on the positions of the
        windows.
        """
        return 0

    @property
    def width(self) -> int:
        """Width of the widest layers. The number of CPU threads is chosen from it."""
        return 0

    @property
    def depth(self) -> int:
        """Number of layers per sequential step. 0 if the steps are not sequential."""
        return 0

    @property
    def seed_key(self) -> int:
        """Key of the prior in the seeds of training. 0 stands for the key of the coarsest stream that the prior writes."""
        return 0

    def frames(self, stream: str) -> int:
        """Number of frames of a stream in a window."""
        return self.n_ctx

    def for_corpus(self: C, artists: int, genres: int, vocabulary: int = 0) -> C:
        """Return a copy with the table sizes of a corpus. With `vocabulary` 0 the lyric vocabulary does not change."""
        lyrics = replace(self.lyrics, vocabulary=vocabulary) if self.lyrics and vocabulary else self.lyrics
        labels = self.labels and replace(self.labels, artists=artists, genres=genres)
        return replace(self, labels=labels, lyrics=lyrics)  # type: ignore[type-var]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for config.json. The inverse is `from_json`."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    @abstractmethod
    def from_json(cls: type[C], data: Mapping[str, Any]) -> C: ...

    def state_name(self, name: str) -> str:
        """Return the current name of a tensor. Files of earlier versions may have another `name` for it."""
        return name

    # ---- costs

    @abstractmethod
    def parameters(self) -> ParameterCount: ...

    @abstractmethod
    def decoding_cost(self, job: DecodingJob) -> DecodingCost: ...

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost | None:
        """Return the cost of training on one window, or None if it is unknown."""
        return None
