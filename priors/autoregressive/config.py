"""Shape of an autoregressive prior without torch: the top prior and both upsamplers (Jukebox, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from priors.conditioning.config import LabelConfig, LyricConfig, UpsamplerConfig
from priors.spec import BYTES, DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, TokenParams, TrainingCost
from priors.transformer.config import BF16, FLOAT, TrunkConfig


@dataclass(frozen=True)
class AutoregressiveParams(TokenParams):
    """Sampling parameters of an autoregressive prior.

    guidance: scale of classifier-free guidance (1: none)
    published: reproduce the published code where this project differs on purpose
    """

    guidance: float = 1.0
    published: bool = False


@dataclass(frozen=True)
class AutoregressiveConfig(PriorConfig):
    """Shape of an autoregressive prior of the codes of `stream`.

    `trunk.n_ctx` counts codes. If lyric tokens precede the codes in the sequence, it counts these tokens too.
    """

    kind = "autoregressive"
    route = "jukebox"
    stream: str
    bins: int
    hop: int  # samples per code
    sample_rate: int
    trunk: TrunkConfig
    labels: LabelConfig | None = None
    lyrics: LyricConfig | None = None
    above: UpsamplerConfig | None = None
    reads: str = ""  # the stream above, which an upsampler is conditioned on; empty for the top prior
    tied: bool = True  # the logits use the embedding table of the codes
    condition_again: bool = True  # add the conditions of each step to the trunk's output too

    @property
    def spec(self) -> PriorSpec:
        reads = (self.reads,) if self.above else ()
        return PriorSpec(reads, (self.stream,), self.trunk.n_ctx - self.lyric_prefix)

    @property
    def lyric_prefix(self) -> int:
        """Number of lyric tokens that precede the codes in one sequence. 0 with a lyric encoder, or without lyrics."""
        return self.lyrics.n_tokens if self.lyrics and self.lyrics.trunk.depth == 0 else 0

    @property
    def vocabulary(self) -> int:
        """Number of rows of the tables that embed and predict tokens."""
        return self.bins + (self.lyrics.vocabulary if self.lyrics and self.lyric_prefix else 0)

    @property
    def ratio(self) -> int:
        return self.above.ratio if self.above else 1

    @property
    def width(self) -> int:
        return self.trunk.width

    @property
    def depth(self) -> int:
        return self.trunk.depth

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AutoregressiveConfig:
        """Return the configuration from plain values. Configurations of format 1 have a level instead of streams."""
        data = dict(data)
        if "level" in data:
            level = data.pop("level")
            data |= {"stream": f"vq.{level}", "reads": f"vq.{level + 1}" if data["above"] else ""}
        parts = {
            "trunk": TrunkConfig.from_json(data["trunk"]),
            "labels": data["labels"] and LabelConfig(**data["labels"]),
            "lyrics": data["lyrics"] and LyricConfig.from_json(data["lyrics"]),
            "above": data["above"] and UpsamplerConfig(**data["above"]),
        }
        return cls(**data | parts)

    # ---- parameters

    def parameters(self) -> ParameterCount:
        trunk, width, rows = self.trunk, self.trunk.width, self.vocabulary
        matrices = list(trunk.products())
        norms, others = trunk.other_parameters()
        others += (rows + trunk.n_ctx) * width + (0 if self.tied else rows * width)
        others += (self.labels.rows if self.labels else 1) * width
        if self.above:
            norms += 2 * width
            others += self.above.bins * width + self.above.parameters(width)
        if self.lyrics and not self.lyric_prefix:
            more_norms, more = self.lyrics.parameters(width)
            norms, others = norms + more_norms, others + more
        numbers = sum(n_in * n_out for n_in, n_out in matrices)
        return ParameterCount(numbers, sum(columns for _, columns in matrices), norms, others, rows * width)

    def weight_bytes(self, dtype: str) -> int:
        """Return the bytes of all weights in memory. Norms are float32 or wider.

        An int8 matrix has one scale per column. With int8 the output table is a separate int8 copy.
        """
        counted, (matrix, other) = self.parameters(), BYTES[dtype]
        total = counted.matrices * matrix + counted.others * other + counted.norms * max(4, other)
        if dtype == "int8":
            rows = counted.table // self.trunk.width
            total += other * (counted.columns + rows) + counted.table * (matrix if self.tied else matrix - other)
        return total

    # ---- decoding, per row of a batch

    def cache_numbers(self) -> dict[str, int]:
        """Return the number of cached values (keys and values) of a window, by pattern.

        The buffers of a pattern are as long as its context. Those of cross include the time bias.
        """
        trunk, tokens, block = self.trunk, self.n_tokens, self.trunk.block
        steps = {
            "dense": trunk.n_ctx, "prime": min(trunk.prime_reach, trunk.n_ctx) + 1, "row": block,
            "previous_row": 2 * block, "column": block * -(-trunk.n_ctx // block), "cross": tokens,
        }  # fmt: skip
        numbers: dict[str, int] = {}
        for pattern in trunk.patterns:
            bias = trunk.heads * self.n_ctx * tokens if pattern == "cross" and trunk.time_bias else 0
            numbers[pattern] = numbers.get(pattern, 0) + 2 * steps[pattern] * trunk.state + bias
        return numbers

    def attended_numbers(self) -> int:
        """Return the number of cached values (keys and values) that an average decoding step reads."""
        trunk, block = self.trunk, self.trunk.block
        steps = {
            "dense": trunk.n_ctx // 2, "prime": trunk.prime_reach, "row": block // 2, "previous_row": block,
            "column": trunk.n_ctx // block // 2, "cross": self.n_tokens,
        }  # fmt: skip
        return sum(2 * steps[pattern] * trunk.state for pattern in trunk.patterns)

    def condition_numbers(self) -> tuple[int, int]:
        """Return two numbers of condition values that a window keeps: in the dtype of the residual stream, and in float32."""
        trunk, labels = self.trunk, self.labels
        along = bool(self.above or (labels and (labels.timing_bins or (labels.everywhere and self.lyric_prefix))))
        kept = trunk.n_ctx * trunk.width * along
        if not self.lyrics or self.lyric_prefix:
            return kept, 0
        return kept + self.n_tokens * trunk.width, self.n_ctx * self.n_tokens * bool(trunk.time_bias)

    def prefill_bytes(self, itemsize: int) -> int:
        """Return the bytes per prompt step during the prefill.

        The residual stream, queries, keys, values and the attention output are always held. The larger of a norm in float32 and
        the MLP is added.
        """
        width, state, hidden = self.trunk.width, self.trunk.state, self.trunk.hidden
        # the embedded inputs, the block's input, its norm, q, k and v, the attention output, and the sum of input and output
        held = itemsize * (5 * width + 3 * state)
        norm = width * (8 + itemsize) if itemsize < 4 else width * itemsize
        return held + max(norm, itemsize * (2 * hidden + width))

    def upsampler_bytes(self, itemsize: int) -> int:
        """Return the bytes for upsampling the codes above a window, including the result."""
        return self.n_ctx * self.trunk.width * (2 * itemsize + (8 if itemsize < 4 else 0)) if self.above else 0

    def upsampler_products(self) -> int:
        """Return the number of multiplications for upsampling the codes above a window. Most layers run at lower rates."""
        if not self.above:
            return 0
        return 2 * self.above.parameters(self.trunk.width) * self.n_ctx // self.above.stride

    def window_bytes(self, dtype: str, rows: int, tokens: int) -> dict[str, int]:
        """Return the bytes of a window by part. The prefill has `tokens` steps."""
        (_, item), (stream, wide) = BYTES[dtype], self.condition_numbers()
        cache = rows * item * sum(self.cache_numbers().values())
        conditions = rows * (item * stream + 4 * wide)
        # the codes above are upsampled before the cache is allocated; sampling keeps the logits in three dtypes
        before = rows * self.upsampler_bytes(item) - cache - conditions
        draws = rows * self.vocabulary * (item + 4 + 24)
        activations = max(rows * tokens * self.prefill_bytes(item), before, draws)
        return {
            "weights": self.weight_bytes(dtype), "cache": cache, "conditions": conditions, "activations": activations
        }  # fmt: skip

    def step_bytes(self, dtype: str, rows: int) -> int:
        """Return the bytes that one decoding step of `rows` batch rows reads."""
        counted, (matrix, item) = self.parameters(), BYTES[dtype]
        return counted.matrices * matrix + counted.table * item + rows * item * self.attended_numbers()

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        guided = 2 if job.params.get("guidance", 1.0) != 1.0 else 1
        tokens = [begin - start + 1 + self.lyric_prefix for start, begin, _ in job.windows]
        steps = job.batches * sum(end - begin for _, begin, end in job.windows[:: job.parallel])
        prefills = 2 * self.parameters().matrices * sum(tokens)
        products = job.samples * guided * (prefills + len(job.windows) * self.upsampler_products())
        return DecodingCost(
            job.rows * guided, self.window_bytes(job.dtype, job.rows * guided, max(tokens)), steps,
            # embedding and sampling cost as much as two layers
            self.step_bytes(job.dtype, job.rows * guided), self.trunk.depth + 2,
            products,
        )  # fmt: skip

    # ---- training

    def training_cost(self, bf16: bool, recompute: bool = False, cpu: bool = False) -> TrainingCost:
        """Return the cost of training: activations of trunk, lyric encoder and upsampler, and two copies of the logits."""
        trunk, lyrics, above, item = self.trunk, self.lyrics, self.above, BF16 if bf16 else FLOAT
        width, steps = trunk.width, trunk.n_ctx
        encoded = self.n_tokens if not self.lyric_prefix else 0
        kept = trunk.activation_bytes(bf16, recompute, encoded, cpu)
        kept += steps * (item * width + 2 * FLOAT * self.vocabulary)
        rest = 2.0 * width * self.vocabulary * steps
        if encoded and lyrics:
            kept += lyrics.trunk.activation_bytes(bf16, recompute, 0, cpu) + 3 * FLOAT * encoded * width
            rest += 2 * sum(a * b for a, b in lyrics.trunk.products()) * encoded
        if above:
            coarse = steps / above.stride**above.ups
            kept += coarse * item * above.width * (2 * above.depth + 2) + 2 * FLOAT * steps * width
            rest += 2 * above.parameters(width) * steps / above.stride
        return TrainingCost(kept, trunk.operations(self.n_tokens), rest)
