"""Predict the memory of each GPU under ZeRO and the seconds per step of training a prior, from a configuration alone.

    weights      float32; all on every GPU up to ZeRO 2; in ZeRO 3 a share, and the layers that are gathered at the moment
    gradients    float32; a share from ZeRO 2 on
    moments      two of Adam, float32; a share from ZeRO 1 on
    buffers      copies of the shares and reduction buffers; the average of the weights (EMA), if used
    activations  activations between the forward and the backward pass, and the logits

Weights and moments are float32 and products are bf16 (autocast), in every engine. `PriorConfig.training_cost` returns the
activations and the operations. The time is the number of operations over the rate that training reaches. This rate is a share
of the peak rate of the card, or of a measured rate. No model is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from data_prep.errors import UserError
from jukebox.planning.sampling import FRAMEWORK
from priors.spec import PriorConfig, TrainingCost

# card -> bytes of memory, bf16 operations per second as specified by the maker (dense; V100: fp16)
CARDS = {
    "RTX3090": (24e9, 71e12), "RTX4090": (24e9, 165e12), "V100": (32e9, 125e12), "A100-40": (40e9, 312e12),
    "A100": (80e9, 312e12), "H100": (80e9, 989e12), "H200": (141e9, 989e12),
}  # fmt: skip
FLOAT = 4  # bytes
# both as in launch/engines/deepspeed_config.py
LIVE = 100_000_000  # largest number of weights that ZeRO 3 keeps gathered
BUCKET = 50_000_000  # values that are reduced together
ROOM = 0.94  # usable share of a GPU's memory, because the allocator wastes some


@dataclass(frozen=True)
class Machines:
    """Training hardware."""

    gpus: int  # number of GPUs or CPU processes
    memory: float  # bytes of each GPU
    rate: float  # operations per second of each GPU
    share: float  # share of the rate that training reaches
    network: float  # bytes per second between GPUs
    device: str = "cuda"


@dataclass(frozen=True)
class Training:
    """Settings of training that change the memory."""

    rows: int  # rows of a GPU in one forward pass
    accumulate: int = 1  # forward passes per step
    zero: int = 0  # stage of ZeRO, 0 to 3
    bf16: bool = True
    recompute: bool = False  # activation checkpointing
    offload: bool = False  # moments are in CPU memory
    ema: bool = False  # average of the weights


@dataclass(frozen=True)
class Budget:
    """Prediction for a training."""

    parts: dict[str, float]  # bytes of each GPU by part
    framework: float  # bytes of a process without a model
    compute: float  # seconds of computation per step
    exchange: float  # seconds of communication per step
    batch: int  # rows per step
    tokens: int  # tokens per step

    @property
    def bytes(self) -> float:
        return self.framework + sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Seconds of a step if communication and computation overlap completely."""
        return max(self.compute, self.exchange)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


# ---- prediction


def cost_of(prior: PriorConfig, setup: Training, device: str = "cuda") -> TrainingCost:
    """Cost of training on one window; UserError if it is unknown for this kind of prior."""
    cost = prior.training_cost(setup.bf16, setup.recompute, device == "cpu")
    if cost is None:
        raise UserError(f"the cost of training a prior of kind {prior.kind} is not known; choose another --level")
    return cost


def memory(prior: PriorConfig, setup: Training, gpus: int, device: str = "cuda") -> dict[str, float]:
    """Return the bytes of each GPU by part."""
    numbers = prior.parameters().all
    share, whole = numbers / gpus, float(numbers)
    weights, gradients, moments = (share if setup.zero >= stage else whole for stage in (3, 2, 1))
    live = min(whole, LIVE) if setup.zero == 3 else 0.0
    copies = share if setup.zero else 0.0
    buffers = min(whole, BUCKET) if setup.zero or gpus > 1 else 0.0
    # gradients that wait for reduction: in ZeRO 2 also gradients of other shares, in ZeRO 3 a second copy of all gradients
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
    """Return the bytes that each GPU sends per step.

    Up to ZeRO 1, gradients are all-reduced once. From ZeRO 2 on, gradients are reduced to their owners after every forward and
    backward pass. In ZeRO 3, weights are also gathered twice per pass.
    """
    times = {0: 2, 1: 2, 2: setup.accumulate + 1, 3: 3 * setup.accumulate}[setup.zero]
    return times * FLOAT * prior.parameters().all * (gpus - 1) / gpus


def budget(prior: PriorConfig, setup: Training, machines: Machines) -> Budget:
    """Predict memory and time per step of training a prior on `machines`."""
    cost, windows = cost_of(prior, setup, machines.device), setup.rows * setup.accumulate
    passes = (4 if setup.recompute else 3) * cost.trunk + 3 * cost.rest  # the backward pass is twice the forward one
    batch = windows * machines.gpus
    return Budget(
        memory(prior, setup, machines.gpus, machines.device), FRAMEWORK[machines.device],
        windows * passes / (machines.rate * machines.share), exchanged(prior, setup, machines.gpus) / machines.network,
        batch, batch * prior.n_ctx,
    )  # fmt: skip


def largest_rows(prior: PriorConfig, setup: Training, machines: Machines, most: int) -> int:
    """Return the largest number of rows that fits into a GPU's memory and divides `most`; 0 if one row does not fit."""
    small = [n for n in range(1, math.isqrt(most) + 1) if most % n == 0]
    for rows in sorted({*small, *(most // n for n in small)}, reverse=True):
        parts = memory(prior, replace(setup, rows=rows), machines.gpus, machines.device)
        if FRAMEWORK[machines.device] + sum(parts.values()) <= ROOM * machines.memory:
            return rows
    return 0
