"""Shape of a transformer trunk, without torch: attention pattern of each layer, parameters, memory and operations.

`ORDERS` has the published orders of patterns. An order is a cycle that repeats over the layers (Jukebox, appendix).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LOCAL = ("row", "column", "previous_row")
ROTATED = (*LOCAL, "dense", "full")  # patterns with a rotary embedding, if `rope` is set

ORDERS: dict[int, tuple[str, ...]] = {
    0: ("dense",),
    1: ("row", "column"),
    2: LOCAL,
    6: (*LOCAL, "cross"),
    7: (*LOCAL * 5, "cross"),
    8: (*LOCAL * 3, "cross"),
    9: (*LOCAL, "dense"),
    10: LOCAL * 3 + (*LOCAL * 3, "cross") * 7,
    11: tuple(("cross", "cross", "dense")[d % 3] if d % 16 == 15 else LOCAL[d % 3] for d in range(48)),
    12: tuple(("prime", "prime", "dense")[d % 3] if d % 16 == 15 else LOCAL[d % 3] for d in range(48)),
}
FLOAT, BF16 = 4, 2  # bytes per value
# steps of a window (bf16) and of a block up to which attention on a CPU is two matrix products, which keep the softmax
SHORT_WINDOW, SHORT_BLOCK = 512, 128


@dataclass(frozen=True)
class Init:
    """Standard deviations of the initial weights. `residual` is a factor for projections that add to the residual stream."""

    linear: float = 0.02
    embedding: float = 0.02
    position: float = 0.01
    label: float = 0.01
    residual: float = 1.0

    @staticmethod
    def published(scale: float) -> Init:
        return Init(0.02 * scale, 0.02 * scale, 0.01 * scale, 0.01 * scale)


def residual_scale(depth: int) -> float:
    """Return 1 / sqrt(2 * depth). This factor keeps the variance of the residual stream constant over depth (GPT-2)."""
    return 1 / math.sqrt(2 * depth)


@dataclass(frozen=True)
class TrunkConfig:
    """Shape of a trunk. `order` is the cycle of attention patterns, and `blocks` is the number of blocks per window."""

    n_ctx: int
    width: int
    depth: int
    heads: int = 1
    order: tuple[str, ...] = ("dense",)
    blocks: int = 1
    m_attn: float = 0.25
    m_mlp: float = 1.0
    res_scale: bool = False
    prime: int = 0  # steps at the beginning of the sequence that `prime` layers attend to
    time_bias: bool = False
    dropout: float = 0.0
    recompute: bool = False  # gradient checkpointing: activations of a block are recomputed in the backward pass
    init: Init = field(default_factory=Init)
    rope: float = 0.0  # base of the frequencies of a rotary position embedding (0: none)

    def __post_init__(self):
        if self.n_ctx % self.blocks:
            raise ValueError(f"n_ctx {self.n_ctx} must be a multiple of blocks {self.blocks}")
        if self.rope < 0:
            raise ValueError(f"rope {self.rope:g}: expected the base of the rotary frequencies, more than 0, or 0 for none")
        if self.rope and self.head_width % 2:
            raise ValueError(f"rope rotates pairs: a head of width {self.head_width} must be even; change m_attn or heads")

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrunkConfig:
        return TrunkConfig(**{**data, "order": tuple(data["order"]), "init": Init(**data["init"])})

    @property
    def block(self) -> int:
        """Number of steps of a block."""
        return self.n_ctx // self.blocks

    @property
    def state(self) -> int:
        """Width of the queries, keys and values of all heads together."""
        return int(self.m_attn * self.width)

    @property
    def head_width(self) -> int:
        """Width of the queries, keys and values of one head."""
        return self.state // self.heads

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of the MLP."""
        return int(self.m_mlp * self.width)

    @property
    def prime_reach(self) -> int:
        """Number of steps that a `prime` layer attends to: `prime` rounded up as published, or 0 if `prime` is 0.

        The result is the smallest multiple of `blocks` that is larger than `prime`.
        """
        return (self.prime // self.blocks + 1) * self.blocks if self.prime else 0

    def pattern(self, layer: int) -> str:
        return self.order[layer % len(self.order)]

    @property
    def patterns(self) -> list[str]:
        """The attention pattern of every layer."""
        return [self.pattern(layer) for layer in range(self.depth)]

    # ---- parameters

    def products(self) -> Iterator[tuple[int, int]]:
        """Yield (rows, columns) of every matrix. Each matrix has one bias per column."""
        for pattern in self.patterns:
            yield self.width, self.state if pattern == "cross" else 3 * self.state
            if pattern == "cross":
                yield self.width, 2 * self.state
            yield self.state, self.width
            yield self.width, self.hidden
            yield self.hidden, self.width

    def other_parameters(self) -> tuple[int, int]:
        """Return two numbers of parameters without matrices: those of the norms, and all biases and time-bias slopes."""
        slopes = self.heads * self.patterns.count("cross") * bool(self.time_bias)
        return 4 * self.width * self.depth, sum(columns for _, columns in self.products()) + slopes

    # ---- training, per row of a batch

    def block_bytes(self, pattern: str, bf16: bool, lyric_tokens: int = 0, cpu: bool = False) -> float:
        """Return the bytes per step that a block keeps for the backward pass.

        A block keeps the residual stream twice, queries, keys, values, the attention output, and the hidden layer of the MLP.
        In bf16 it also keeps the outputs of norms and activations, because they are half as large as their inputs.
        """
        item, steps = BF16 if bf16 else FLOAT, self.n_ctx
        kept = 2 * FLOAT * self.width + item * (4 * self.state + self.hidden) + FLOAT * self.heads
        if bf16:
            kept += BF16 * (2 * self.width + self.hidden) + 4 * FLOAT
        if pattern == "cross":  # keys and values are those of the lyrics
            kept += item * self.state * (-2 + 2 * lyric_tokens / steps)
            kept += FLOAT * self.heads * lyric_tokens * 2 if self.time_bias else 0
        if pattern == "prime":
            kept += item * self.state
        if cpu and bf16 and pattern == "dense" and steps <= SHORT_WINDOW:  # blocks of queries, each with a copy of its keys
            reach = (steps + SHORT_BLOCK) / 2
            kept += BF16 * (self.heads * reach + 2 * self.state * (reach / SHORT_BLOCK - 1))
        keys = {"row": self.block, "previous_row": self.block, "column": steps / self.block}.get(pattern, 0)
        if cpu and 0 < keys <= SHORT_BLOCK:
            kept += item * self.heads * keys - FLOAT * self.heads
            kept += item * 2 * self.state if pattern == "row" else 0  # copies of queries and keys in another order
        elif self.rope and pattern in ROTATED:
            kept += item * 2 * self.state  # queries and keys before the rotation
        return kept

    def activation_bytes(self, bf16: bool, recompute: bool, lyric_tokens: int, cpu: bool) -> float:
        """Return the bytes of all activations that the trunk keeps at the start of the backward pass."""
        blocks = [self.n_ctx * self.block_bytes(pattern, bf16, lyric_tokens, cpu) for pattern in self.patterns]
        if recompute:  # the inputs of all blocks, the activations of one recomputed block, and its working memory
            working = (BF16 if bf16 else FLOAT) * self.n_ctx * (2 * self.hidden + self.width)
            return FLOAT * self.n_ctx * self.width * len(blocks) + max(blocks) + working
        return sum(blocks)

    def operations(self, lyric_tokens: int) -> float:
        """Return the number of floating-point operations of the forward pass of a window."""
        steps, state = self.n_ctx, self.state
        keys = {
            "dense": steps / 2, "row": self.block / 2, "column": steps / self.block / 2, "previous_row": self.block,
            "cross": lyric_tokens, "prime": self.prime_reach,
        }  # fmt: skip
        total = 2 * sum(a * b for a, b in self.products()) * steps
        crosses = self.patterns.count("cross")  # keys and values of lyrics are computed once per lyric token
        total -= 4 * self.width * state * crosses * (steps - lyric_tokens)
        total += sum(4 * state * keys[pattern] for pattern in self.patterns) * steps
        return total
