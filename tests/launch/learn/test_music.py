"""The music that `jukebox learn` chooses, holds out and cuts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from data_prep.manifest import load_manifest, prepare
from launch.learn.music import gather, write_table

RATE = 8000


def write(folder: Path, names: dict[str, int], seconds: float = 2.0) -> Path:
    """A table of songs: artist -> number of songs, all different."""
    folder.mkdir()
    rows, rng = [], np.random.default_rng(0)
    for artist, count in names.items():
        for i in range(count):
            path = folder / f"{artist}_{i}.wav"
            write_wav(path, rng.normal(0, 0.1, (1, int(seconds * RATE))).astype(np.float32), RATE)
            rows.append({"path": path.name, "artist": artist, "genres": ["x"]})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def test_a_subset_is_spread_over_the_artists_and_said(tmp_path):
    source = write(tmp_path / "music", {"ann": 9, "bob": 3, "cy": 1})
    music = gather([str(source / "list.jsonl")], tmp_path / "data", 14.0, 0, 1.0)
    assert Counter(piece.song.artist for piece in music.pieces) == {"ann": 3, "bob": 3, "cy": 1}
    assert sum(piece.seconds for piece in music.pieces) == 14.0
    assert music.notes[0].startswith("7 of 13 songs are used, chosen across artists; for more songs, increase --hours")


def test_held_out_songs_are_of_artists_with_the_most_songs_and_stay_so_in_the_data_folder(tmp_path):
    source = write(tmp_path / "music", {"ann": 9, "bob": 3, "cy": 1})
    music = gather([str(source / "list.jsonl")], tmp_path / "data", 1e9, 0, 1.0)
    write_table(music.pieces, tmp_path / "data" / "songs.jsonl")
    prepare(tmp_path / "data" / "songs.jsonl", tmp_path / "data", workers=1)
    rows = load_manifest(tmp_path / "data")
    assert len(rows) == 13 and sorted(str(row.artist) for row in rows if row.split == "test") == ["ann", "bob"]


def test_one_song_is_cut_into_a_training_part_and_two_held_out_ones(tmp_path):
    source = write(tmp_path / "music", {"ann": 1}, seconds=10.0)
    music = gather([str(source / "ann_0.wav")], tmp_path / "data", 1e9, 0, 1.0)
    assert [piece.split for piece in music.pieces] == [
        "train",
        "test",
        "test",
    ] and "fewer than 6 songs: each is cut" in music.notes[0]
    joined = np.concatenate([read(piece.path)[0] for piece in music.pieces], axis=1)
    assert np.abs(joined - read(source / "ann_0.wav")[0]).max() < 1e-4
    assert min(piece.seconds for piece in music.pieces) > 2.0


def test_a_song_too_short_to_be_cut_and_music_that_is_none_are_one_line(tmp_path):
    source = write(tmp_path / "music", {"ann": 1}, seconds=3.0)
    with pytest.raises(UserError, match=r"ann_0.wav lasts 3.0 s; expected at least 8 s"):
        gather([str(source)], tmp_path / "data", 1e9, 0, 1.0)
    (source / "ann_0.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match="none of 1 files is audio"):
        gather([str(source)], tmp_path / "data", 1e9, 0, 1.0)
    with pytest.raises(UserError, match="expected 2 to 7, of 8 songs"):
        gather([str(write(tmp_path / "more", {"ann": 8}))], tmp_path / "data", 1e9, 8, 1.0)


def test_a_song_without_an_artist_has_the_name_of_its_folder_below_the_source(tmp_path):
    source = write(tmp_path / "music", {"ann": 1})
    for name in ("one", "two"):
        write(source / name, {"x": 4})
    found = gather([str(source)], tmp_path / "data", 1e9, 0, 1.0).pieces
    assert Counter(piece.song.artist for piece in found) == {None: 1, "one": 4, "two": 4}


def test_a_data_folder_is_taken_as_it_is(tmp_path):
    source = write(tmp_path / "music", {"ann": 8})
    prepare(source / "list.jsonl", tmp_path / "data", workers=1)
    music = gather([str(tmp_path / "data")], tmp_path / "other", 1.0, 0, 1.0)
    assert len(music.pieces) == 8 and not (tmp_path / "other").exists()


def test_a_wrong_side_in_a_table_is_one_line(tmp_path):
    source = write(tmp_path / "music", {"ann": 2})
    (source / "list.jsonl").write_text(json.dumps({"path": "ann_0.wav", "split": "left"}), encoding="utf-8")
    with pytest.raises(UserError, match="expected split to be train, test or empty, got 'left'"):
        prepare(source / "list.jsonl", tmp_path / "data", workers=1)
