"""Claims are computed: each is met by figures on the right side of its target, and by no others."""

from __future__ import annotations

import math

import pytest

from launch.demo.claims import ABSOLUTE, CONTROLS, check, is_clear

GOOD = {"frechet": 20.0, "peakiness": 0.9, "artist": 1.0, "genre": 1.0, "vowels": 0.9, "tempo": 1.0, "progression": 0.4,
        "seconds": 20.0, "shared_s": 0.5, "nearest_song": 0.3, "moving_pitch": 0.2, "attack_ms": 8.0, "in_scale": 0.9}  # fmt: skip
BAD = {"frechet": 90.0, "peakiness": 0.1, "artist": 0.2, "genre": 0.3, "vowels": 0.1, "tempo": 0.1, "progression": 0.0,
       "seconds": 1.0, "shared_s": 20.0, "nearest_song": 0.0, "moving_pitch": 0.0, "attack_ms": 40.0, "in_scale": 0.5}  # fmt: skip
SONGS = ("generated", "generated, unseen words", "continued, new part", "true songs of the requests", "held-out songs",
         "minute, first part", "minute, last part")  # fmt: skip


def values(**changed: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    rows = dict.fromkeys(SONGS, GOOD) | dict.fromkeys(CONTROLS, BAD) | changed
    return {what: {key: [value, value, value] for key, value in row.items()} for what, row in rows.items()}


def test_all_claims_are_met_by_good_songs_and_bad_controls():
    assert [claim.claim for claim in check(values()) if not claim.met] == []


@pytest.mark.parametrize("claim, row, figure", [case[:3] for case in ABSOLUTE if case[1] == "generated"])
def test_a_song_that_is_bad_in_one_figure_fails_its_claim(claim, row, figure):
    failed = {c.claim for c in check(values(**{row: GOOD | {figure: BAD[figure]}})) if not c.met}
    assert claim in failed


def test_a_control_that_is_as_good_as_the_songs_fails_its_claim():
    failed = {c.claim for c in check(values(**{"bars shuffled": GOOD})) if not c.met}
    assert failed == {"bars shuffled: progression worse by"}


def test_songs_that_copy_are_not_new():
    failed = {c.claim for c in check(values(generated=GOOD | {"shared_s": 20.0, "nearest_song": 0.0})) if not c.met}
    assert "longest shared run / held-out songs'" in failed and "nearest song / held-out songs'" in failed


def test_a_long_song_that_falls_off_fails_in_both_directions_of_figures():
    failed = {c.claim for c in check(values(**{"minute, last part": GOOD | {"frechet": 27.0, "vowels": 0.6}})) if not c.met}
    assert failed == {"last of 60 s / first: frechet", "last of 60 s / first: vowels"}


def test_what_was_not_measured_is_not_met():
    claims = check({})
    assert claims and not any(claim.met for claim in claims) and all(math.isnan(claim.figure) for claim in claims)


def test_a_difference_is_clear_where_all_seeds_agree_and_it_stands_out():
    assert is_clear([1.0, 1.1, 0.9]) and is_clear([0.1])
    assert (
        not is_clear([1.0, 1.0, 1.0, 1.0, -0.1])
        and not is_clear([0.01, 0.02, 5.0])
        and not is_clear([1.0, math.nan])
        and not is_clear([])
    )
