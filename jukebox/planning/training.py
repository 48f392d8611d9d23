"""What training a prior will take, before it begins: memory of each GPU under ZeRO, seconds a step, days; from a configuration alone.

    weights      float32, whole on every GPU up to ZeRO 2; in ZeRO 3 a share, and the layers that are gathered at the moment
    gradients    float32, in ZeRO 2 and 3 a share           moments   two of Adam, float32, a share from ZeRO 1 on
    buffers      the shares' own copies and what is reduced at once; the average of the weights (EMA) where there is one
    activations  what is kept between the forward and the backward pass, and the logits

Weights and moments are float32 and products bf16 (autocast), in every engine. Activations are counted from what the layers keep
(`priors/transformer/linear.py`); the tests hold the count against autograd's own. Time is products over a rate: a card's peak or a measured
one, times the share of it that training reaches. Nothing is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jukebox.planning import sizes
from jukebox.planning.sampling import FRAMEWORK

# card -> bytes of memory, bf16 operations a second that its maker states (dense; V100: fp16)
CARDS = {
    "RTX3090": (24e9, 71e12), "RTX4090": (24e9, 165e12), "V100": (32e9, 125e12), "A100-40": (40e9, 312e12),
    "A100": (80e9, 312e12), "H100": (80e9, 989e12), "H200": (141e9, 989e12),
}  # fmt: skip
FLOAT, BF16 = 4, 2
LIVE = 100_000_000  # numbers that ZeRO 3 keeps gathered at most, and
BUCKET = 50_000_000  # numbers that are reduced at once: as launch/training/deepspeed_config.py sets them
ROOM = 0.94  # share of a GPU's memory that may be planned with: the allocator wastes some
SHORT_BLOCK, SHORT_WINDOW = (
    128,
    512,
)  # keys up to which a CPU keeps the softmax of a block, of a window (priors/transformer/attention.py)


@dataclass(frozen=True)
class Machines:
    """What trains: GPUs (or CPU processes), a GPU's memory and rate, the share of the rate that is reached, bytes a second between."""

    gpus: int
    memory: float
    rate: float
    share: float
    network: float
    device: str = "cuda"


@dataclass(frozen=True)
class Training:
    """How: rows of a GPU at once, in how many parts the batch is taken, ZeRO's stage and the rest of what changes memory."""

    rows: int
    accumulate: int = 1
    zero: int = 0
    bf16: bool = True
    recompute: bool = False
    offload: bool = False
    ema: bool = False


@dataclass(frozen=True)
class Budget:
    """A training predicted: bytes of each GPU by part, and seconds of a step by what they are spent on."""

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
        """Of a step: what is sent goes beside the computing, as far as it can."""
        return max(self.compute, self.exchange)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


# ---- activations, for one row of a batch


def block_bytes(trunk: sizes.Config, pattern: str, bf16: bool, lyric_tokens: int = 0, cpu: bool = False) -> float:
    """Bytes a step that a block keeps: its stream twice, queries, keys, values, what was attended, and the MLP's hidden layer.

    In bf16 norms and activations are kept too, since they are half as large as what they are made of.
    """
    width, (state, hidden, block) = trunk["width"], sizes.head_room(trunk)
    item, steps = BF16 if bf16 else FLOAT, trunk["n_ctx"]
    kept = 2 * FLOAT * width + item * (4 * state + hidden) + FLOAT * trunk["heads"]
    if bf16:
        kept += BF16 * (2 * width + hidden) + 4 * FLOAT
    if pattern == "cross":  # keys and values are the letters'
        kept += item * state * (-2 + 2 * lyric_tokens / steps)
        kept += FLOAT * trunk["heads"] * lyric_tokens * 2 if trunk["time_bias"] else 0
    if pattern == "prime":
        kept += item * state
    if (
        cpu and bf16 and pattern == "dense" and steps <= SHORT_WINDOW
    ):  # some queries at a time over copies of the keys so far
        reach = (steps + SHORT_BLOCK) / 2
        kept += BF16 * (trunk["heads"] * reach + 2 * state * (reach / SHORT_BLOCK - 1))
    keys = {"row": block, "previous_row": block, "column": steps / block}.get(pattern, 0)
    if cpu and 0 < keys <= SHORT_BLOCK:
        kept += item * trunk["heads"] * keys - FLOAT * trunk["heads"]
        kept += item * 2 * state if pattern == "row" else 0  # queries and keys in another order
    return kept


def _trunk_bytes(trunk: sizes.Config, bf16: bool, recompute: bool, lyric_tokens: int, cpu: bool) -> float:
    blocks = [trunk["n_ctx"] * block_bytes(trunk, p, bf16, lyric_tokens, cpu) for p in sizes.patterns(trunk)]
    if recompute:  # the stream in front of every block, and the block that is being made again, with what it works with
        width, (_, hidden, _) = trunk["width"], sizes.head_room(trunk)
        working = (BF16 if bf16 else FLOAT) * trunk["n_ctx"] * (2 * hidden + width)
        return FLOAT * trunk["n_ctx"] * width * len(blocks) + max(blocks) + working
    return sum(blocks)


