"""The order of training windows: a bijection, computed, and the same for any number of ranks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.windows import Windows, permute

LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**40), st.integers(0, 1000))
def test_permute_is_a_bijection_on_any_range(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(i, n, seed, epoch) for i in range(n)) == list(range(n))


def test_permute_differs_between_epochs_and_seeds_and_looks_shuffled() -> None:
    n = 1000
    orders = [[permute(i, n, seed, epoch) for i in range(n)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert sum(x == y for x, y in zip(orders[a], orders[b])) < 15  # one by chance
    for order in orders:
        assert abs(np.corrcoef(order, range(n))[0, 1]) < 0.15
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.15  # neighbours do not stay neighbours


def test_permute_refuses_positions_outside_of_the_range() -> None:
    with pytest.raises(IndexError, match="outside"):
        permute(5, 5, 0, 0)


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 60), st.sampled_from([1, 3, 4]), st.one_of(st.none(), st.integers(1, 40)), st.integers())
def test_every_window_of_an_epoch_lies_in_its_song_and_comes_once(lengths, window, multiple, hop, seed) -> None:
    if max(lengths) < window:
        with pytest.raises(ValueError, match="no song is as long"):
            Windows(lengths, window, multiple, hop)
        return
    windows = Windows(lengths, window, multiple, hop)
    assert windows.skipped == sum(length < window for length in lengths)
    for epoch in (0, 1):
        seen = [windows.at(epoch * len(windows) + i, seed) for i in range(len(windows))]
        for song, start in seen:
            assert 0 <= start <= lengths[song] - window
            assert start % multiple == 0
        counted = np.bincount([song for song, _ in seen], minlength=len(lengths))
        assert counted.tolist() == windows.counts.tolist()


def test_windows_of_an_epoch_touch_and_do_not_overlap_and_starts_vary() -> None:
    windows = Windows([1000, 777], window=100)
    starts = []
    for epoch in range(3):
        seen = sorted(windows.at(epoch * len(windows) + i, 7) for i in range(len(windows)))
        starts.append([start for song, start in seen if song == 1])
        assert set(np.diff(starts[-1])) == {100}
    assert len({tuple(row) for row in starts}) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 500), st.sampled_from([1, 2, 3, 6]), st.integers(0, 99))
def test_the_shares_of_the_ranks_joined_are_the_batch_of_one(step: int, world: int, seed: int) -> None:
    windows = Windows([500, 50, 333], window=60, multiple=4)
    whole = windows.batch(step, 12, seed)
    assert [w for rank in range(world) for w in windows.batch(step, 12, seed, rank, world)] == whole
    assert whole == Windows([500, 50, 333], window=60, multiple=4).batch(step, 12, seed)  # no state


def test_a_batch_crosses_epochs_and_says_in_which_it_starts() -> None:
    windows = Windows([100, 100, 100], window=20)  # 15 windows
    assert [windows.epoch_of(step, 6) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    for epoch in (0, 1):  # every song gives its five windows in each epoch, although 6 does not divide 15
        order = [w for step in range(6) for w in windows.batch(step, 6, 3)][epoch * 15 : epoch * 15 + 15]
        assert np.bincount([song for song, _ in order]).tolist() == [5, 5, 5]


def test_shares_must_be_equal() -> None:
    with pytest.raises(ValueError, match="shared equally"):
        Windows([100], 10).batch(0, 5, 0, rank=0, world=2)


def test_a_million_songs_cost_a_few_numbers_each() -> None:
    lengths = np.full(1_000_000, 40_000)
    tracemalloc.start()
    windows = Windows(lengths, window=512)
    windows.batch(123_456, 64, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(windows) == 78_000_000
    assert peak < 100e6
