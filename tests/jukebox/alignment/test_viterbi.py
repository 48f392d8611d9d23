"""The search over words in time: exact beside every reading written out, in one piece or in many."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jukebox.alignment.viterbi import Chart


def random_scores(tokens: list[int], steps: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, len(tokens) + 1)), [rng.normal(size=(steps, n)) for n in tokens]


def score_of(
    spans: list[tuple[int, int]], rests: np.ndarray, words: list[np.ndarray], lengths: list[int], costs: np.ndarray
) -> float:
    """The score of one path by the definition in the module's docstring."""
    at, total = 0, -sum(costs[number, lengths.index(end - start)] for number, (start, end) in enumerate(spans))
    for number, (start, end) in enumerate(spans):
        total += rests[at:start, number].sum()
        edges = np.round(np.linspace(0, end - start, words[number].shape[1] + 1)).astype(int) + start
        total += sum(words[number][a:b, i].sum() for i, (a, b) in enumerate(itertools.pairwise(edges)))
        at = end
    return total + rests[at:, len(spans)].sum()


def every_reading(count: int, steps: int, lengths: list[int], at: int = 0):
    """All spans of at most `count` words in their order."""
    yield []
    if count:
        for start, length in itertools.product(range(at, steps), lengths):
            if start + length <= steps:
                for rest in every_reading(count - 1, steps, lengths, start + length):
                    yield [(start, start + length), *rest]


@pytest.mark.parametrize("seed", range(6))
def test_search_finds_the_best_of_all_readings_in_one_piece_and_in_many(seed):
    tokens, lengths, steps = [2, 1, 3], [2, 3, 5], 11
    rests, words = random_scores(tokens, steps, seed)
    costs = np.random.default_rng(seed).random((3, 3))
    truth = max(every_reading(3, steps, lengths), key=lambda spans: score_of(spans, rests, words, lengths, costs))
    for cuts in ([], [4], [1, 2, 3, 7], list(range(1, steps))):
        chart = Chart(tokens, lengths, costs)
        for start, stop in itertools.pairwise([0, *cuts, steps]):
            chart.extend(0, rests[start:stop], [word[start:stop] for word in words])
        assert [(word.start, word.end) for word in chart.best()] == truth
        assert chart.score() == pytest.approx(score_of(truth, rests, words, lengths, costs))
        for number, word in enumerate(chart.best()):  # its gain: the same reading with a rest there instead
            rested = rests[word.start : word.end, number].sum()
            alone = score_of([(0, word.end - word.start)], np.zeros((word.end - word.start, 2)),
                             [words[number][word.start : word.end]], lengths, np.zeros((1, 3)))  # fmt: skip
            assert word.gain == pytest.approx(alone - rested, rel=1e-5)


@pytest.mark.parametrize(("piece", "share"), [(2, 0.2), (5, 0.2), (20, 0.25), (80, 0.6)])
def test_words_far_from_the_best_reading_are_not_looked_at_and_the_result_is_the_same(piece, share):
    tokens, steps = [2] * 40, 400
    rests, words = np.zeros((steps, 41)), [np.full((steps, 2), -5.0) for _ in tokens]
    for number, word in enumerate(words):
        word[10 * number + 2 : 10 * number + 6, 0] = word[10 * number + 6 : 10 * number + 10, 1] = 5.0
    chart, looked = Chart(tokens, [4, 8, 12], np.zeros((40, 3)), beam=100.0), 0
    for start in range(0, steps, piece):
        first, last = chart.alive(piece)
        looked += last - first
        rest_count = last - first + (last == len(tokens))
        chart.extend(first, rests[start : start + piece, first : first + rest_count],
                     [word[start : start + piece] for word in words[first:last]])  # fmt: skip
    assert [word[:2] for word in chart.best()] == [(10 * number + 2, 10 * number + 10) for number in range(40)]
    assert looked < share * 40 * steps / piece


def test_words_that_never_come_are_left_out():
    rests, words = np.zeros((30, 4)), [np.full((30, 2), -1.0) for _ in range(3)]
    words[0][3:7], words[1][10:20] = 1.0, 1.0
    chart = Chart([2, 2, 2], [4, 10], np.zeros((3, 2)))
    chart.extend(0, rests, words)
    assert [word[:2] for word in chart.best()] == [(3, 7), (10, 20)]
