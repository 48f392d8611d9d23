"""Shape of the masked prior (VampNet, arXiv:2307.04686), without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.conditioning.config import LabelConfig, LyricConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TokenParams
from priors.transformer.config import TrunkConfig
from vqvae.jukebox.config import convolution, residual_stack

PASSES = 12  # default number of passes of a level
CODES_AT_ONCE, ON_GPU = 256, 2**13  # codes whose logits are computed together: fits the cache of a CPU core; fills a GPU
CHUNK = 2**18  # values of a layer that are computed together


@dataclass(frozen=True)
class MaskedParams(TokenParams):
    """Sampling parameters of masked parallel decoding.

    If the frames of a stream have several codes, `passes` is the number for the first book. Each further book has half as many
    passes as the previous book, rounded up. For example, four books have 12, 6, 3 and 2 passes.

    passes: passes per stream, or per first book of its frames (0: PASSES)
    noise: weight of the Gumbel noise on the confidence that orders the codes
    """

    passes: int = 0
    noise: float = 4.5


@dataclass(frozen=True)
class MaskedConfig(PriorConfig):
    """Shape of a masked prior. `trunk.n_ctx` counts columns, and `vector` is the width of the vector of a code.

    The head of each level has `local` blocks of convolutions with `head_width` channels, at the rate of the level. The frames
    of a single stream may have several codes, one per book; a column is then a frame. ValueError for `books` with several
    streams.
    """

    kind = "masked"
    bins: int
    hops: tuple[int, ...]  # samples per code, by stream, finest first
    sample_rate: int
    trunk: TrunkConfig
    vector: int = 64
    head_width: int = 64
    local: int = 4
    labels: LabelConfig | None = None
    lyrics: LyricConfig | None = None
    streams: tuple[str, ...] = ()  # names of the streams; empty: vq.0, vq.1, ..
    books: int = 1  # codes per frame of the stream

    def __post_init__(self) -> None:
        if not self.streams:
            object.__setattr__(self, "streams", tuple(f"vq.{level}" for level in range(len(self.hops))))
        if self.books < 1 or (self.books > 1 and len(self.hops) > 1):
            raise ValueError(
                f"a masked prior of {len(self.hops)} streams with {self.books} books; expected 1 book, or several books of a "
                f"single stream"
            )

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec(self.streams, self.streams, self.trunk.n_ctx, "any")

    @property
    def seed_key(self) -> int:
        return len(self.streams)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels of a column, finest first: the streams, or the books of a single stream (last book first)."""
        if self.books == 1:
            return self.streams
        return tuple(f"{self.streams[0]}/{book}" for book in reversed(range(self.books)))

    @property
    def ratios(self) -> dict[str, int]:
        """Number of codes of each level in a column."""
        return {level: self.hops[-1] // hop for level, hop in zip(self.levels, self.hops * self.books, strict=True)}

    def levels_of(self, stream: str) -> tuple[str, ...]:
        """Return the levels of a stream, finest first: the stream itself, or its books."""
        return self.levels if self.books > 1 else (stream,)

    def passes(self, stream: str, first: int) -> dict[str, int]:
        """Return the number of passes for each level of a stream, in decoding order. The first level has `first` (0: PASSES).

        Each further book has half as many passes as the previous book, rounded up. Given the previous books, the codes of a
        book depend little on each other. SoundStorm (arXiv:2305.09636) has 16 passes for the first book and 1 for each other
        book.
        """
        found = first or PASSES
        return {level: -(-found // 2**book) for book, level in enumerate(reversed(self.levels_of(stream)))}

    @property
    def slots(self) -> int:
        """Number of codes of all levels in a column."""
        return sum(self.ratios.values())

    @property
    def hop(self) -> int:  # type: ignore[override]
        """Number of samples per column."""
        return self.hops[-1]

    @property
    def width(self) -> int:
        return self.trunk.width

    def frames(self, stream: str) -> int:
        return self.n_ctx * self.ratios[self.levels_of(stream)[0]]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MaskedConfig:
        """Return the configuration from plain values. Format 1 has another name for `head_width`."""
        data = dict(data)
        if "fine" in data:
            data["head_width"] = data.pop("fine")
        parts = {
            "hops": tuple(data["hops"]),
            "streams": tuple(data.get("streams", ())),
            "trunk": TrunkConfig.from_json(data["trunk"]),
            "labels": data["labels"] and LabelConfig(**data["labels"]),
            "lyrics": data["lyrics"] and LyricConfig.from_json(data["lyrics"]),
        }
        return cls(**data | parts)

    def state_name(self, name: str) -> str:
        return f"heads.{name[5:]}" if name.startswith("fine.") else name

    # ---- sizes

    def parameters(self) -> ParameterCount:
        """Return the numbers of parameters by use. `table` counts the output table of one level."""
        trunk, width = self.trunk, self.trunk.width
        matrices = [*trunk.products(), (self.slots * self.vector, width)]
        norms, others = trunk.other_parameters()
        norms, others = norms + 2 * width, others + width
        levels = len(self.levels)
        others += (levels * self.bins + self.slots) * self.vector + trunk.n_ctx * width
        norms += 2 * self.head_width * levels
        others += sum(self._head_parameters(level) for level in range(levels))
        others += self.labels.rows * width if self.labels else 0
        if self.lyrics:
            more_norms, more = self.lyrics.parameters(width)
            norms, others = norms + more_norms, others + more
        numbers = sum(n_in * n_out for n_in, n_out in matrices)
        return ParameterCount(numbers, sum(out for _, out in matrices), norms, others, self.head_width * self.bins)

    def _head_parameters(self, level: int) -> int:
        """Return the number of parameters of the head of a level without its norm."""
        ratios, width = list(self.ratios.values()), self.head_width
        unfold = (self.trunk.width + 1) * ratios[level] * width
        steps = [ratios[i] // ratios[i + 1] for i in (level - 1, level) if self.books == 1 and 0 <= i < len(ratios) - 1]
        inputs = convolution(self.books * self.vector, width, 3)
        inputs += sum(convolution(self.vector, width, 2 * step) for step in steps)
        return unfold + inputs + residual_stack(width, self.local) + (width + 1) * self.bins

    def weight_bytes(self, dtype: str) -> int:
        """Return the bytes of all weights in memory. Norms are float32 or wider. int8 is stored as bfloat16."""
        counted, (_, item) = self.parameters(), BYTES[dtype]
        return (counted.matrices + counted.others) * item + counted.norms * max(4, item)

    def pass_products(self, stream: str) -> tuple[int, int]:
        """Return two numbers of multiplications: of a pass over a column of a level without logits, and of a code's logits."""
        width, head, ratio = self.trunk.width, self.head_width, self.frames(stream) // self.n_ctx
        attention = 2 * self.trunk.state * self.trunk.n_ctx * self.trunk.depth
        # one kernel of 3 and, for the levels above and below, kernels of 2 * step; or a kernel of 3 over all books
        code = convolution(self.vector, head, 13 if self.books == 1 else 3 * self.books) + residual_stack(head, self.local)
        return self.parameters().matrices + attention + ratio * (width * head + code), head * self.bins

    def pass_bytes(self, stream: str, rows: int, columns: int, itemsize: int, device: str = "cpu") -> int:
        """Return the bytes of a pass over a stream: the embedded columns, plus the maximum of a trunk layer and a chunk of the
        head.

        On a GPU the chunk is the whole window. 50 % is added for the measured overhead of the heap.
        """
        trunk, ratio, head = self.trunk, self.frames(stream) // self.n_ctx, self.head_width
        layer = itemsize * (4 * trunk.width + max(2 * trunk.hidden, 4 * trunk.width)) + 8 * trunk.width
        largest, at_once = (max(ratio, CHUNK // head), CODES_AT_ONCE) if device == "cpu" else (columns * ratio, ON_GPU)
        chunk = min(columns * ratio, largest)
        fine = rows * chunk * 5 * head * itemsize + at_once * self.bins * (itemsize + 4 * 4)
        embedded, codes = rows * columns * self.slots * self.vector * itemsize, rows * columns * ratio * self.books * 8 * 8
        return (2 * embedded + codes + max(rows * columns * layer, fine, embedded)) * 3 // 2

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        """Return the cost of decoding. Steps are passes, limited by multiplications."""
        column, (_, item) = self.frames(job.stream) // self.n_ctx, BYTES[job.dtype]
        passes = sum(self.passes(job.stream, job.params["passes"]).values())
        columns = max(((end - start) // column for start, _, end in job.windows), default=0)
        parts = {
            "weights": self.weight_bytes(job.dtype), "cache": 0,
            "conditions": job.rows * self.n_ctx * self.trunk.width * item,
            "activations": self.pass_bytes(job.stream, job.rows, columns, item, job.device),
        }  # fmt: skip
        whole, code = self.pass_products(job.stream)
        seen = sum((end - start) // column * whole for start, _, end in job.windows)
        new = sum(end - begin for _, begin, end in job.windows)
        products = 2 * passes * job.samples * (seen + 2 / math.pi * new * code)  # the mean of the cosine is 2 / pi
        return DecodingCost(job.rows, parts, job.batches * len(job.windows) * passes, 0, 0, products)
