"""Predict memory of each GPU under ZeRO and seconds per step of training a prior, from a configuration alone.

    weights      float32, whole on every GPU up to ZeRO 2; in ZeRO 3 a share, and the layers that are gathered at the moment
    gradients    float32, in ZeRO 2 and 3 a share           moments   two of Adam, float32, a share from ZeRO 1 on
    buffers      copies of the shares and reduction buffers; the average of the weights (EMA), if used
    activations  activations between the forward and the backward pass, and the logits

Weights and moments are float32 and products bf16 (autocast), in every engine. Activations and operations are those of
`PriorConfig.training_cost`. Time is operations over a rate: a card's peak or a measured one, times the share of it that
training reaches. Nothing is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from data_prep.errors import UserError
from jukebox.planning.sampling import FRAMEWORK
from priors.spec import PriorConfig, TrainingCost

# card -> bytes of memory, bf16 operations a second that its maker states (dense; V100: fp16)
CARDS = {
    "RTX3090": (24e9, 71e12), "RTX4090": (24e9, 165e12), "V100": (32e9, 125e12), "A100-40": (40e9, 312e12),
    "A100": (80e9, 312e12), "H100": (80e9, 989e12), "H200": (141e9, 989e12),
}  # fmt: skip
FLOAT = 4  # bytes
LIVE = 100_000_000  # numbers that ZeRO 3 keeps gathered at most, and
BUCKET = 50_000_000  # values that are reduced together, as launch/engines/deepspeed_config.py sets them
ROOM = 0.94  # share of a GPU's memory that may be planned with: the allocator wastes some


@dataclass(frozen=True)
class Machines:
    """Training hardware: number of GPUs (or CPU processes), memory and rate of a GPU, reached share of the rate, bytes per
    second between them.
    """

    gpus: int
    memory: float
    rate: float
    share: float
    network: float
    device: str = "cuda"


@dataclass(frozen=True)
class Training:
    """Settings that change memory: rows per GPU pass, parts of a batch, ZeRO's stage, and others."""

    rows: int
    accumulate: int = 1
    zero: int = 0
    bf16: bool = True
    recompute: bool = False
    offload: bool = False
    ema: bool = False


@dataclass(frozen=True)
class Budget:
    """A training predicted: bytes of each GPU by part, and seconds of a step by use."""

    parts: dict[str, float]
    framework: float
    compute: float
    exchange: float
    batch: int
    tokens: int  # a step

    @property
    def bytes(self) -> float:
        return self.framework + sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Seconds of a step; communication overlaps computation as far as possible."""
        return max(self.compute, self.exchange)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


# ---- the whole


def cost_of(prior: PriorConfig, setup: Training, device: str = "cuda") -> TrainingCost:
    """The cost of training on one window; UserError where it is not known for this kind of prior."""
    cost = prior.training_cost(setup.bf16, setup.recompute, device == "cpu")
    if cost is None:
        raise UserError(f"the cost of training a prior of kind {prior.kind} is not known; choose another --level")
    return cost


def memory(prior: PriorConfig, setup: Training, gpus: int, device: str = "cuda") -> dict[str, float]:
    """Bytes of each GPU by part."""
    numbers = prior.parameters().all
    share, whole = numbers / gpus, float(numbers)
    weights, gradients, moments = (share if setup.zero >= stage else whole for stage in (3, 2, 1))
    live = min(whole, LIVE) if setup.zero == 3 else 0.0
    copies = share if setup.zero else 0.0
    buffers = min(whole, BUCKET) if setup.zero or gpus > 1 else 0.0
    # gradients waiting for reduction: in ZeRO 2 also those of other shares, in ZeRO 3 a second copy of all
    buffers += min({2: whole - share, 3: whole}.get(setup.zero, 0.0), BUCKET)
    if setup.offload:
        moments = copies = 0.0
    ema = (share if setup.zero else whole) if setup.ema else 0.0
    kept = setup.rows * cost_of(prior, setup, device).activations
    return {
        "weights": FLOAT * (weights + live), "gradients": FLOAT * gradients, "moments": 2 * FLOAT * moments,
        "buffers": FLOAT * (copies + buffers + ema), "activations": kept,
    }  # fmt: skip


def exchanged(prior: PriorConfig, setup: Training, gpus: int) -> float:
    """Bytes that each GPU sends per step: up to ZeRO 1 gradients are all-reduced once.

    From ZeRO 2 on gradients are reduced to their owners after every part; in ZeRO 3 weights are gathered twice per part.
    """
    times = {0: 2, 1: 2, 2: setup.accumulate + 1, 3: 3 * setup.accumulate}[setup.zero]
    return times * FLOAT * prior.parameters().all * (gpus - 1) / gpus


def budget(prior: PriorConfig, setup: Training, machines: Machines) -> Budget:
    """Predict the training of a prior on some hardware."""
    cost, windows = cost_of(prior, setup, machines.device), setup.rows * setup.accumulate
    passes = (4 if setup.recompute else 3) * cost.trunk + 3 * cost.rest  # the backward pass is twice the forward one
    batch = windows * machines.gpus
    return Budget(
        memory(prior, setup, machines.gpus, machines.device), FRAMEWORK[machines.device],
        windows * passes / (machines.rate * machines.share), exchanged(prior, setup, machines.gpus) / machines.network,
        batch, batch * prior.n_ctx,
    )  # fmt: skip


def largest_rows(prior: PriorConfig, setup: Training, machines: Machines, most: int) -> int:
    """The largest number of rows that fits a GPU, a divisor of `most`; 0 if not even one does."""
    small = [n for n in range(1, math.isqrt(most) + 1) if most % n == 0]
    for rows in sorted({*small, *(most // n for n in small)}, reverse=True):
        parts = memory(prior, replace(setup, rows=rows), machines.gpus, machines.device)
        if FRAMEWORK[machines.device] + sum(parts.values()) <= ROOM * machines.memory:
            return rows
    return 0
