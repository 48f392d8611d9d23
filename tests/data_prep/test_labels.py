"""Names and their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.align import Pace
from data_prep.errors import UserError
from data_prep.labels import Labels, build_labels

NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name.strip())


def row(artist: str | None, *genres: str) -> SimpleNamespace:
    """Return a song that has labels only."""
    return SimpleNamespace(artist=artist, genres=genres, lyrics=None, word_times=())


def test_names_are_sorted_and_found_without_regard_to_case_and_spaces() -> None:
    labels = build_labels([row("Zoë", "rock"), row("abba", "Pop", " rock "), row("ABBA"), row(None)])
    assert labels.artists == ("unknown", "ABBA", "Zoë")
    assert labels.genres == ("unknown", "Pop", "rock")
    assert labels.artist_id("  aBBa ") == 1 and labels.artist_id("ZOË") == 2
    assert labels.artist_id(None) == labels.artist_id("nobody") == labels.artist_id("Unknown") == 0
    assert labels.genre_ids(["ROCK", "none", "pop"]) == [2, 0, 1]


@given(st.lists(st.tuples(st.none() | NAMES, st.lists(NAMES, max_size=3)), max_size=8), st.randoms())
def test_numbers_do_not_depend_on_the_order_of_songs_and_survive_json(songs, random) -> None:
    rows = [row(artist, *genres) for artist, genres in songs]
    labels = build_labels(rows)
    random.shuffle(rows)
    assert build_labels(rows) == labels
    assert Labels.from_json(labels.to_json()) == labels
    for artist, genres in songs:
        assert artist is None or artist.strip().casefold() == "unknown" or labels.artist_id(artist) > 0
        assert len(labels.genre_ids(genres)) == len(genres)


def test_loading_undoes_saving_and_errors_are_one_line(tmp_path: Path) -> None:
    labels = Labels(("unknown", "Zoë"), ("unknown",), Pace(0.5, 4, 1.0, {"rock": Pace(0.4, 3, 2.0)}))
    labels.save(tmp_path / "labels.json")
    assert Labels.load(tmp_path / "labels.json") == labels
    with pytest.raises(UserError, match="jukebox prepare"):
        Labels.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(UserError, match="expected artists"):
        Labels.load(tmp_path / "bad.json")


def test_labels_are_extended_behind_what_is_known_and_no_number_changes() -> None:
    slow, fast = Pace(1.0, 4, 2.0), Pace(0.5, 3, 1.0)
    old = Labels(("unknown", "Ann", "Bob"), ("unknown", "rock"), replace(slow, genres={"rock": slow}))
    other = Labels(
        ("unknown", "aaron", "bob", "Zoe"), ("unknown", "Rock", "waltz"), Pace(0.7, 3, 0.0, {"rock": fast, "waltz": fast})
    )
    grown = old.extended(other)
    assert grown.artists == ("unknown", "Ann", "Bob", "aaron", "Zoe") and grown.genres == ("unknown", "rock", "waltz")
    assert grown.pace is not None and grown.pace.beat == 1.0 and grown.pace.genres == {"rock": slow, "waltz": fast}
    assert grown.extended(other) == grown and old.extended(old) == old
    published = Labels(("", "ann"), ("unknown", "dark", "pop"), None, "v2").extended(
        Labels(("unknown",), ("unknown", "Dark Ambient"))
    )
    assert published.genres == ("unknown", "dark", "pop", "ambient") and published.genre_ids(["Dark Ambient"]) == [1, 3]
