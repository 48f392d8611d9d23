"""Windows stand over holes and nowhere else, with music on both sides of what they fill."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jukebox.editing.inpaint import CONTEXT_SHARE, windows_over
from priors.masked import masks


def hole(n: int, *ranges: tuple[int, int]) -> torch.Tensor:
    resampled = torch.zeros(n, dtype=torch.bool)
    for first, stop in ranges:
        resampled[first:stop] = True
    return resampled


@pytest.mark.parametrize(
    ("resampled", "expected"),
    [
        (hole(1000), []),
        (hole(1000, (500, 510)), [(455, 555)]),  # in the middle
        (hole(1000, (0, 10)), [(0, 100)]),
        (hole(1000, (990, 1000)), [(900, 1000)]),
        (hole(60, (20, 30)), [(0, 60)]),  # a song shorter than a window
        (hole(1000, (100, 150), (800, 850)), [(75, 175), (775, 875)]),
        (hole(1000, (100, 110), (130, 140)), [(70, 170)]),  # one window holds both
        (hole(1000, (300, 400)), [(275, 375), (325, 425)]),  # the second hears what lies behind
        (hole(1000, (300, 500)), [(275, 375), (350, 450), (425, 525)]),
    ],
)
def test_windows_stand_over_holes(resampled, expected):
    assert windows_over(resampled, 100) == expected


@given(
    st.integers(1, 700), st.sampled_from([32, 100]), st.lists(st.tuples(st.integers(0, 700), st.integers(1, 300)), max_size=5)
)
def test_everything_is_drawn_once_and_hears_its_past(n, n_ctx, pieces):
    resampled = hole(n, *((first, first + length) for first, length in pieces))
    drawn, beside = torch.zeros(n, dtype=torch.bool), n_ctx // CONTEXT_SHARE
    for start, stop in windows_over(resampled, n_ctx):
        assert 0 <= start < stop <= n and stop - start == min(n, n_ctx)
        new = resampled.clone()
        new[:start], new[stop:] = False, False
        new &= ~drawn
        assert new.any()  # no window without a hole
        first = int(new.nonzero()[0])
        assert first - start >= min(beside, first)  # what lies before is heard
        drawn |= new
    assert torch.equal(drawn, resampled)


def test_a_periodic_prompt_is_covered_by_windows_that_overlap():
    made = windows_over(~masks.periodic(10_000, 16), 512)
    assert made[0][0] == 0 and made[-1][1] == 10_000
    assert all(b[0] <= a[1] - 512 // CONTEXT_SHARE for a, b in itertools.pairwise(made))
    assert len(made) == 26  # 9,488 columns behind the first window, at most 384 new ones in each
