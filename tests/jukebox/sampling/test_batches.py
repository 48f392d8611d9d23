"""What is drawn together, in integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jukebox.sampling.batches import batches_at, cut_in, first_batches, parallel_segments, parallel_windows, segments


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 9))
def test_batches_hold_every_sample_once_and_give_every_process_work(samples, batch, ranks):
    batches = first_batches(samples, batch, ranks)
    assert sorted(i for each in batches for i in each) == list(range(samples))
    assert all(batches) and len(batches) >= min(samples, ranks) // (2 if batch else 1)
    assert not batch or max(map(len, batches)) <= batch


def test_batches_without_a_limit_are_one_a_process():
    assert first_batches(5) == [[0, 1, 2, 3, 4]]
    assert first_batches(5, 0, 2) == [[0, 2, 4], [1, 3]]
    assert first_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert first_batches(4, 3, 4) == [[0], [1], [2], [3]]


@given(st.integers(1, 3000), st.integers(1, 100), st.integers(1, 100), st.integers(0, 3000), st.booleans())
def test_segments_cover_what_is_missing_once_and_in_order(total, quarter, hop, begin, parallel):
    n_ctx = 4 * quarter
    made = parallel_segments if parallel else segments
    at = begin
    for start, first, end in made(total, n_ctx, quarter if parallel else min(hop, n_ctx), begin):
        assert first == at and first < end and start <= first and end - start <= n_ctx and start >= 0
        at = end
    assert at == max(begin, total)


def test_parallel_windows_have_one_length_and_warm_up_on_the_overlap():
    some = list(parallel_segments(1000, 256, 64, 0))
    assert some == [(0, 0, 256), (192, 256, 448), (384, 448, 640), (576, 640, 832), (744, 832, 1000)]
    assert {end - start for start, _, end in some} == {256}
    assert list(parallel_segments(100, 256, 64, 0)) == [(0, 0, 100)]
    assert next(parallel_segments(1000, 256, 64, 500)) == (436, 500, 692)


def test_a_cut_splits_its_batch_from_there_on_and_on_the_levels_below():
    cuts = [
        {"level": 2, "start": 0, "at": 10, "samples": [0, 1, 2], "into": [[0, 1], [2]]},
        {"level": 1, "start": 64, "at": 70, "samples": [0, 1], "into": [[0], [1]]},
    ]
    assert batches_at([0, 1, 2], cuts, 2) == [[0, 1, 2]]
    assert batches_at([0, 1, 2], cuts, 1) == [[0, 1], [2]]
    assert batches_at([0, 1, 2], cuts, 0) == [[0], [1], [2]]
    (first, *_) = segments(100, 32, 16, 0)
    assert cut_in(cuts, 2, [0, 1, 2], first) == cuts[0] and cut_in(cuts, 2, [0, 1], first) is None


def test_a_cut_that_left_its_batch_whole_is_made_once():
    cut = {"level": 0, "start": 0, "at": 10, "samples": [0], "into": [[0]]}
    before, behind = next(segments(100, 32, 16, 0)), next(segments(100, 32, 16, 10))
    assert cut_in([cut], 0, [0], before) == cut and cut_in([cut], 0, [0], behind) is None


def test_fewer_windows_side_by_side_once_memory_ran_out():
    cuts = [{"level": 0, "start": 192, "samples": [0], "windows": 3}]
    assert parallel_windows(cuts, 0, [0], 0, 8) == 8 and parallel_windows(cuts, 0, [0], 192, 8) == 3
