"""The claims of the evidence: each has a figure, computed from the rows over seeds, a target, and whether the target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Values = Mapping[str, Mapping[str, Sequence[float]]]  # row -> figure -> its value for each seed, nan if missing
LOWER_IS_BETTER = {"frechet", "attack_ms", "shared_s"}

ABSOLUTE = (
    ("seconds of a song", "generated", "seconds", ">=", 14.0),
    ("new seconds of a continuation", "continued, new part", "seconds", ">=", 6.0),
    ("Frechet distance of songs", "generated", "frechet", "<=", 35.0),
    ("Frechet distance of new parts", "continued, new part", "frechet", "<=", 30.0),
    ("peakiness", "generated", "peakiness", ">=", 0.85),
    ("artist", "generated", "artist", ">=", 0.9),
    ("genre", "generated", "genre", ">=", 0.8),
    ("vowels by another song's lyrics (chance .2)", "another song's lyrics", "vowels", "<=", 0.25),
    ("tempo within 4 %", "generated", "tempo", ">=", 0.8),
    ("progression", "generated", "progression", ">=", 0.1),
)
# claim, row, figure, row of the divisor, target of the quotient
RELATIVE = (
    ("vowels / true songs'", "generated", "vowels", "true songs of the requests", ">=", 0.75),
    ("vowels of unseen words / true songs'", "generated, unseen words", "vowels", "true songs of the requests", ">=", 0.6),
    ("longest shared run / held-out songs'", "generated", "shared_s", "held-out songs", "<=", 1.25),
    ("nearest song / held-out songs'", "generated", "nearest_song", "held-out songs", ">=", 0.8),
)
# control of the generated songs -> figures in which the control must be worse
CONTROLS = {
    "another song's lyrics": ("vowels",),
    "another's labels": ("artist", "genre"),
    "bars shuffled": ("progression",),
    "frames of 50 ms shuffled": ("vowels",),
    "noise of the same spectrum": ("frechet", "peakiness", "vowels", "moving_pitch"),
    "collage of 1 s": ("artist", "vowels", "progression"),
    "tokens shuffled in time": ("frechet", "vowels", "progression"),
    "unigram tokens": ("frechet", "vowels", "progression"),
    "untrained prior": ("frechet", "artist", "vowels"),
    "training songs of the same labels": ("vowels", "shared_s", "nearest_song"),
}
EDGES = ("frechet", "attack_ms", "peakiness", "artist", "genre", "vowels", "in_scale", "moving_pitch")


class Claim(NamedTuple):
    """A claim: its text, its figure (nan: not measured), its target, and whether the target is met."""

    claim: str
    figure: float
    target: str
    met: bool


def mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; nan if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def compared(claim: str, figure: float, relation: str, target: float, suffix: str = "") -> Claim:
    """Return a claim that is met if the figure is in the relation to the target; a claim without a measurement is not met."""
    met = figure >= target if relation == ">=" else figure <= target
    return Claim(claim, figure, f"{relation} {target:g}{suffix}", bool(met))


def better(figure: str, first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the difference of a figure for each seed, positive if `first` is better than `second`."""
    sign = -1 if figure in LOWER_IS_BETTER else 1
    return [sign * (a - b) for a, b in zip(first, second, strict=True)]


def is_clear(differences: Sequence[float]) -> bool:
    """Return whether a difference is above 0 for all seeds, and its mean is above twice the standard error over the seeds.

    With one seed the sign decides.
    """
    if not differences or not all(value > 0 for value in differences):  # False for nan
        return False
    return len(differences) == 1 or bool(np.mean(differences) > 2 * np.std(differences, ddof=1) / math.sqrt(len(differences)))


def check(values: Values) -> list[Claim]:
    """Return every claim on the rows over seeds."""
    return list(_claims(lambda row, figure: values.get(row, {}).get(figure, [math.nan])))


def _claims(get: Callable[[str, str], Sequence[float]]) -> Iterator[Claim]:
    for claim, row, figure, relation, target in ABSOLUTE:
        yield compared(claim, mean(get(row, figure)), relation, target)
    for claim, row, figure, divisor, relation, target in RELATIVE:
        yield compared(claim, _quotient(mean(get(row, figure)), mean(get(divisor, figure))), relation, target)
    for control, figures in CONTROLS.items():
        for figure in figures:
            differences = better(figure, get("generated", figure), get(control, figure))
            yield Claim(f"{control}: {figure} worse by", mean(differences), "> 2 se, all seeds", is_clear(differences))
    for figure in EDGES:
        parts = [mean(get(f"minute, {part}", figure)) for part in ("last part", "first part")]
        worse = _quotient(*(parts if figure in LOWER_IS_BETTER else reversed(parts)))
        yield compared(f"last of 60 s / first: {figure}", worse, "<=", 1.3)


def _quotient(a: float, b: float) -> float:
    """Return a / b; for b = 0 inf if a is positive, else nan."""
    return a / b if b else math.inf if a > 0 else math.nan
