"""Windows over a level, in integers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox.sampling.windows import starts, windows
from vqvae.streams import frame_count


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600))
def test_windows_cover_a_level_in_order_and_end_with_it(total, n_ctx, hop):
    hop = min(hop, n_ctx)
    windows = starts(total, n_ctx, hop)
    assert windows[0] == 0 and windows == sorted(set(windows))
    assert all(b - a <= hop for a, b in pairwise(windows))  # nothing is skipped
    assert windows[-1] == max(0, total - n_ctx)


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600), st.integers(0, 6000))
def test_windows_write_every_missing_code_once_and_stop_at_the_end(total, n_ctx, hop, known):
    made = windows(total, n_ctx, min(hop, n_ctx), known)
    assert [code for w in made for code in range(w.known, w.end)] == list(range(known, total))
    assert all(w.start <= w.known < w.end <= w.start + n_ctx and w.prime == w.known - w.start for w in made)
    if total >= n_ctx:  # where a level fills a window, the published walk is the same
        assert made == windows(total, n_ctx, min(hop, n_ctx), known, published=True)


def test_a_short_level_overshoots_as_published_only():
    assert windows(20, 64, 16, known=10) == [(0, 10, 20)]
    assert windows(20, 64, 16, known=20) == []
    assert windows(20, 64, 16, known=10, published=True) == [(0, 10, 30)]  # 20 more codes instead of 20 in all
    assert windows(20, 64, 16, known=50, published=True) == [(6, 50, 70)]


def test_the_published_examples():
    assert starts(10000, 8192, 1024) == [0, 1024, 1808]
    assert starts(27560, 8192, 4096) == [0, 4096, 8192, 12288, 16384, 19368]
    assert len(starts(110240, 8192, 4096)) == 26 and starts(110240, 8192, 4096)[-1] == 102048


def test_levels_of_one_length_in_seconds_end_together():
    for seconds in (0.001, 1.0, 12.34, 600.0):
        lengths = [frame_count(seconds, 22050, hop, 128) * hop for hop in (8, 32, 128)]
        assert len(set(lengths)) == 1 and abs(lengths[0] - seconds * 22050) < 129


def test_a_hop_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        starts(100, 10, 0)
