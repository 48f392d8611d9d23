"""`jukebox data` and `jukebox labels` on a folder that `prepare` has made, and on models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.manifest import load_manifest, prepare
from jukebox.model.folder import ModelFolder
from jukebox.model.provenance import record_songs
from launch.cli import main

SONGS = [
    {"path": "one, two.wav", "artist": "Copper Finch", "genres": ["rock", "folk"], "licence": "CC BY 4.0", "source": "the attic",
     "lyrics": "all the\ncold wind", "words": [["all", 0.1, 0.3], ["the", 0.3, 0.5]]},
    {"path": "three.wav", "artist": "Copper Finch", "genres": ["rock"], "licence": "CC BY 4.0", "lyrics": "rain"},
    {"path": "four.wav", "artist": "Zoë Brandt", "genres": ["polka"]},
    {"path": "silent.wav"},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("music")
    for i, song in enumerate(SONGS):
        rate = 22050 if i else 16000
        t = np.arange(rate * (2 + 60 * (i == 1))) / rate
        soundfile.write(root / song["path"], 0.3 * np.sin(2 * np.pi * (300 + 50 * i) * t) * (i < 3), rate)
    (root / "songs.jsonl").write_text("\n".join(map(json.dumps, SONGS)), encoding="utf-8")
    prepare(root / "songs.jsonl", root / "data", test_share=0.0, workers=1)
    return root / "data"


def printed(capsys: pytest.CaptureFixture, *words: object) -> list[str]:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_data_folder_is_summed_up_by_subject(data: Path, capsys: pytest.CaptureFixture) -> None:
    lines = {line[:13].strip(): line[14:] for line in printed(capsys, "data", data)}
    assert lines["songs"] == "3, 0.0183 h: train 3 (0.0183 h), test 0 (0 h)"
    assert lines["lengths"] == "shortest 0:02, median 0:02, longest 1:02"
    assert lines["sample rates"] == "22050 Hz in 2, 16000 Hz in 1"
    assert lines["artists"] == "2 (Copper Finch 2, Zoë Brandt 1); 0 songs have none"
    assert lines["genres"] == "3 (rock 2, folk 1, polka 1); 0 songs have none"
    assert lines["lyrics"] == "2 songs, 1 of them with times"
    assert lines["licences"] == "CC BY 4.0 2, unknown 1"
    assert lines["sources"] == "unknown 2, the attic 1"
    assert lines["refused"] == "1 files (silent 1)"


def test_a_list_has_a_line_for_each_song_and_refused_file(data: Path, capsys: pytest.CaptureFixture) -> None:
    lines = printed(capsys, "data", data, "--list")
    assert lines[1] == "  0:02  train  16000 Hz 1 ch  times   Copper Finch  rock, folk  CC BY 4.0  one, two.wav"
    assert lines[3].startswith("refused: silent.wav: silent: ") and lines[4] == ""


def test_the_table_is_a_source_for_prepare(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "deep" / "songs.csv"
    assert printed(capsys, "data", data, "--csv", target)[-1] == f"wrote {target}"
    with target.open(encoding="utf-8", newline="") as file:
        assert [row["timed_words"] for row in csv.DictReader(file)] == ["0", "2", "0"]
    prepare(target, tmp_path / "again", test_share=0.0, workers=1)
    kept = ("artist", "genres", "lyrics", "licence", "source", "hash", "seconds")
    before, after = (
        [{name: getattr(row, name) for name in kept} for row in load_manifest(d)] for d in (data, tmp_path / "again")
    )
    assert sorted(after, key=lambda row: row["hash"]) == sorted(before, key=lambda row: row["hash"])


def test_names_of_a_data_folder_have_counts(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert printed(capsys, "labels", data) == [
        *("artists: 2", "  Copper Finch  2", "  Zoë Brandt  1", "genres: 3", "  folk  1", "  polka  1", "  rock  2")
    ]


def test_a_query_finds_parts_of_names_and_else_near_ones(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert printed(capsys, "labels", data, "FINCH") == ["artists: 1 of 2", "  Copper Finch  2"]
    assert printed(capsys, "labels", data, "coper finsh") == [
        *("no name contains 'coper finsh'; near to it:", "artists: 1 of 2", "  Copper Finch  2")
    ]
    assert main(["labels", str(data), "xylophonist"]) == 2
    assert "knows no name like 'xylophonist'" in capsys.readouterr().err


def test_names_of_the_model_of_the_package_are_listed(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, "labels", "shipped", "finch") == ["artists: 1 of 4", "  Copper Finch  114"]


def test_names_of_a_model_have_counts_once_its_songs_are_recorded(data: Path, tiny_model, tmp_path, capsys) -> None:
    assert "  ann" in printed(capsys, "labels", tiny_model.folder)
    folder = tmp_path / "model"
    model = ModelFolder.create(folder, tiny_model.info.codecs[0].config)
    model.save_labels(tiny_model.labels)
    assert printed(capsys, "labels", folder, "ann") == ["artists: 1 of 2", "  ann"]
    rows = [row for row in load_manifest(data) if row.artist]
    record_songs(folder, [type(row)(**{**vars(row), "artist": "ann"}) for row in rows])
    assert printed(capsys, "labels", folder, "ann") == ["artists: 1 of 2", "  ann  3"]


@pytest.mark.parametrize("verb", ["data", "labels"])
def test_a_folder_of_something_else_is_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([verb, str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
