"""Published labels: names are cleaned and numbered as their version does; tests/golden/text.json has more of them."""

from __future__ import annotations

import pytest

from data_prep.errors import UserError
from jukebox.importers.labels import PublishedLabels, clean


@pytest.fixture
def folder(tmp_path):
    for version, artists in (("v2", "unknown;0\nvarious;0\nthe_beatles;7\n"), ("v3", "speaker;3\nunknown;0\nspeaker;9\n")):
        (tmp_path / f"{version}_artist_ids.txt").write_text(artists)
        (tmp_path / f"{version}_genre_ids.txt").write_text("unknown;0\nrock;4\nhip;2\nhop;5\nhip hop;8\n")
    return tmp_path


def test_v2_cleans_names_and_takes_genres_word_by_word(folder):
    labels = PublishedLabels.read(folder, "v2")
    assert labels.artist_id("  The  Beatles! ") == 7 and labels.artist(7) == "the_beatles"
    assert labels.artist_id("Somebody Else") == 0 and labels.artist(0) == "unknown_various"
    assert labels.genre_ids("Hip-Hop / Jazz") == [2, 5, 0] and labels.genre([2, 5, -1]) == "hip_hop"


def test_v3_takes_names_as_they_are_and_the_last_of_two(folder):
    labels = PublishedLabels.read(folder, "v3")
    assert labels.artist_id("Speaker") == 9 and labels.artist_id("speaker ") == 0
    assert labels.genre_ids("Hip Hop") == [8] and labels.genre_ids("hip-hop") == [0]
    assert clean("Céline Dion", "v3") == "céline dion" and clean("Céline Dion", "v2") == "c_line_dion"


def test_a_file_of_another_kind_is_named_with_its_line(folder):
    (folder / "v3_genre_ids.txt").write_text("rock;4\nno number\n")
    with pytest.raises(UserError, match=r"v3_genre_ids.txt, line 2.*expected name;id"):
        PublishedLabels.read(folder, "v3")
