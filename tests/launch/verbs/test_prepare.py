"""`jukebox prepare` on what people have: every good file with its true duration, every bad one with its reason."""

from __future__ import annotations

from pathlib import Path

import mutagen
import mutagen.id3
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from data_prep.manifest import load_manifest
from launch.cli import main

EXACT, LOSSY = 1e-9, 0.002  # seconds; mp3 and ogg state their encoder's delay and padding, which are taken off


def tone(sample_rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """Return (t, channels) of a tone."""
    t = np.arange(round(sample_rate * seconds)) / sample_rate
    return np.stack([0.3 * np.sin(2 * np.pi * (330 + 110 * c) * t) for c in range(channels)], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that everybody has."""
    music = tmp_path_factory.mktemp("Müsik 音楽")
    (music / "sub" / "Ordner mit Grüßen").mkdir(parents=True)
    soundfile.write(music / "stereo.mp3", tone(48000, 3.7, 2), 48000)
    soundfile.write(music / "mono.flac", tone(22050, 2.345), 22050)
    soundfile.write(music / "song.ogg", tone(44100, 3.1, 2), 44100)
    soundfile.write(music / "deep.wav", tone(96000, 1.5, 2), 96000, "PCM_24")
    soundfile.write(music / "float.wav", tone(44100, 1.25), 44100, "FLOAT")
    soundfile.write(music / "sub" / "Ordner mit Grüßen" / "日本の歌 – ça va.flac", tone(16000, 2.0), 16000)
    (music / "sub" / "empty.wav").touch()
    (music / "text.mp3").write_text("this is a letter\n" * 100)
    flac = (music / "mono.flac").read_bytes()
    (music / "cut.flac").write_bytes(flac[: len(flac) // 2])
    for name in ("stereo.mp3", "song.ogg", "float.wav"):
        data = (music / name).read_bytes()
        (music / "sub" / f"cut {name}").write_bytes(data[: int(len(data) * 0.7)])
    soundfile.write(music / "silent.wav", np.zeros(44100 * 2), 44100)
    soundfile.write(music / "blip.wav", tone(44100, 0.2), 44100)
    broken = tone(22050, 2.0)
    broken[1000] = np.nan
    soundfile.write(music / "nan.wav", broken, 22050, "FLOAT")
    (music / "cover.jpg").write_bytes(b"\xff\xd8\xff")
    (music / ".hidden.mp3").write_text("hidden")
    tags = mutagen.File(music / "stereo.mp3")
    assert tags is not None
    tags.add_tags()
    tags.tags.add(mutagen.id3.TPE1(text="Ann"))
    tags.tags.add(mutagen.id3.TCON(text="Rock"))
    tags.save()
    (music / "mono.lrc").write_text("[00:00.50]hello\n[00:01.00]moon\n")
    return music


GOOD = {
    "stereo.mp3": (3.7, 48000, 2, LOSSY),
    "mono.flac": (2.345, 22050, 1, 1 / 22050),
    "song.ogg": (3.1, 44100, 2, LOSSY),
    "deep.wav": (1.5, 96000, 2, EXACT),
    "float.wav": (1.25, 44100, 1, EXACT),
    "sub/Ordner mit Grüßen/日本の歌 – ça va.flac": (2.0, 16000, 1, EXACT),
}
BAD = {
    "sub/empty.wav": "unreadable",
    "text.mp3": "unreadable",
    "cut.flac": "truncated",
    "sub/cut stereo.mp3": "truncated",
    "sub/cut song.ogg": "truncated",
    "sub/cut float.wav": "truncated",
    "silent.wav": "silent",
    "blip.wav": "too short",
    "nan.wav": "non-finite",
}


def test_every_good_file_is_kept_and_every_bad_one_has_its_reason(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["prepare", str(folder), "--out", str(tmp_path / "data")]) == 0
    asked_to_stop = capsys.readouterr().out
    rows = {row.path: row for row in load_manifest(tmp_path / "data")}
    assert set(rows) == set(GOOD)
    for path, (seconds, sample_rate, channels, tolerance) in GOOD.items():
        assert rows[path].seconds == pytest.approx(seconds, abs=tolerance), path
        assert (rows[path].sample_rate, rows[path].channels) == (sample_rate, channels), path
    refused = pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()
    assert {row["path"]: row["reason"] for row in refused} == BAD
    assert all(row["detail"] for row in refused)
    assert (rows["stereo.mp3"].artist, rows["stereo.mp3"].genres) == ("Ann", ("Rock",))
    assert rows["mono.flac"].lyrics == "hello\nmoon" and rows["mono.flac"].word_times[1].start == 1.0
    assert (
        "kept 6 songs" in asked_to_stop
        and "refused 9 (2 unreadable, 1 too short, 1 silent, 1 non-finite, 4 truncated" in asked_to_stop
    )
    assert str(tmp_path / "data" / "manifest.parquet") in asked_to_stop


def test_a_folder_without_audio_is_a_one_line_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["prepare", str(tmp_path / "empty"), "--out", str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    (tmp_path / "empty" / "letter.txt").touch()
    assert main(["prepare", str(tmp_path / "empty"), "--out", str(tmp_path / "data")]) == 2
    assert "there is no audio in this folder (1 other files: 1 .txt)" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "none"), "--out", str(tmp_path / "data")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_of_bad_files_only_ends_with_the_counts_and_exit_code_2(tmp_path: Path, capsys) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp3").write_text("letter")
    (tmp_path / "bad" / "b.wav").touch()
    assert main(["prepare", str(tmp_path / "bad"), "--out", str(tmp_path / "data")]) == 2
    asked_to_stop = capsys.readouterr().err
    assert (
        "kept 0 songs" in asked_to_stop
        and "refused 2 (2 unreadable" in asked_to_stop
        and asked_to_stop.strip().count("\n") == 0
    )
    assert len(pq.read_table(tmp_path / "data" / "refused.parquet")) == 2


def test_rows_that_name_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,artist\n{folder / 'deep.wav'},Ann\nmissing.wav,Bob\n", encoding="utf-8")
    assert main(["prepare", str(tmp_path / "list.csv"), "--out", str(tmp_path / "data"), "--min_seconds", "0.5"]) == 0
    assert [row.artist for row in load_manifest(tmp_path / "data")] == ["Ann"]
    refused = pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()
    assert (refused[0]["path"], refused[0]["reason"]) == ("missing.wav", "unreadable")


def test_several_sources_are_several_words(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("one album", "it's two"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "song.wav", tone(8000, 1.5), 8000)
    assert main(["prepare", str(tmp_path / "one album"), str(tmp_path / "it's two"), "--out", str(tmp_path / "data")]) == 0
    assert [row.song for row in load_manifest(tmp_path / "data")] == ["../it's two/song.wav", "song.wav"]
    assert main(["prepare", "--source", str(tmp_path / "it's two"), "--out", str(tmp_path / "data")]) == 2
    assert "give --add" in capsys.readouterr().err
