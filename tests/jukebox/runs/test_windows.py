"""Windows over a stream of every kind, in integers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox.runs.windows import (
    Segment,
    WindowPlanner,
    mask_windows,
    parallel_windows,
    plan_windows,
    prefix_windows,
    region_windows,
    starts,
)
from priors.spec import PriorConfig, PriorSpec
from vqvae.streams import frame_count


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600))
def test_windows_cover_a_level_in_order_and_end_with_it(total, n_ctx, hop):
    hop = min(hop, n_ctx)
    windows = starts(total, n_ctx, hop)
    assert windows[0] == 0 and windows == sorted(set(windows))
    assert all(b - a <= hop for a, b in pairwise(windows))  # nothing is skipped
    assert windows[-1] == max(0, total - n_ctx)


@given(st.integers(1, 5000), st.integers(1, 600), st.integers(1, 600), st.integers(0, 6000))
def test_prefix_windows_write_every_missing_frame_once_and_stop_at_the_end(total, n_ctx, hop, begin):
    made = list(prefix_windows(total, n_ctx, min(hop, n_ctx), begin))
    assert [frame for w in made for frame in range(w.begin, w.end)] == list(range(begin, total))
    assert all(0 <= w.start <= w.begin < w.end <= w.start + n_ctx and w.prime == w.begin - w.start for w in made)
    if total >= n_ctx:  # where a level fills a window, the published walk is the same
        assert made == list(prefix_windows(total, n_ctx, min(hop, n_ctx), begin, published=True))


def test_a_short_level_overshoots_as_published_only():
    assert list(prefix_windows(20, 64, 16, begin=10)) == [(0, 10, 20)]
    assert list(prefix_windows(20, 64, 16, begin=20)) == []
    assert list(prefix_windows(20, 64, 16, begin=10, published=True)) == [(0, 10, 30)]  # 20 more frames instead of 20 in all
    assert list(prefix_windows(20, 64, 16, begin=50, published=True)) == [(6, 50, 70)]


def test_the_published_examples():
    assert starts(10000, 8192, 1024) == [0, 1024, 1808]
    assert starts(27560, 8192, 4096) == [0, 4096, 8192, 12288, 16384, 19368]
    assert len(starts(110240, 8192, 4096)) == 26 and starts(110240, 8192, 4096)[-1] == 102048


def test_levels_of_one_length_in_seconds_end_together():
    for seconds in (0.001, 1.0, 12.34, 600.0):
        lengths = [frame_count(seconds, 22050, hop, 128) * hop for hop in (8, 32, 128)]
        assert len(set(lengths)) == 1 and abs(lengths[0] - seconds * 22050) < 129


def test_a_hop_of_nothing_raises():
    with pytest.raises(ValueError, match="at least 1"):
        starts(100, 10, 0)


@given(st.integers(1, 3000), st.integers(1, 100), st.integers(0, 3000))
def test_parallel_windows_cover_what_is_missing_once_and_in_order(total, quarter, begin):
    n_ctx, at = 4 * quarter, begin
    for start, first, end in parallel_windows(total, n_ctx, quarter, begin):
        assert first == at and first < end and start <= first and end - start <= n_ctx and start >= 0
        at = end
    assert at == max(begin, total)


def test_parallel_windows_have_one_length_and_warm_up_on_the_overlap():
    some = list(parallel_windows(1000, 256, 64, 0))
    assert some == [(0, 0, 256), (192, 256, 448), (384, 448, 640), (576, 640, 832), (744, 832, 1000)]
    assert {end - start for start, _, end in some} == {256}
    assert list(parallel_windows(100, 256, 64, 0)) == [(0, 0, 100)]
    assert next(parallel_windows(1000, 256, 64, 500)) == (436, 500, 692)


# ---- windows over masked regions

UNKNOWN = st.lists(st.booleans(), min_size=1, max_size=400).map(np.array)


@given(UNKNOWN, st.integers(2, 64))
def test_region_windows_sample_from_the_first_to_the_last_unknown_frame_once(unknown, n_ctx):
    made, where = list(region_windows(unknown, n_ctx)), np.flatnonzero(unknown)
    new = [frame for w in made for frame in range(w.begin, w.end)]
    assert new == (list(range(where[0], where[-1] + 1)) if len(where) else [])
    assert all(0 <= w.start <= w.begin < w.end <= min(w.start + n_ctx, len(unknown)) for w in made)
    assert all(w.prime == min(w.begin, n_ctx // 2) for w in made)  # half a window of prompt, where there is as much


def test_region_windows_have_half_a_window_as_their_prompt():
    unknown = np.zeros(200, bool)
    unknown[70:120] = True
    assert list(region_windows(unknown, 32)) == [(54, 70, 86), (70, 86, 102), (86, 102, 118), (102, 118, 120)]
    assert list(region_windows(np.zeros(9, bool), 32)) == []


@given(UNKNOWN, st.sampled_from([4, 8, 32]), st.sampled_from([1, 4]))
def test_mask_windows_of_a_planner_contain_all_unknown_frames_and_no_frame_is_new_twice(unknown, n_ctx, column):
    unknown = np.repeat(unknown, column)
    made = list(WindowPlanner("mask", n_ctx * column, column=column).segments(len(unknown), 0, unknown))
    new = [frame for w in made for frame in range(w.begin, w.end)]
    assert len(set(new)) == len(new) and set(np.flatnonzero(unknown)) <= set(new)
    assert all(w.start <= w.begin < w.end <= w.start + n_ctx * column for w in made)
    assert all(bound % column == 0 for w in made for bound in w)  # whole columns


# ---- planners


def test_a_planner_returns_the_windows_of_its_kind():
    unknown = np.zeros(256, bool)
    unknown[100:140] = True
    for planner, expected in (
        (WindowPlanner("prefix", 64, 32), prefix_windows(256, 64, 32, 96)),
        (WindowPlanner("parallel", 64, 16), parallel_windows(256, 64, 16, 96)),
        (WindowPlanner("region", 64), region_windows(unknown, 64)),
        (WindowPlanner("mask", 64), [Segment(84, 96, 148)]),
    ):
        assert list(planner.segments(256, 96, unknown)) == list(expected) != []
        assert WindowPlanner(**planner.to_json()) == planner


def test_mask_windows_of_columns_are_those_of_a_stream_of_columns_times_the_column():
    unknown = np.zeros(64, bool)
    unknown[20:50] = True
    fine = np.repeat(unknown, 4)
    fine[80] = False  # a column that is known in part is unknown
    begin, expected = 0, []
    for start, stop in mask_windows(unknown, 16):
        expected.append(Segment(4 * start, max(begin, 4 * start), 4 * stop))
        begin = 4 * stop
    assert list(WindowPlanner("mask", 64, column=4).segments(256, 0, fine)) == expected


@pytest.mark.parametrize("kind", ["region", "mask"])
def test_no_window_crosses_from_one_piece_to_another(kind):
    unknown = np.zeros(200, bool)
    unknown[90:130] = True  # on both sides of the border at 100
    planner, pieces = WindowPlanner(kind, 32, column=1), [(0, 100), (100, 100)]
    made = list(planner.segments(200, 0, unknown, pieces))
    assert all(w.end <= 100 or w.start >= 100 for w in made)
    assert {f for w in made for f in range(w.begin, w.end)} >= set(range(90, 130))
    assert any(w.start < 100 < w.end for w in planner.segments(200, 0, unknown))  # without pieces one does


@pytest.mark.parametrize("kind", ["region", "mask"])
def test_windows_before_the_frame_at_which_to_begin_are_left_out(kind):
    unknown = np.zeros(200, bool)
    unknown[50:150] = True
    planner = WindowPlanner(kind, 32)
    for begin in (0, 50, 77, 149, 150):
        made = list(planner.segments(200, begin, unknown))
        new = [frame for w in made for frame in range(w.begin, w.end)]
        assert new == sorted(set(new)) and set(range(max(begin, 50), 150)) <= set(new) and not set(new) & set(range(begin))


class Config(PriorConfig):
    """A configuration for planning windows alone: `per` frames of its stream in each of `columns` frames of a window."""

    kind, hop, sample_rate, labels, lyrics = "config", 8, 22050, None, None
    parameters = decoding_cost = from_json = None

    def __init__(self, prompt: str, reads: tuple[str, ...] = (), columns: int = 64, per: int = 1, ratio: int = 1):
        self.prompt, self.reads, self.columns, self.per, self.above = prompt, reads, columns, per, ratio

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec(self.reads, ("a",), self.columns, self.prompt)  # type: ignore[arg-type]

    @property
    def ratio(self) -> int:
        return self.above

    def frames(self, stream: str) -> int:
        return self.columns * self.per


def test_planners_follow_from_the_prior_and_from_what_is_known():
    request = {"parallel": False, "hop_fractions": [0.5]}
    parallel, edit = {**request, "parallel": True}, {**request, "inpaints": True}
    first, upsampler, masked = Config("prefix"), Config("prefix", ("b",), ratio=4), Config("any", ("a", "b"), per=4)
    for asked, config, expected in (
        (request, first, WindowPlanner("prefix", 64, 32)),
        (request, upsampler, WindowPlanner("prefix", 64, 32)),
        (request, masked, WindowPlanner("prefix", 256, 256 - 32, 4)),  # an eighth of a window is known
        (parallel, first, WindowPlanner("prefix", 64, 32)),  # there is no stream above to condition windows on
        (parallel, upsampler, WindowPlanner("parallel", 64, 16)),
        (edit, first, WindowPlanner("region", 64)),
        (edit, masked, WindowPlanner("mask", 256, column=4)),
    ):
        assert plan_windows(asked, 0, config, "a") == expected
    narrow = {**request, "hop_fractions": [0.1]}
    assert plan_windows(narrow, 0, upsampler, "a").step == 4  # a whole frame of the stream above at least


def test_a_recorded_planner_is_that_of_the_run():
    recorded = WindowPlanner("prefix", 48, 7)
    request = {"parallel": False, "hop_fractions": [0.5], "planners": {"0": recorded.to_json()}}
    assert plan_windows(request, 0, Config("prefix"), "a") == recorded
