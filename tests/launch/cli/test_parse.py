"""Every kind of text that a flag takes is read in one way, and a wrong one is named with its flag."""

from __future__ import annotations

import pytest

from data_prep.errors import UserError
from jukebox.planning.sampling import read_size
from launch.cli import parse


@pytest.mark.parametrize(
    ("text", "levels"), [("", [2, 1, 0]), ("2", [2]), (" 0, 2,", [2, 0]), ("1,1", [1]), ("vq.2,0", [2, 0])]
)
def test_levels_are_chosen_from_the_known_ones_coarsest_first(text, levels):
    known = {level: f"vq.{level}" for level in range(3)}
    assert parse.choose_by_level(text, known) == [f"vq.{level}" for level in levels]
    with pytest.raises(UserError, match=r"there is no 7 to choose; choose among 0 \(vq.0\), 1 \(vq.1\), 2 \(vq.2\)$"):
        parse.choose_by_level("2,7", known)


def test_numbers_have_a_range_and_a_count():
    assert parse.read_numbers("3,1", "--n", "two numbers", 1, 3, count=2) == (3, 1)
    for wrong in ("0,1", "4,1", "1", "1,2,3", "1.5,2"):
        with pytest.raises(UserError, match=f"--n got '{wrong}', expected two numbers"):
            parse.read_numbers(wrong, "--n", "two numbers", 1, 3, count=2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("42", 42.0),
        ("42.5", 42.5),
        (".5", 0.5),
        ("0:42", 42.0),
        ("1:02.5", 62.5),
        ("90:00", 5400.0),
        ("1:00:02", 3602.0),
    ],
)
def test_times_are_seconds_or_minutes_and_seconds(text, seconds):
    assert parse.read_time(text, "--start") == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:60", "1:2:3:4", "1:75:00", "nan", "1e3", "0:-5"])
def test_what_is_no_time_raises(text):
    with pytest.raises(UserError, match="--start got"):
        parse.read_time(text, "--start")


def test_sizes_have_decimal_and_binary_units():
    gb = 10**9
    for text, size in {"8GB": 8 * gb, "500 MB": gb // 2, "1.5g": 3 * gb // 2, "2GiB": 2**31, "6": 6 * gb}.items():
        assert read_size(text) == size
    for wrong in ("", "much", "-1GB", "1.2.3GB", "0"):
        with pytest.raises(UserError, match="expected a size such as 8GB"):
            read_size(wrong)
