"""When is a character sung? From word times and by rule; and how a pace is measured."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.align import Pace, TimedText, character_seconds, measure_pace, place, syllables, word_seconds
from data_prep.synthetic.songs import make_song

WORDS = st.text("abcdefgouy'éß日本", min_size=1, max_size=7)
LYRICS = st.lists(st.lists(WORDS, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=6).map("\n".join)


@pytest.mark.parametrize(
    ("word", "count"),
    [("moon", 1), ("over", 2), ("Hmm", 1), ("1999", 1), ("beautiful,", 3), ("café", 2), ("日本", 2), ("вода", 2), ("-", 1)],
)
def test_syllables(word: str, count: int) -> None:
    assert syllables(word) == count


def test_characters_lie_in_the_middle_of_their_share() -> None:
    seconds = character_seconds("ab cd", [TimedText("ab", 1.0, 2.0), TimedText("cd", 3.0, 5.0)])
    np.testing.assert_allclose(seconds, [1.25, 1.75, 2.5, 3.5, 4.5])
    line = character_seconds("ab cd", [TimedText("ab cd", 10.0, 15.0)])
    np.testing.assert_allclose(line, [10.5, 11.5, 12.5, 13.5, 14.5])


def test_the_word_of_a_character_begins_and_ends_as_told() -> None:
    seconds = word_seconds("ab cd\nef", [TimedText("ab", 1.0, 2.0), TimedText("ef", 3.0, 5.0)])
    unknown = [[np.nan, np.nan]]
    np.testing.assert_array_equal(seconds, [[1, 2]] * 2 + unknown * 4 + [[3, 5]] * 2)


def test_words_that_are_missing_or_differ_stay_unknown_and_do_not_move_the_others() -> None:
    lyrics = "Hello, dear moon\nsleep well"
    times = [TimedText("hello", 1, 2), TimedText("moon!", 3, 4), TimedText("oh", 5, 6), TimedText("well", 8, 9)]
    seconds = character_seconds(lyrics, times)
    assert np.isfinite(seconds[:6]).all() and 1 < seconds[0] < 2
    assert np.isnan(seconds[lyrics.index("dear") : lyrics.index("dear") + 4]).all()
    assert 3 < seconds[lyrics.index("moon")] < 4
    assert np.isnan(seconds[lyrics.index("sleep")]) and 8 < seconds[-1] < 9
    assert np.isnan(character_seconds("no times", [])).all()


@settings(max_examples=80, deadline=None)
@given(LYRICS, st.floats(1, 300), st.floats(0.1, 1.5), st.integers(2, 8), st.floats(0, 20), st.booleans())
def test_placed_words_are_all_there_in_order_inside_the_song(lyrics, seconds, beat, bar, lead, known) -> None:
    words = place(lyrics, seconds, Pace(beat, bar, lead) if known else None)
    assert [word.text for word in words] == lyrics.split()
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert all(a <= b + 1e-6 for a, b in pairwise(edges))
    assert 0 <= edges[0] and edges[-1] <= seconds + 1e-6
    assert np.isfinite(character_seconds(lyrics.replace("\n", " "), words)).all()


def test_lines_begin_on_bars_after_a_beat_of_rest() -> None:
    words = place("one two three\nfour", 60.0, Pace(0.5, 4, 2.0))
    assert words == [("one", 2.0, 3.0), ("two", 3.0, 3.5), ("three", 3.5, 4.0), ("four", 6.0, 6.5)]
    assert place("a a a\na", 60.0, Pace(0.5, 4, 0.0))[-1].start == 2.0  # three beats and one of rest fill a bar
    assert place("a a a a\na", 60.0, Pace(0.5, 4, 0.0))[-1].start == 4.0  # four leave no rest in theirs


def test_what_is_too_long_is_squeezed_evenly_and_nothing_gives_nothing() -> None:
    loose, tight = (place("one two three\nfour", seconds, Pace(0.5, 4, 2.0)) for seconds in (60.0, 3.25))
    np.testing.assert_allclose([[w.start, w.end] for w in tight], [[w.start / 2, w.end / 2] for w in loose])
    assert place(" \n", 10.0, None) == []


def made(count: int, seed: int = 0) -> list:
    """Return rows of synthetic songs as in a manifest."""
    rows = []
    for i in range(count):
        song = make_song(seed + i, seconds=16.0)
        words = [TimedText(*word) for word in song.words]
        rows.append(SimpleNamespace(lyrics=song.lyrics, word_times=words, genres=(song.genre,), seconds=16.0))
    return rows


def test_the_pace_of_made_songs_places_words_of_others_where_they_are_sung() -> None:
    pace = measure_pace(made(9))
    assert pace is not None
    for row in made(3, seed=100):
        truth = character_seconds(row.lyrics, row.word_times)
        by_rule = np.nanmean(np.abs(character_seconds(row.lyrics, place(row.lyrics, 16.0, pace, row.genres)) - truth))
        evenly = np.nanmean(np.abs(character_seconds(row.lyrics, place(row.lyrics, 16.0, None)) - truth))
        assert by_rule < 0.1 < 0.3 < evenly


def test_the_pace_survives_noise_in_the_times() -> None:
    rng = np.random.default_rng(0)
    truth = Pace(0.4, 3, 5.0)
    rows = []
    for _ in range(12):
        lines = "\n".join(" ".join(["la"] * rng.integers(2, 9)) for _ in range(8))
        times = [TimedText(w.text, w.start + rng.normal(0, 0.02), w.end) for w in place(lines, 500.0, truth)]
        rows.append(SimpleNamespace(lyrics=lines, word_times=times, genres=("Waltz ",)))
    pace = measure_pace(rows)
    assert pace is not None
    assert pace.bar == 3 and pace.beat == pytest.approx(0.4, abs=0.02) and pace.lead == pytest.approx(5.0, abs=0.05)
    assert pace.of(["unheard", "waltz"]).bar == 3
    assert Pace.from_json(pace.to_json()) == pace


def test_line_times_alone_tell_no_pace() -> None:
    row = SimpleNamespace(lyrics="a line\nb line", word_times=[TimedText("a line", 0, 2)], genres=())
    assert measure_pace([row]) is None