def activation_bytes(prior: sizes.Config, bf16: bool, recompute: bool = False, cpu: bool = False) -> float:
    """Bytes a row of a batch keeps when its backward pass begins: trunk, lyrics, the codes above, and the logits twice."""
    trunk, lyrics, above, item = prior["trunk"], prior["lyrics"], prior["above"], BF16 if bf16 else FLOAT
    width, steps = trunk["width"], trunk["n_ctx"]
    lyric_tokens = lyrics["n_tokens"] if lyrics and not sizes.lyric_prefix(prior) else 0
    kept = _trunk_bytes(trunk, bf16, recompute, lyric_tokens, cpu)
    kept += steps * (item * width + 2 * FLOAT * sizes.vocabulary(prior))
    if lyric_tokens and lyrics:
        kept += _trunk_bytes(lyrics["trunk"], bf16, recompute, 0, cpu) + 3 * FLOAT * lyric_tokens * width
    if above:
        coarse = steps / above["stride"] ** above["ups"]
        kept += coarse * item * above["width"] * (2 * above["depth"] + 2) + 2 * FLOAT * steps * width
    return kept


# ---- operations


def operations(prior: sizes.Config) -> tuple[float, float]:
    """Floating-point operations of a window's forward pass: of its trunk, which recomputing does again, and of the rest."""
    trunk, lyrics, above = prior["trunk"], prior["lyrics"], prior["above"]
    steps, (state, _, block) = trunk["n_ctx"], sizes.head_room(trunk)
    lyric_tokens = lyrics["n_tokens"] if lyrics else 0
    keys = {
        "dense": steps / 2,
        "row": block / 2,
        "column": steps / block / 2,
        "previous_row": block,
        "cross": lyric_tokens,
        "prime": sizes.prime_reach(trunk),
    }
    through = 2 * sum(a * b for a, b in sizes.products(trunk)) * steps
    crosses = sizes.patterns(trunk).count("cross")  # keys and values of letters are made once a letter
    through -= 4 * trunk["width"] * state * crosses * (steps - lyric_tokens)
    through += sum(4 * state * keys[pattern] for pattern in sizes.patterns(trunk)) * steps
    rest = 2.0 * trunk["width"] * sizes.vocabulary(prior) * steps
    if lyrics and not sizes.lyric_prefix(prior):
        rest += 2 * sum(a * b for a, b in sizes.products(lyrics["trunk"])) * lyric_tokens
    if above:
        rest += 2 * sizes.upsampler_weights(above, trunk["width"]) * steps / above["stride"]
    return through, rest


# ---- the whole


def memory(prior: sizes.Config, setup: Training, gpus: int, device: str = "cuda") -> dict[str, float]:
    """Bytes of each GPU by part."""
    numbers = sizes.prior_weights(prior).all
    share, whole = numbers / gpus, float(numbers)
    weights, gradients, moments = (share if setup.zero >= stage else whole for stage in (3, 2, 1))
    live = min(whole, LIVE) if setup.zero == 3 else 0.0
    copies = share if setup.zero else 0.0
    buffers = min(whole, BUCKET) if setup.zero or gpus > 1 else 0.0
    # gradients that wait to be reduced: in ZeRO 2 those of others beside one's own, in ZeRO 3 all once more
    buffers += min({2: whole - share, 3: whole}.get(setup.zero, 0.0), BUCKET)
    if setup.offload:
        moments = copies = 0.0
    ema = (share if setup.zero else whole) if setup.ema else 0.0
    kept = setup.rows * activation_bytes(prior, setup.bf16, setup.recompute, device == "cpu")
    return {
        "weights": FLOAT * (weights + live), "gradients": FLOAT * gradients, "moments": 2 * FLOAT * moments,
        "buffers": FLOAT * (copies + buffers + ema), "activations": kept,
    }  # fmt: skip


def exchanged(prior: sizes.Config, setup: Training, gpus: int) -> float:
    """Bytes that each GPU sends in a step: up to ZeRO 1 gradients are summed and weights or sums handed back, once.

    From ZeRO 2 on gradients go to their owners after every part, in ZeRO 3 weights are gathered twice a part.
    """
    times = {0: 2, 1: 2, 2: setup.accumulate + 1, 3: 3 * setup.accumulate}[setup.zero]
    return times * FLOAT * sizes.prior_weights(prior).all * (gpus - 1) / gpus


def budget(prior: sizes.Config, setup: Training, machines: Machines) -> Budget:
    """The training of a prior on some machines, predicted."""
    trunk, rest = operations(prior)
    windows = setup.rows * setup.accumulate
    passes = (4 if setup.recompute else 3) * trunk + 3 * rest  # the backward pass is twice the forward one
    batch = windows * machines.gpus
    return Budget(
        memory(prior, setup, machines.gpus, machines.device), FRAMEWORK[machines.device],
        windows * passes / (machines.rate * machines.share), exchanged(prior, setup, machines.gpus) / machines.network,
        batch, batch * sizes.window(prior),
    )  # fmt: skip


def largest_rows(prior: dict[str, Any], setup: Training, machines: Machines, most: int) -> int:
    """The most rows at once that fit into a GPU, a divisor of `most`; 0 where not even one does."""
    for rows in sorted((n for n in range(1, most + 1) if most % n == 0), reverse=True):
        parts = memory(prior, replace(setup, rows=rows), machines.gpus, machines.device)
        if FRAMEWORK[machines.device] + sum(parts.values()) <= ROOM * machines.memory:
            return rows
    return 0
