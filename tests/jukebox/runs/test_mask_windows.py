"""Mask windows contain all unknown frames and no window lacks one, with known frames on both sides where there are any."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox.runs.windows import CONTEXT_SHARE, WindowPlanner, mask_windows
from priors.masked import masks


def region(n: int, *ranges: tuple[int, int]) -> np.ndarray:
    """A mask over `n` frames of those that are unknown."""
    unknown = np.zeros(n, bool)
    for first, stop in ranges:
        unknown[first:stop] = True
    return unknown


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [
        (region(1000), []),
        (region(1000, (500, 510)), [(455, 555)]),  # in the middle
        (region(1000, (0, 10)), [(0, 100)]),
        (region(1000, (990, 1000)), [(900, 1000)]),
        (region(60, (20, 30)), [(0, 60)]),  # a song shorter than a window
        (region(1000, (100, 150), (800, 850)), [(75, 175), (775, 875)]),
        (region(1000, (100, 110), (130, 140)), [(70, 170)]),  # one window holds both
        (region(1000, (300, 400)), [(275, 375), (325, 425)]),  # the second contains what is after it
        (region(1000, (300, 500)), [(275, 375), (350, 450), (425, 525)]),
    ],
)
def test_windows_are_over_masked_regions_with_context_on_both_sides(unknown, expected):
    assert mask_windows(unknown, 100) == expected


@given(
    st.integers(1, 700), st.sampled_from([32, 100]), st.lists(st.tuples(st.integers(0, 700), st.integers(1, 300)), max_size=5)
)
def test_every_unknown_frame_is_in_a_window_with_context_before_it(n, n_ctx, pieces):
    unknown = region(n, *((first, first + length) for first, length in pieces))
    done, beside = np.zeros(n, bool), n_ctx // CONTEXT_SHARE
    for start, stop in mask_windows(unknown, n_ctx):
        assert 0 <= start < stop <= n and stop - start == min(n, n_ctx)
        new = unknown.copy()
        new[:start], new[stop:] = False, False
        new &= ~done
        assert new.any()  # no window without an unknown frame
        first = int(new.argmax())
        assert first - start >= min(beside, first)  # what is before it is context
        done |= new
    assert np.array_equal(done, unknown)


def test_a_periodic_prompt_is_covered_by_windows_that_overlap():
    made = mask_windows(~masks.periodic(10_000, 16).numpy(), 512)
    assert made[0][0] == 0 and made[-1][1] == 10_000
    assert all(b[0] <= a[1] - 512 // CONTEXT_SHARE for a, b in itertools.pairwise(made))
    assert len(made) == 26  # 9,488 columns after the first window, at most 384 new ones in each


@given(
    st.integers(1, 60), st.integers(0, 40), st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), min_size=1, max_size=4)
)
def test_windows_of_finer_streams_begin_with_whole_columns_and_cross_no_piece(first, second, ranges):
    """Two pieces of a run: every unknown frame is new in exactly one window, which is inside one piece."""
    column, total = 4, (first + second) * 4
    unknown = region(total, *((start, start + length) for start, length in ranges))
    pieces = [(0, first * 4), (first * 4, second * 4)] if second else [(0, total)]
    new = np.zeros(total, int)
    for start, begin, end in WindowPlanner("mask", 16 * column, column=column).segments(total, 0, unknown, pieces):
        assert start % column == end % column == 0 and start <= begin < end
        assert any(low <= start and end <= low + n for low, n in pieces)
        new[begin:end] += 1
    assert new.max(initial=0) <= 1 and (new[unknown] == 1).all()
