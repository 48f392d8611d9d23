"""Source and licence of a song: from tables and tags into the manifest, and manifests of before, which have neither."""

from __future__ import annotations

from pathlib import Path

import mutagen
import mutagen.id3
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from data_prep.errors import UserError
from data_prep.manifest import load_manifest, prepare
from data_prep.metadata.tags import read_tags
from data_prep.sources import find_songs

ID3 = mutagen.id3


def tone(path: Path, seconds: float = 1.2) -> Path:
    t = np.arange(round(seconds * 16000)) / 16000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 330 * t), 16000)
    return path


def with_info(path: Path, name: bytes, text: bytes) -> Path:
    """A wav file with one entry in an INFO list after its samples."""
    data = tone(path).read_bytes()
    entry = b"INFO" + name + len(text).to_bytes(4, "little") + text + b"\0" * (len(text) % 2)
    data += b"LIST" + len(entry).to_bytes(4, "little") + entry
    path.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    return path


@pytest.mark.parametrize(
    ("frames", "licence", "source"),
    [
        ([ID3.TCOP(text="2004 Ann")], "2004 Ann", None),
        ([ID3.WCOP(url="https://l.example/by/4.0"), ID3.TCOP(text="2004 Ann")], "https://l.example/by/4.0", None),
        ([ID3.TXXX(desc="LICENSE", text="CC BY\n4.0"), ID3.TCOP(text="2004 Ann")], "CC BY 4.0", None),
        ([ID3.WOAS(url="https://a.example/album")], None, "https://a.example/album"),
    ],
)
def test_frames_of_an_mp3(frames: list, licence: str | None, source: str | None, tmp_path: Path) -> None:
    path, tags = tone(tmp_path / "a.mp3"), ID3.ID3()
    for frame in frames:
        tags.add(frame)
    tags.save(path)
    found = read_tags(path)
    assert (found.licence, found.source) == (licence, source)


def test_comments_of_a_flac_and_info_of_a_wav(tmp_path: Path) -> None:
    flac = mutagen.File(tone(tmp_path / "a.flac"))
    assert flac is not None
    flac.update(COPYRIGHT="2004 Ann", LICENSE="CC0", SOURCE="the attic")
    flac.save()
    assert (read_tags(tmp_path / "a.flac").licence, read_tags(tmp_path / "a.flac").source) == ("CC0", "the attic")
    assert read_tags(with_info(tmp_path / "a.wav", b"ICOP", b"2004 Bob")).licence == "2004 Bob"


@pytest.mark.parametrize("name", ["licence", "license", "LICENSE"])
def test_columns_of_a_table_come_before_the_tags(name: str, tmp_path: Path) -> None:
    flac = mutagen.File(tone(tmp_path / "a.flac"))
    assert flac is not None
    flac.update(LICENSE="of the tags", SOURCE="of the tags")
    flac.save()
    (tmp_path / "a.csv").write_text(f'path,{name}\na.flac,"CC BY 4.0"\n', encoding="utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "data", workers=1)
    (row,) = load_manifest(tmp_path / "data")
    assert (row.licence, row.source) == ("CC BY 4.0", "of the tags")


def test_a_licence_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "a.wav", "licence": 4}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1: expected licence to be text, got 4"):
        find_songs(tmp_path / "a.jsonl")


def test_a_manifest_of_before_opens_and_takes_more_songs(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    tone(tmp_path / "old" / "a.wav")
    with_info(tmp_path / "new" / "b.wav", b"ICOP", b"CC0")
    prepare(tmp_path / "old", tmp_path / "data", workers=1)
    path = tmp_path / "data" / "manifest.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["source", "licence"]), path)
    assert [row.licence for row in load_manifest(tmp_path / "data")] == [None]
    prepare(tmp_path / "new", tmp_path / "data", workers=1, add=True)
    assert {row.path: row.licence for row in load_manifest(tmp_path / "data")} == {"a.wav": None, "../new/b.wav": "CC0"}
