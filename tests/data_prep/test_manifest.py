"""The tables of a data folder: the same for any number of workers, after any interruption, in any company."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from data_prep import manifest
from data_prep.audio.audio import read
from data_prep.errors import UserError
from data_prep.files import IN_USE, held
from data_prep.labels import Labels
from data_prep.manifest import audio_path, load_manifest, prepare, reading, split_songs

TABLES = ("manifest.parquet", "refused.parquet", "labels.json")


def write_songs(folder: Path, count: int) -> Path:
    """Write some songs of different length, with lyrics beside them, and one that is too short."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        tone = 0.2 * np.sin(np.arange(9000 + 100 * i) * (0.02 + 0.003 * i))
        soundfile.write(folder / f"{i:02d}.wav", tone, 8000)
        (folder / f"{i:02d}.txt").write_text(f"words of song {i}")
    soundfile.write(folder / "short.flac", np.full(80, 0.1), 8000)
    return folder


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("music"), 12)


@pytest.fixture(scope="module")
def tables(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    prepared = prepare(music, out, workers=1)
    assert prepared is not None and (prepared.kept, prepared.refused) == (12, 1)
    return out


def same_tables(a: Path, b: Path) -> bool:
    """Compare two data folders byte by byte, but for the place of the music as seen from each."""
    left, right = (pq.read_table(folder / "manifest.parquet") for folder in (a, b))
    others = all((a / name).read_bytes() == (b / name).read_bytes() for name in TABLES[1:])
    return others and left.equals(right) and left.schema.metadata[b"root"] == right.schema.metadata[b"root"]


def test_tables_do_not_depend_on_the_number_of_workers(music: Path, tables: Path, tmp_path: Path) -> None:
    prepare(music, tmp_path, workers=3)
    assert same_tables(tables, tmp_path)
    assert (tables / "manifest.parquet").stat().st_size == (tmp_path / "manifest.parquet").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != IN_USE) == sorted(TABLES)


