"""Shape of a prior of frames with several codes each, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.conditioning.config import FrameLyricConfig, LabelConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TokenParams, TrainingCost
from priors.transformer.config import BF16, FLOAT, TrunkConfig


@dataclass(frozen=True)
class FrameParams(TokenParams):
    """Sampling parameters of a prior of frames.

    guidance: scale of classifier-free guidance (1: none)
    """

    guidance: float = 1.0


@dataclass(frozen=True)
class TokenConfig(PriorConfig):
    """Shape of a prior of `stream`. Each frame of this stream has `books` codes. `trunk.n_ctx` counts frames.

    `vector` is the width of the codec's codebook vectors. `m_head` is the hidden width of a book's MLP relative to the width of
    the trunk.
    """

    kind = "tokens"
    route = "spectral"
    stream: str
    books: int
    bins: int
    hop: int  # samples per frame
    sample_rate: int
    trunk: TrunkConfig
    vector: int = 64
    m_head: float = 2.0
    noise: float = 0.08  # mean share of the input codes that training replaces by random codes
    labels: LabelConfig | None = None
    lyrics: FrameLyricConfig | None = None  # type: ignore[assignment]

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((), (self.stream,), self.trunk.n_ctx)

    @property
    def width(self) -> int:
        return self.trunk.width

    @property
    def depth(self) -> int:
        return self.trunk.depth

    @property
    def head_width(self) -> int:
        """Width of the hidden layer of a book's MLP."""
        return int(self.m_head * self.width)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenConfig:
        parts = {
            "trunk": TrunkConfig.from_json(data["trunk"]),
            "labels": data["labels"] and LabelConfig(**data["labels"]),
            "lyrics": data["lyrics"] and FrameLyricConfig(**data["lyrics"]),
        }
        return cls(**{**data, **parts})

    # ---- sizes

    def _head_matrices(self) -> list[tuple[int, int]]:
        """Return (rows, columns) of the matrices of one book of the depth head. Each matrix has one bias per column."""
        return [
            (self.width, self.head_width),
            (self.head_width, self.width),
            (self.width, self.bins),
            (self.width, self.vector),
        ]

    def parameters(self) -> ParameterCount:
        """Return the numbers of parameters by use. `table` counts the output tables of all books."""
        trunk, width, books = self.trunk, self.width, self.books
        matrices = [*trunk.products(), *self._head_matrices() * books]
        norms, others = trunk.other_parameters()
        norms += 2 * width * (books + 1)  # one norm per book, and one of the trunk's output
        others += books * sum(columns for _, columns in self._head_matrices())
        others += 2 * books * self.bins * width  # embeddings of a frame's codes, for the trunk and for the depth head
        others += 2 * (self.vector * width + width) + books * self.bins * self.vector
        others += self.labels.rows * width if self.labels else width
        others += self.lyrics.parameters(width) if self.lyrics else 0
        numbers = sum(n_in * n_out for n_in, n_out in matrices)
        return ParameterCount(numbers, sum(out for _, out in matrices), norms, others, books * width * self.bins)

    def weight_bytes(self, dtype: str) -> int:
        """Return the bytes of all weights in memory. Norms are float32 or wider.

        With int8 the trunk is int8 with one scale per column, and the other weights are bfloat16.
        """
        counted, trunk, (matrix, item) = self.parameters(), list(self.trunk.products()), BYTES[dtype]
        total = (counted.matrices + counted.others) * item + counted.norms * max(4, item)
        total += (matrix - item) * sum(n_in * n_out for n_in, n_out in trunk)
        return total + (item * sum(columns for _, columns in trunk) if dtype == "int8" else 0)

    def prefill_bytes(self, itemsize: int) -> int:
        """Return the bytes per prompt step during the prefill, including the rotated queries and keys and the trunk's MLP."""
        trunk = self.trunk
        rotated = 2 * trunk.state * bool(trunk.rope)
        held = itemsize * (5 * trunk.width + 3 * trunk.state + rotated)
        norm = trunk.width * (8 + itemsize) if itemsize < 4 else trunk.width * itemsize
        return held + max(norm, itemsize * (2 * trunk.hidden + trunk.width))

    def lyric_bytes(self, itemsize: int) -> int:
        """Return the bytes for encoding the lyrics of a window."""
        if not self.lyrics:
            return 0
        places = self.n_ctx * self.lyrics.per_frame
        convolved = self.lyrics.width + 2 * self.lyrics.hidden
        return itemsize * (places * convolved + 2 * self.n_ctx * self.width)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        """Return the cost of decoding. A sequential step is one frame: the trunk, and then the MLP of each book."""
        trunk, (_, item) = self.trunk, BYTES[job.dtype]
        guided = 2 if job.params.get("guidance", 1.0) != 1.0 else 1
        rows, prompts = job.rows * guided, [begin - start + 1 for start, begin, _ in job.windows]
        cache = rows * item * 2 * trunk.n_ctx * trunk.state * trunk.depth
        conditions = rows * item * self.n_ctx * self.width
        table = item * self.bins * self.width
        draws = rows * self.bins * (item + 4 + 24)  # as in `priors/autoregressive`
        # a window keeps products of fixed weights (`DepthHead.for_sampling`); the last product also holds its inputs
        frames = self.books * (2 * table + item * self.bins) + max(draws, 2 * table)
        # the lyrics are encoded before the cache is allocated
        before = job.rows * self.lyric_bytes(item) - cache - conditions
        parts = {
            "weights": self.weight_bytes(job.dtype), "cache": cache, "conditions": conditions,
            "activations": max(rows * max(prompts) * self.prefill_bytes(item), before, frames),
        }  # fmt: skip
        steps = job.batches * sum(end - begin for _, begin, end in job.windows[:: job.parallel])
        products = 2.0 * self.parameters().matrices * sum(prompts) * job.samples * guided
        read = self.weight_bytes(job.dtype) + cache // 2
        return DecodingCost(rows, parts, steps, read, trunk.depth + 3 * self.books, products)

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost:
        """Return the cost of training: activations of the trunk, of each book's MLP, and two copies of each book's logits."""
        trunk, steps, item = self.trunk, self.n_ctx, BF16 if bf16 else FLOAT
        kept = trunk.activation_bytes(bf16, recompute, 0, cpu)
        head = self.books * (item * (2 * self.head_width + 3 * self.width) + 2 * FLOAT * self.bins)
        products = 2.0 * self.books * sum(a * b for a, b in self._head_matrices())
        return TrainingCost(kept + steps * (head + item * self.width), trunk.operations(0), products * steps)
