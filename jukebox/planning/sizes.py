"""How many numbers a model holds and makes, from its configuration alone: nothing is built, and torch is not imported.

Configurations are those of config.json, plain dicts. What is counted here is what priors/ and vqvae/ build; the tests hold
every count against the tensors themselves. Sequences are counted for one row of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Weights:
    """Numbers of a prior by what becomes of them: matrices of the trunk, layer norms (float32 whatever the rest is), others."""

    matrices: int
    columns: int  # of all matrices together
    norms: int
    others: int
    table: int  # of the others, the output table, which every step reads as it reads the matrices

    @property
    def all(self) -> int:
        return self.matrices + self.norms + self.others


def head_room(trunk: Config) -> tuple[int, int, int]:
    """Widths of a trunk's attention and MLP, and its steps a block."""
    width, block = trunk["width"], trunk["n_ctx"] // trunk["blocks"]
    return int(trunk["m_attn"] * width), int(trunk["m_mlp"] * width), block


def patterns(trunk: Config) -> list[str]:
    """The attention pattern of every layer."""
    return [trunk["order"][layer % len(trunk["order"])] for layer in range(trunk["depth"])]


def prime_reach(trunk: Config) -> int:
    """Steps that a `prime` layer sees: rounded up past the prime to whole blocks."""
    return (trunk["prime"] // trunk["blocks"] + 1) * trunk["blocks"] if trunk["prime"] else 0


def lyric_prefix(prior: Config) -> int:
    """Letters that stand in front of the codes in one sequence with them."""
    lyrics = prior["lyrics"]
    return lyrics["n_tokens"] if lyrics and lyrics["trunk"]["depth"] == 0 else 0


def vocabulary(prior: Config) -> int:
    """Rows of the tables that embed tokens and tell them apart."""
    return prior["bins"] + (prior["lyrics"]["vocabulary"] if lyric_prefix(prior) else 0)


def window(prior: Config) -> int:
    """Codes of a window."""
    return prior["trunk"]["n_ctx"] - lyric_prefix(prior)


# ---- weights


def products(trunk: Config) -> Iterator[tuple[int, int]]:
    """(rows, columns) of every matrix of a trunk; each has a bias a column."""
    width, (state, hidden, _) = trunk["width"], head_room(trunk)
    for pattern in patterns(trunk):
        yield width, state if pattern == "cross" else 3 * state
        if pattern == "cross":
            yield width, 2 * state
        yield state, width
        yield width, hidden
        yield hidden, width


def _rest_of(trunk: Config) -> tuple[int, int]:
    """Numbers of a trunk's norms, and of what is neither norm nor matrix: biases, slopes of time."""
    slopes = trunk["heads"] * patterns(trunk).count("cross") * bool(trunk["time_bias"])
    return 4 * trunk["width"] * trunk["depth"], sum(columns for _, columns in products(trunk)) + slopes


def prior_weights(prior: Config) -> Weights:
    """The numbers of a prior's file."""
    trunk, labels, lyrics, above = prior["trunk"], prior["labels"], prior["lyrics"], prior["above"]
    width, prefix = trunk["width"], lyric_prefix(prior)
    rows = vocabulary(prior)
    matrices = list(products(trunk))
    norms, others = _rest_of(trunk)
    others += (rows + trunk["n_ctx"]) * width + (0 if prior["tied"] else rows * width)
    others += (labels["artists"] + labels["genres"] + 3 * labels["timing_bins"] if labels else 1) * width
    if above:
        norms += 2 * width
        others += above["bins"] * width + upsampler_weights(above, width)
    if lyrics and not prefix:
        more_norms, more = _encoder_of(lyrics, width)
        norms, others = norms + more_norms, others + more
    numbers = sum(n_in * n_out for n_in, n_out in matrices)
    return Weights(numbers, sum(columns for _, columns in matrices), norms, others, rows * width)


def _encoder_of(lyrics: Config, width: int) -> tuple[int, int]:
    """Numbers of the lyric encoder's norms, and of all else in it."""
    inner = lyrics["trunk"]
    norms, others = _rest_of(inner)
    others += sum(n_in * n_out for n_in, n_out in [*products(inner), (inner["width"], width)]) + width
    others += (lyrics["vocabulary"] + lyrics["n_tokens"]) * inner["width"]
    others += (inner["width"] + lyrics["vocabulary"] * width) if lyrics["causal"] else 0
    return norms + 2 * width, others


def _convolution(channels_in: int, channels_out: int, kernel: int) -> int:
    return channels_in * channels_out * kernel + channels_out


def _stack(width: int, depth: int, m_conv: float = 1.0) -> int:
    hidden = int(m_conv * width)
    return depth * (_convolution(width, hidden, 3) + _convolution(hidden, width, 1))


def upsampler_weights(above: Config, width: int) -> int:
    """The convolutions that bring coarser codes to this level's rate."""
    inner, ups, kernel = above["width"], above["ups"], 2 * above["stride"]
    ups_out = [inner] * (ups - 1) + [width]
    steps = sum(_stack(inner, above["depth"]) + _convolution(inner, out, kernel) for out in ups_out)
    return _convolution(width, inner, 3) + steps


# ---- the prior of all levels


def ratios(masked: Config) -> list[int]:
    """Codes of each level in a column of a masked prior."""
    return [masked["hops"][-1] // hop for hop in masked["hops"]]


def masked_weights(masked: Config) -> Weights:
    """The numbers of a masked prior's file; its table is that of all slots."""
    trunk, labels, lyrics = masked["trunk"], masked["labels"], masked["lyrics"]
    width, slots, levels = trunk["width"], sum(ratios(masked)), range(len(masked["hops"]))
    matrices = [*products(trunk), (slots * masked["vector"], width)]
    norms, others = _rest_of(trunk)
    norms, others = norms + 2 * width, others + width
    others += (len(levels) * masked["bins"] + slots) * masked["vector"] + trunk["n_ctx"] * width
    norms += 2 * masked["head_width"] * len(levels)
    others += sum(_fine_weights(masked, level) for level in levels)
    others += (labels["artists"] + labels["genres"] + 3 * labels["timing_bins"]) * width if labels else 0
    if lyrics:
        more_norms, more = _encoder_of(lyrics, width)
        norms, others = norms + more_norms, others + more
    numbers = sum(n_in * n_out for n_in, n_out in matrices)
    return Weights(numbers, sum(out for _, out in matrices), norms, others, masked["head_width"] * masked["bins"])


def _fine_weights(masked: Config, level: int) -> int:
    """Numbers that bring columns back to the codes of a level, but for the norm."""
    fine, ratio = masked["head_width"], ratios(masked)[level]
    above, below = [*ratios(masked), 0][level + 1], ratios(masked)[level - 1] if level else 0
    unfold = (masked["trunk"]["width"] + 1) * ratio * fine
    steps = ([ratio // above] if above else []) + ([below // ratio] if below else [])
    inputs = sum(_convolution(masked["vector"], fine, kernel) for kernel in (3, *(2 * step for step in steps)))
    return unfold + inputs + _stack(fine, masked["local"]) + (fine + 1) * masked["bins"]


def pass_products(masked: Config, level: int) -> tuple[int, int]:
    """Multiplications of a pass over a column but for logits, and of the logits of one code."""
    width, fine, ratio = masked["trunk"]["width"], masked["head_width"], ratios(masked)[level]
    attention = 2 * int(masked["trunk"]["m_attn"] * width) * masked["trunk"]["n_ctx"] * masked["trunk"]["depth"]
    code = _convolution(masked["vector"], fine, 13) + _stack(
        fine, masked["local"]
    )  # kernel 3, 2s every s above, 2s below
    return masked_weights(masked).matrices + attention + ratio * (width * fine + code), fine * masked["bins"]


AT_ONCE, PIECE = 256, 2**18  # of priors/masked/model.py and priors/masked/heads.py; a test holds them together


def pass_bytes(masked: Config, level: int, rows: int, columns: int, itemsize: int) -> int:
    """Bytes of a pass over a level: all columns embedded and in a layer of the trunk, or a piece at the level's rate with its logits.

    Half as much again is what the heap was seen to hold between them.
    """
    trunk, slots, ratio = masked["trunk"], sum(ratios(masked)), ratios(masked)[level]
    _, hidden, _ = head_room(trunk)
    layer = itemsize * (4 * trunk["width"] + max(2 * hidden, 4 * trunk["width"])) + 8 * trunk["width"]
    piece = min(columns * ratio, max(ratio, PIECE // masked["head_width"]))
    fine = rows * piece * 5 * masked["head_width"] * itemsize + AT_ONCE * masked["bins"] * (itemsize + 4 * 4)
    embedded, codes = rows * columns * slots * masked["vector"] * itemsize, rows * columns * ratio * 8 * 8
    return (2 * embedded + codes + max(rows * columns * layer, fine, embedded)) * 3 // 2


# ---- what decoding keeps


def cache_numbers(prior: Config) -> dict[str, int]:
    """Keys and values of a window by pattern, each as long as it reaches; what time takes from the logits of cross is with it."""
    trunk, tokens = prior["trunk"], prior["lyrics"]["n_tokens"] if prior["lyrics"] else 0
    (state, _, block), n_ctx = head_room(trunk), trunk["n_ctx"]
    steps = {
        "dense": n_ctx, "prime": min(prime_reach(trunk), n_ctx) + 1, "row": block, "previous_row": 2 * block,
        "column": block * -(-n_ctx // block), "cross": tokens,
    }  # fmt: skip
    numbers: dict[str, int] = {}
    for pattern in patterns(trunk):
        bias = trunk["heads"] * window(prior) * tokens if pattern == "cross" and trunk["time_bias"] else 0
        numbers[pattern] = numbers.get(pattern, 0) + 2 * steps[pattern] * state + bias
    return numbers


def seen_numbers(prior: Config) -> int:
    """Keys and values that a step in the middle of a window reads."""
    trunk, tokens = prior["trunk"], prior["lyrics"]["n_tokens"] if prior["lyrics"] else 0
    (state, _, block), n_ctx = head_room(trunk), trunk["n_ctx"]
    steps = {
        "dense": n_ctx // 2, "prime": prime_reach(trunk), "row": block // 2, "previous_row": block,
        "column": n_ctx // block // 2, "cross": tokens,
    }  # fmt: skip
    return sum(2 * steps[pattern] * state for pattern in patterns(trunk))


def condition_numbers(prior: Config) -> tuple[int, int]:
    """What a window keeps of its conditions: numbers in the dtype of the stream, and in float32."""
    trunk, labels, lyrics = prior["trunk"], prior["labels"], prior["lyrics"]
    width, prefix = trunk["width"], lyric_prefix(prior)
    along = bool(prior["above"] or (labels and (labels["timing_bins"] or (labels["everywhere"] and prefix))))
    kept = trunk["n_ctx"] * width * along
    if not lyrics or prefix:
        return kept, 0
    return kept + lyrics["n_tokens"] * width, window(prior) * lyrics["n_tokens"] * bool(trunk["time_bias"])


def prefill_bytes(prior: Config, itemsize: int) -> int:
    """Bytes a step of the prime costs while a window starts: what a block holds in its norm (in float32) or in its MLP."""
    width, (state, hidden, _) = prior["trunk"]["width"], head_room(prior["trunk"])
    # embedded, in, normed, its q, k and v, attended, and their sum
    held = itemsize * (5 * width + 3 * state)
    norm = width * (8 + itemsize) if itemsize < 4 else width * itemsize
    return held + max(norm, itemsize * (2 * hidden + width))


def upsampler_bytes(prior: Config, itemsize: int) -> int:
    """Bytes that bringing the coarser codes of a window to this level's rate takes, its result among them."""
    if not prior["above"]:
        return 0
    return window(prior) * prior["trunk"]["width"] * (2 * itemsize + (8 if itemsize < 4 else 0))


# ---- the codec


def hops(codec: Config) -> tuple[int, ...]:
    """Samples a code of each level stands for."""
    return tuple(accumulate((s**d for s, d in zip(codec["strides_t"], codec["downs_t"], strict=True)), mul))


def _shape_of(codec: Config, level: int) -> tuple[Sequence[int], int]:
    """Channels of a level's stages, and residual blocks of each of its stacks."""
    many = codec["multipliers"]
    widths = codec["widths"][level] if codec["widths"] else [codec["width"] * many[level]] * (level + 1)
    return widths, codec["depths"][level] if codec["depths"] else codec["depth"] * many[level]


def codec_weights(codec: Config, level: int) -> int:
    """The numbers of a level of the codec, all float32: encoder, decoder, codebook and its running sums."""
    (widths, depth), emb = _shape_of(codec, level), codec["emb_width"]
    total = codec["bins"] * (2 * emb + 1) + _convolution(emb, codec["channels"], 3)
    for stage, width in enumerate(widths):
        down, kernel = codec["downs_t"][stage], 2 * codec["strides_t"][stage]
        first = emb if stage else codec["channels"]
        total += 2 * down * _stack(width, depth, codec["m_conv"])
        total += _convolution(first, width, kernel) + (down - 1) * _convolution(width, width, kernel)
        total += _convolution(width, emb, 3) + _convolution(emb, width, 3)
        total += (down - 1) * _convolution(width, width, kernel) + _convolution(width, emb, kernel)
    return total


def codec_reach(codec: Config, level: int) -> int:
    """Samples behind one that a level's decoder waits for: the sum of its dilations, each at its own rate."""
    (widths, depth), cycle = _shape_of(codec, level), codec["dilation_cycle"]
    dilations = sum(codec["dilation_growth_rate"] ** (i % cycle if cycle else i) for i in range(depth))
    reach, hop = 0, hops(codec)[level]
    for stage in reversed(range(len(widths))):
        for _ in range(codec["downs_t"][stage]):
            reach += dilations * hop
            hop //= codec["strides_t"][stage]
    return reach


def codec_products(codec: Config, level: int) -> float:
    """Multiplications of decoding one sample of sound at a level."""
    (widths, depth), hop, products = _shape_of(codec, level), hops(codec)[level], 0.0
    for stage in reversed(range(len(widths))):
        down, stride, width = codec["downs_t"][stage], codec["strides_t"][stage], widths[stage]
        products += _convolution(codec["emb_width"], width, 3) / hop
        for step in range(down):
            out = width if step < down - 1 else codec["emb_width"] if stage else codec["channels"]
            products += _stack(width, depth, codec["m_conv"]) / hop + _convolution(width, out, 2 * stride) / hop
            hop //= stride
    return products
