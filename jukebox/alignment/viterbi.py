"""Viterbi search over whole words: word times from the scores of their characters at each step.

A song is a sequence rest, word, rest, word, .. in the order of the text. A rest may be empty. A word has one of several
lengths, and its characters have equal durations, as in training (`data_prep.align.character_seconds`). The score of a path is
the sum of the scores of its steps, minus the cost of each word's length. The search is exact among the reachable words. The
best path may end before the end of the text.

Notable: the search processes time in blocks, and it keeps only words with a score within `beam` of the best score. So time and
memory grow linearly with the length of the song, and each step is visited once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

HURRY = 4.0  # largest cost of a word's length in bits during the search


class WordSpan(NamedTuple):
    """The steps of a word."""

    start: int
    end: int  # exclusive
    gain: float  # score of the word minus the score of a rest in its place


class Ends(NamedTuple):
    """The best path that ends a word after each step of a block."""

    score: Float[np.ndarray, " t"]  # of the path so far
    length: Int[np.ndarray, " t"]  # of the word, in steps
    gain: Float[np.ndarray, " t"]  # of the word


class Gap:
    """The rest before a word (or after the last word): score and predecessor of each step."""

    def __init__(self, reach: int, tokens: int):
        self.score = np.full(reach + 1, -np.inf)  # of the last steps; earlier steps are no longer needed
        self.sums = np.zeros((reach + 1, tokens + 1))  # running sums of the scores of the next word's characters, and of rests
        # first step of a block -> the step at which the rest was entered (by step), and the ends of the previous word
        self.entered: dict[int, tuple[np.ndarray, Ends]] = {}

    def word_before(self, at: int) -> WordSpan:
        """Return the word before the rest that contains step `at`."""
        first = max(start for start in self.entered if start < at)
        entered, ends = self.entered[first]
        step = int(entered[at - first - 1])
        if not step:  # the rest was entered in an earlier block
            return self.word_before(first)
        return WordSpan(first + step - int(ends.length[step - 1]), first + step, float(ends.gain[step - 1]))


class Chart:
    """Scores of all paths up to the current step.

    tokens: number of characters of each word
    lengths: possible lengths of a word in steps, ascending
    costs: cost of each length for each word
    beam: largest difference to the best score at which a word is kept
    """

    def __init__(self, tokens: Sequence[int], lengths: Sequence[int], costs: Float[np.ndarray, "w d"], beam: float = 150.0):
        self.tokens, self.lengths, self.costs, self.beam = list(tokens), list(lengths), costs, beam
        self.reach, self.now = self.lengths[-1], 0
        self.quickest = np.array(self.lengths)[(costs <= HURRY).argmax(axis=1)]  # shortest length of each word at a low cost
        self.gaps: dict[int, Gap] = {0: self._gap(0)}
        self.past: dict[int, Gap] = {}
        self.gaps[0].score[-1] = 0.0

    def _gap(self, word: int) -> Gap:
        return Gap(self.reach, self.tokens[word] if word < len(self.tokens) else 0)

    def alive(self, steps: int) -> tuple[int, int]:
        """Return the first and last word (exclusive) that can be sung within the next `steps`.

        Each word has at least its shortest length of low cost (HURRY). The next word may have begun before, so it may end at
        any step.
        """
        scores = {number: gap.score[-1] for number, gap in self.gaps.items()}
        best = max(scores.values())
        good = [number for number, score in scores.items() if score > best - self.beam]
        soon = int((self.quickest[max(good) + 1 :].cumsum() <= steps).sum())
        return min(good), min(len(self.tokens), max(good) + 2 + soon)

    def extend(self, first: int, rests: Float[np.ndarray, "t w"], words: Sequence[Float[np.ndarray, "t l"]]) -> None:
        """Extend all paths by a block of steps.

        first: the first word of the block
        rests: scores of the rest before each word, and after the last word of the text if the block reaches it
        words: scores of the characters of each word
        """
        steps, last = len(rests), first + rests.shape[1]
        self.past |= {number: gap for number, gap in self.gaps.items() if number < first}
        self.gaps = {number: gap for number, gap in self.gaps.items() if first <= number < last}
        ends = Ends(np.full(steps, -np.inf), np.zeros(steps, int), np.zeros(steps))
        for i in range(rests.shape[1]):
            gap = self.gaps.setdefault(first + i, self._gap(first + i))
            self._rest(gap, rests[:, i], ends)
            if i < len(words):
                ends = self._word(gap, np.column_stack([words[i], rests[:, i]]), self.costs[first + i])
            gap.score = gap.score[-self.reach - 1 :]  # drops steps older than the longest word
        self.now += steps

    def _rest(self, gap: Gap, rest: Float[np.ndarray, " t"], ends: Ends) -> None:
        """Add the block's scores to a rest: paths enter it at an end of the previous word, or continue it."""
        resting = np.concatenate([[0.0], np.cumsum(rest)])
        gain = np.concatenate([gap.score[-1:], ends.score]) - resting
        best = np.maximum.accumulate(gain)
        new = np.concatenate([[True], gain[1:] > best[:-1]])
        entered = np.maximum.accumulate(np.where(new, np.arange(len(gain)), 0))  # 0: entered before this block
        gap.entered[self.now] = (entered[1:].astype(np.int32), ends)
        gap.score = np.concatenate([gap.score, (best + resting)[1:]])

    def _word(self, gap: Gap, scores: Float[np.ndarray, "t l"], costs: Float[np.ndarray, " d"]) -> Ends:
        """Return the ends of the word after a rest. The columns of `scores` are the word's characters and, last, the rest."""
        steps, count = len(scores), scores.shape[1] - 1
        sums = np.concatenate([gap.sums, gap.sums[-1] + np.cumsum(scores, axis=0)])
        ends = Ends(np.full(steps, -np.inf), np.zeros(steps, int), np.zeros(steps))
        for length, cost in zip(self.lengths, costs, strict=True):
            edges = np.round(np.linspace(0, length, count + 1)).astype(int)
            start = self.reach + 1 - length  # row of `sums` for the first step of a word that ends with the first new step
            rows = sums[start:]
            sung = sum(
                (rows[last:][:steps, i] - rows[first:][:steps, i] for i, (first, last) in enumerate(pairwise(edges))),
                start=np.zeros(steps),
            )
            total = gap.score[start : start + steps] + sung - cost
            rested = rows[length:][:steps, -1] - rows[:steps, -1]
            new = Ends(total, np.full(steps, length), sung - rested)
            ends = Ends(*(np.where(total > ends.score, a, b) for a, b in zip(new, ends)))
        gap.sums = sums[-self.reach - 1 :]
        return ends

    def best(self) -> list[WordSpan]:
        """Return the words of the best path, up to the last word that the path reaches."""
        gaps = self.past | self.gaps
        number = max(self.gaps, key=lambda n: self.gaps[n].score[-1])
        at, found = self.now, []
        while number:
            span = gaps[number].word_before(at)
            found.append(span)
            at, number = span.start, number - 1
        return found[::-1]

    def score(self) -> float:
        """Return the score of the best path so far."""
        return float(max(gap.score[-1] for gap in self.gaps.values()))
