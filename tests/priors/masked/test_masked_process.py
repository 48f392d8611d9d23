"""A masked prior learns a known process: codes whose conditional entropy under any mask can be computed exactly.

The top codes are a Markov chain, each middle code follows its top code, each bottom code its middle code, each with some noise. So
what is hidden has an exact distribution given what is seen (belief propagation on a tree), whatever the mask.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from priors.conditioning.conditions import Conditions
from priors.masked.config import MaskedConfig
from priors.masked.model import MaskedPrior
from priors.prior import Batch
from priors.transformer.config import Init, TrunkConfig

K, COLUMNS, RATIOS = 6, 24, {"vq.0": 4, "vq.1": 2, "vq.2": 1}
CHAIN, FOLLOW = 0.8, 0.85  # probability of the next state, of a code that follows the one above; else any


def follow(offset: int, p: float) -> np.ndarray:
    """Probabilities (above, below) of a code that is the one above plus `offset` with p, and anything else alike."""
    return p * np.roll(np.eye(K), offset, axis=1) + (1 - p) / K


def draw(rows: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    def step(above: np.ndarray, offset: int, p: float) -> np.ndarray:
        return np.where(rng.random(above.shape) < p, (above + offset) % K, rng.integers(K, size=above.shape))

    top = [rng.integers(K, size=rows)]
    for _ in range(COLUMNS - 1):
        top.append(step(top[-1], 1, CHAIN))
    codes = {"vq.2": np.stack(top, 1)}
    for stream, above in (("vq.1", "vq.2"), ("vq.0", "vq.1")):
        codes[stream] = np.stack([step(codes[above], j, FOLLOW) for j in range(2)], 2).reshape(rows, -1)
    return {stream: torch.from_numpy(x) for stream, x in codes.items()}


def seen(code: int, known: bool) -> np.ndarray:
    return np.eye(K)[code] if known else np.ones(K)


def exact_bits(codes: dict[str, np.ndarray], keep: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Bits of every hidden code of one row under its exact distribution given all that is seen."""
    under, parts = [follow(j, FOLLOW) for j in range(2)], []  # messages that go up
    bottom = [seen(codes["vq.0"][i], keep["vq.0"][i]) for i in range(4 * COLUMNS)]
    middle_own = [
        seen(codes["vq.1"][i], keep["vq.1"][i]) * np.prod([under[j] @ bottom[2 * i + j] for j in range(2)], axis=0)
        for i in range(2 * COLUMNS)
    ]
    top_own = [
        seen(codes["vq.2"][t], keep["vq.2"][t]) * np.prod([under[j] @ middle_own[2 * t + j] for j in range(2)], axis=0)
        for t in range(COLUMNS)
    ]
    chain = follow(1, CHAIN)
    ahead, behind = [np.ones(K) / K], [np.ones(K)]
    for t in range(COLUMNS - 1):
        parts.append(ahead[-1] * top_own[t])
        ahead.append(parts[-1] / parts[-1].sum() @ chain)
        back = chain @ (behind[0] * top_own[COLUMNS - 1 - t])
        behind.insert(0, back / back.sum())
    bits: dict[str, list[float]] = {stream: [] for stream in RATIOS}

    def note(stream: str, at: int, belief: np.ndarray) -> None:
        if not keep[stream][at]:
            bits[stream].append(-float(np.log2(belief[codes[stream][at]] / belief.sum())))

    for t in range(COLUMNS):
        top = ahead[t] * behind[t] * top_own[t]
        note("vq.2", t, top)
        for j in range(2):
            i = 2 * t + j
            down = (top / (under[j] @ middle_own[i])) @ under[j]  # without what came up from here
            note("vq.1", i, down * middle_own[i])
            for k in range(2):
                n = 2 * i + k
                note("vq.0", n, (down * middle_own[i] / (under[k] @ bottom[n])) @ under[k] * bottom[n])
    return bits


def test_the_exact_distribution_is_that_of_counting_all_cases():
    """One column, by brute force."""
    rng = np.random.default_rng(3)
    codes = {stream: x[0, : RATIOS[stream]].numpy() for stream, x in draw(1, rng).items()}
    known = {"vq.2": [False], "vq.1": [False, True], "vq.0": [True, False, True, True]}
    keep = {stream: np.array(x) for stream, x in known.items()}
    table = np.einsum("a,ab,ac,bd,be,cf,cg->abcdefg", np.ones(K) / K, *(follow(j, FOLLOW) for j in (0, 1, 0, 1, 0, 1)))
    order = [(stream, i) for stream, count in reversed(RATIOS.items()) for i in range(count)]
    given = table[tuple(codes[stream][i] if keep[stream][i] else slice(None) for stream, i in order)]
    hidden = [(stream, i) for stream, i in order if not keep[stream][i]]
    global COLUMNS
    before, COLUMNS = COLUMNS, 1
    try:
        bits = exact_bits(codes, keep)
    finally:
        COLUMNS = before
    for axis, (stream, i) in enumerate(hidden):
        belief = given.sum(tuple(other for other in range(len(hidden)) if other != axis))
        expected = -np.log2(belief[codes[stream][i]] / belief.sum())
        assert bits[stream][int((~keep[stream][:i]).sum())] == pytest.approx(expected)


@pytest.mark.long
def test_bits_of_half_hidden_codes_come_within_a_tenth_of_the_exact_ones():
    """V3 on a known process, over all hidden codes; the control is the same net untrained."""
    torch.manual_seed(0)
    trunk = TrunkConfig(COLUMNS, 48, 2, 4, ("full",), m_attn=1.0, m_mlp=2.0, init=Init(0.03, 0.3, 0.1, 0.3, 0.5))
    prior = MaskedPrior(MaskedConfig(K, (1, 2, 4), 100, trunk, vector=16, head_width=32, local=2))
    rng = np.random.default_rng(0)
    test, keep_rng = draw(64, rng), np.random.default_rng(1)
    keep = {stream: torch.from_numpy(keep_rng.random(x.shape) < 0.5) for stream, x in test.items()}

    def measured() -> dict[str, float]:
        return {stream: bits.nanmean().item() for stream, bits in prior.nll(test, Conditions(), keep).items()}

    untrained = measured()
    optimiser = torch.optim.AdamW(prior.parameters(), 3e-3)
    steps = 2600
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (steps - step) / (0.5 * steps))
        optimiser.zero_grad()
        prior.loss(Batch(draw(16, rng), Conditions()))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
    trained, exact = measured(), {stream: [] for stream in RATIOS}
    for i in range(64):
        row = exact_bits(*({stream: x[i].numpy() for stream, x in both.items()} for both in (test, keep)))
        for stream, bits in row.items():
            exact[stream] += bits
    hidden = {stream: len(bits) for stream, bits in exact.items()}
    best = sum(sum(bits) for bits in exact.values())
    before, after = (sum(found[stream] * n for stream, n in hidden.items()) for found in (untrained, trained))
    assert 0.97 * best < after < 1.1 * best < before, (best, after, before)