def test_an_interrupted_run_goes_on_from_its_finished_songs(music, tables, tmp_path, monkeypatch) -> None:
    asked: list[int] = []

    def interrupted(function, items, *rest, **named):
        asked.append(len(items))
        for count, result in enumerate(map_songs(function, items, *rest, **named)):
            if len(asked) == 1 and count == 5:
                raise KeyboardInterrupt
            yield result

    map_songs = manifest.map_songs
    monkeypatch.setattr(manifest, "map_songs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(music, tmp_path)
    assert not (tmp_path / "manifest.parquet").exists()
    with (tmp_path / ".journal.jsonl").open("a") as journal:
        journal.write('["half a li')  # what a kill leaves
    prepare(music, tmp_path)
    assert asked == [13, 8]
    assert same_tables(tables, tmp_path)
    assert not (tmp_path / ".journal.jsonl").exists()


def test_what_changed_since_an_interruption_is_looked_at_again(tmp_path, monkeypatch) -> None:
    folder = write_songs(tmp_path / "music", 4)
    map_songs = manifest.map_songs

    def stop(*arguments, **named):
        yield from map_songs(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "map_songs", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "data")
    (folder / "02.txt").write_text("other words, and more of them")
    monkeypatch.setattr(manifest, "map_songs", map_songs)
    prepare(folder, tmp_path / "data")
    assert load_manifest(tmp_path / "data")[2].lyrics == "other words, and more of them"


CRASHING = """
import importlib, os, sys
sys.path.remove(os.path.dirname(__file__))
del sys.modules["soundfile"]
real = importlib.import_module("soundfile")
opened = real.SoundFile.__init__
def open_or_die(self, file, *rest, **named):
    if "05" in str(file.name):
        os.abort()
    opened(self, file, *rest, **named)
real.SoundFile.__init__ = open_or_die
"""


def test_a_file_that_kills_its_decoder_costs_only_itself(music: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "soundfile.py").write_text(CRASHING)  # a worker imports it in place of the real one
    monkeypatch.syspath_prepend(tmp_path / "fake")
    prepared = prepare(music, tmp_path / "data", workers=2)
    assert prepared is not None and (prepared.kept, prepared.refused) == (11, 2)
    refused = pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()
    assert [row["path"] for row in refused] == ["05.wav", "short.flac"]
    assert refused[0]["reason"] == "unreadable" and refused[0]["detail"].startswith("decoder crashed")


def test_the_table_holds_all_that_is_known_and_finds_the_audio(tables: Path, tmp_path: Path) -> None:
    table = pq.read_table(tables / "manifest.parquet")
    assert table.column_names == [
        *("path", "seconds", "sample_rate", "channels", "artist", "genres", "lyrics", "word_times", "hash", "split"),
        *("source", "licence"),
    ]
    rows = load_manifest(tables)
    assert [row.song for row in rows] == [f"{i:02d}.wav" for i in range(12)]
    assert {row.split for row in rows} == {"train", "test"}
    assert rows[3].lyrics == "words of song 3" and rows[3].artist is None and rows[3].word_times == ()
    audio, rate = read(audio_path(tables, rows[3]))
    assert rate == rows[3].sample_rate and audio.shape[1] / rate == rows[3].seconds
    assert Labels.load(tables / "labels.json").artists == ("unknown",)


def test_data_and_music_that_move_together_still_find_each_other(tmp_path: Path) -> None:
    write_songs(tmp_path / "here" / "music", 2)
    prepare(tmp_path / "here" / "music", tmp_path / "here" / "data")
    shutil.move(tmp_path / "here", tmp_path / "there")
    rows = load_manifest(tmp_path / "there" / "data")
    assert audio_path(tmp_path / "there" / "data", rows[0]).is_file()


def test_words_with_times_come_back_from_the_table(tmp_path: Path) -> None:
    write_songs(tmp_path, 3)
    words = [["la", 0.25, 0.5], ["lu", 0.5, 1.0]]
    rows = [
        {"path": f"{i:02d}.wav", "artist": "Ann", "genres": ["a", "b"], "lyrics": "la lu", "words": words} for i in range(3)
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "list.jsonl", tmp_path / "data")
    row = load_manifest(tmp_path / "data")[0]
    assert [list(word) for word in row.word_times] == words
    assert (row.artist, row.genres) == ("Ann", ("a", "b"))
    labels = Labels.load(tmp_path / "data" / "labels.json")
    assert labels.artists == ("unknown", "Ann") and labels.pace is not None


@given(st.sets(st.text("abcdef0123456789", min_size=3, max_size=9), min_size=2, max_size=40), st.integers(0, 99))
def test_a_song_is_on_the_same_side_in_any_company(hashes: set[str], seed: int) -> None:
    split = split_songs(sorted(hashes), 0.3, seed)
    assert set(split.values()) == {"train", "test"}
    more = split_songs([*sorted(hashes, reverse=True), "other", "company"], 0.3, seed)
    forced = [name for name in hashes if split[name] != more[name]]
    assert len(forced) <= 2  # only those that must fill an empty side
    assert set(split_songs(hashes, 0.0, seed).values()) == {"train"}


def test_the_share_of_test_songs_is_kept_and_seeds_differ() -> None:
    names = [f"{i:x}" for i in range(2000)]
    splits = [split_songs(names, 0.1, seed) for seed in (0, 1)]
    for split in splits:
        assert 150 < sum(side == "test" for side in split.values()) < 250
    assert splits[0] != splits[1]


def test_copies_of_a_song_are_on_one_side(tmp_path: Path) -> None:
    write_songs(tmp_path / "music", 6)
    for i in range(6):
        shutil.copy(tmp_path / "music" / f"{i:02d}.wav", tmp_path / "music" / f"copy{i}.wav")
    prepare(tmp_path / "music", tmp_path / "data", test_share=0.5)
    sides: dict[str, set[str]] = {}
    for row in load_manifest(tmp_path / "data"):
        sides.setdefault(row.hash, set()).add(row.split)
    assert len(sides) == 6 and all(len(side) == 1 for side in sides.values())


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    write_songs(tmp_path / "music", 2)
    try:
        os.rename(tmp_path / "music" / "00.wav", os.fsencode(tmp_path / "music") + b"/bad\xff.wav")
    except OSError:
        pytest.skip("this file system takes unicode only")
    prepared = prepare(tmp_path / "music", tmp_path / "data")
    assert prepared is not None and prepared.kept == 1
    refused = pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()
    assert "unicode" in refused[0]["detail"]


def test_wrong_settings_and_missing_tables_are_one_line(music: Path, tmp_path: Path) -> None:
    for wrong in ({"test_share": 1.0}, {"min_seconds": -1.0}, {"workers": -1}):
        with pytest.raises(UserError, match="expected 0 <= test_share < 1"):
            prepare(music, tmp_path / "data", **wrong)
    with pytest.raises(UserError, match="jukebox prepare"):
        load_manifest(tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        prepare(music, tmp_path / "file")


# ---- several sources


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another folder of music: two songs of its own, and a copy of the first song of `music`."""
    folder = write_songs(tmp_path / "other", 1)
    for name, pitch in (("a.wav", 0.05), ("b.wav", 0.07)):
        soundfile.write(folder / name, 0.2 * np.sin(np.arange(12000) * pitch), 8000)
    return folder


def test_songs_of_another_source_do_not_replace_those_there_are(tables: Path, other: Path) -> None:
    before = {name: (tables / name).read_bytes() for name in TABLES}
    with pytest.raises(UserError, match=r"holds the songs of .*, which would be replaced; give --add"):
        prepare(other, tables, workers=1)
    assert before == {name: (tables / name).read_bytes() for name in TABLES}


def test_a_folder_whose_files_were_all_refused_takes_another_source(music: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file could be used"):
        prepare(music, tmp_path / "data", min_seconds=100.0, workers=1)
    prepared = prepare(other, tmp_path / "data", workers=1)
    assert prepared is not None and prepared.kept == 3


def test_added_songs_leave_those_there_were_with_their_names_and_sides(music: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(music, out, workers=1)
    before = {row.song: row for row in load_manifest(out)}
    share = 0.999 if before["00.wav"].split == "train" else 0.0  # by itself its copy would be on the other side
    added = prepare(other, out, add=True, test_share=share, workers=1)
    rows = {row.song: row for row in load_manifest(out)}
    assert added is not None and (added.kept, added.refused, added.before) == (3, 1, 12)
    assert {song: row for song, row in rows.items() if song in before} == before
    new = [row for song, row in rows.items() if song not in before]
    assert sorted(Path(row.path).name for row in new) == ["00.wav", "a.wav", "b.wav"]
    assert all(audio_path(out, row).is_file() for row in new)
    copy = next(row for row in new if row.path.endswith("00.wav"))
    assert copy.split == before["00.wav"].split  # the same song is not on both sides
    assert len(pq.read_table(out / "refused.parquet")) == 2
    again = prepare(other, out, add=True, workers=1)
    assert again is not None and (again.kept, again.before) == (0, 15) and len(load_manifest(out)) == 15


def test_added_names_are_spelled_as_those_there_are_and_counted(other: Path, tmp_path: Path) -> None:
    write_songs(tmp_path / "music", 2)
    (tmp_path / "first.jsonl").write_text(json.dumps({"path": "other/a.wav", "artist": "The Band", "genres": ["Rock"]}))
    named = [{"path": f"music/0{n}.wav", "artist": "the BAND", "genres": ["rock", "Pop"][: n + 1]} for n in range(2)]
    (tmp_path / "more.jsonl").write_text("\n".join(map(json.dumps, named)))
    out = tmp_path / "data"
    prepare(tmp_path / "first.jsonl", out, workers=1)
    before = load_manifest(out)
    added = prepare(tmp_path / "more.jsonl", out, add=True, workers=1)
    assert added is not None and added.left_out["other spellings of names, in songs"] == 2
    assert [(row.artist, row.genres) for row in load_manifest(out) if row not in before] == [
        ("The Band", ("Rock",)),
        ("The Band", ("Rock", "Pop")),
    ]
    assert [row for row in load_manifest(out) if row in before] == before


def test_what_is_ignored_is_counted_by_suffix_over_all_sources(music: Path, other: Path, tmp_path: Path) -> None:
    for path in (music / "a.jpg", other / "b.jpg", other / "c.pdf"):
        path.touch()
    prepared = prepare([music, other], tmp_path / "data", workers=1)
    assert prepared is not None and "2 .jpg" in prepared.ignored_suffixes and "1 .pdf" in prepared.ignored_suffixes


def test_several_sources_in_one_call_are_those_added_one_after_another(music: Path, other: Path, tmp_path: Path) -> None:
    prepare(music, tmp_path / "one" / "data", workers=1)
    prepare(other, tmp_path / "one" / "data", add=True, workers=1)
    prepare([music, other], tmp_path / "two" / "data", workers=1)
    one, two = ([(row.song, row.hash) for row in load_manifest(tmp_path / name / "data")] for name in ("one", "two"))
    assert one == two and len(one) == 15
    prepare([other, music], tmp_path / "two" / "data", workers=1)  # the same sources: what has changed in them is read again
    assert two == [(row.song, row.hash) for row in load_manifest(tmp_path / "two" / "data")]


def test_a_data_folder_that_is_read_is_not_written_and_one_that_is_written_is_not_read(tables: Path, music: Path) -> None:
    with reading(tables), reading(tables), pytest.raises(UserError, match="is read by a training or an encoding"):
        prepare(music, tables, workers=1)
    with held(tables, True, ""), pytest.raises(UserError, match="is being written by jukebox prepare"), reading(tables):
        pass
