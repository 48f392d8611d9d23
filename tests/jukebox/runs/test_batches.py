"""Batches and their cuts, in integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jukebox.runs.batches import batches_at, cut_in, first_batches, windows_in_parallel
from jukebox.runs.windows import prefix_windows


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 9))
def test_batches_hold_every_sample_once_and_give_every_process_work(samples, batch, ranks):
    batches = first_batches(samples, batch, ranks)
    assert sorted(i for each in batches for i in each) == list(range(samples))
    assert all(batches) and len(batches) >= min(samples, ranks) // (2 if batch else 1)
    assert not batch or max(map(len, batches)) <= batch


def test_batches_without_a_limit_are_one_per_process():
    assert first_batches(5) == [[0, 1, 2, 3, 4]]
    assert first_batches(5, 0, 2) == [[0, 2, 4], [1, 3]]
    assert first_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert first_batches(4, 3, 4) == [[0], [1], [2], [3]]


def test_a_cut_splits_its_batch_from_its_frame_on_and_on_the_levels_below():
    cuts = [
        {"level": 2, "start": 0, "at": 10, "samples": [0, 1, 2], "into": [[0, 1], [2]]},
        {"level": 1, "start": 64, "at": 70, "samples": [0, 1], "into": [[0], [1]]},
    ]
    assert batches_at([0, 1, 2], cuts, []) == [[0, 1, 2]]
    assert batches_at([0, 1, 2], cuts, [2]) == [[0, 1], [2]]
    assert batches_at([0, 1, 2], cuts, [2, 1]) == [[0], [1], [2]]
    (first, *_) = prefix_windows(100, 32, 16)
    assert cut_in(cuts, 2, [0, 1, 2], first) == cuts[0] and cut_in(cuts, 2, [0, 1], first) is None


def test_a_cut_of_a_level_that_a_route_does_not_write_splits_nothing():
    cuts = [{"level": 2, "start": 0, "at": 10, "samples": [0, 1], "into": [[0], [1]]}]
    assert batches_at([0, 1], cuts, [1]) == [[0, 1]]


def test_a_cut_that_left_its_batch_whole_is_made_once():
    cut = {"level": 0, "start": 0, "at": 10, "samples": [0], "into": [[0]]}
    before, after = next(prefix_windows(100, 32, 16)), next(prefix_windows(100, 32, 16, begin=10))
    assert cut_in([cut], 0, [0], before) == cut and cut_in([cut], 0, [0], after) is None


def test_fewer_windows_are_sampled_in_parallel_once_memory_ran_out():
    cuts = [{"level": 0, "start": 192, "samples": [0], "windows": 3}]
    assert windows_in_parallel(cuts, 0, [0], 0, 8) == 8 and windows_in_parallel(cuts, 0, [0], 192, 8) == 3
