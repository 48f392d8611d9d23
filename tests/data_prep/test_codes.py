"""Tables of streams: what goes in comes out, from memory-mapped shards, also after a kill."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.codes import CodesReader, CodesWriter
from data_prep.errors import UserError


def codes_of(seed: int, *levels: int, length: int = 40) -> dict[str, np.ndarray]:
    """Return random codes of a song, by stream."""
    rng = np.random.default_rng(seed)
    return {f"vq.{level}": rng.integers(0, 65536, length << (2 * (2 - level))).astype(np.uint16) for level in levels}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_reading_undoes_writing_for_any_shard_size(tmp_path_factory, lengths, shard_bytes) -> None:
    folder = tmp_path_factory.mktemp("codes")
    songs = {f"Å/{i}.wav": codes_of(i, 1, 2, length=length) for i, length in enumerate(lengths)}
    with CodesWriter(folder, ("vq.2", "vq.1"), shard_bytes=shard_bytes) as writer:
        for song, codes in songs.items():
            writer.add(song, codes)
    reader = CodesReader(folder)
    assert reader.songs == sorted(songs)
    assert reader.streams == ("vq.1", "vq.2")
    for song, codes in songs.items():
        for stream, values in codes.items():
            assert reader.length(song, stream) == len(values)
            assert reader.read(song, stream).dtype == np.uint16
            np.testing.assert_array_equal(reader.read(song, stream), values)
            np.testing.assert_array_equal(reader.read(song, stream, 3, 11), values[3:11])


def test_shards_roll_and_reading_is_a_view_into_the_file(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, ("vq.0",), shard_bytes=3000) as writer:
        for i in range(10):
            writer.add(f"{i}", codes_of(i, 0))
    assert len(list(tmp_path.glob("*.arrow"))) == 4  # 3 songs of 1,280 bytes fill one
    piece = CodesReader(tmp_path).read("7", "vq.0", 100, 200)
    assert not piece.flags.owndata and not piece.flags.writeable
    np.testing.assert_array_equal(piece, codes_of(7, 0)["vq.0"][100:200])


def test_a_writer_continues_and_knows_what_is_done(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, ("vq.2",)) as writer:
        writer.add("a", codes_of(0, 2))
    with CodesWriter(tmp_path, ("vq.2",)) as writer:
        assert writer.songs_done == {"a"}
        writer.add("b", codes_of(1, 2))
    assert CodesReader(tmp_path).songs == ["a", "b"]


def test_streams_can_be_added_later_for_some_songs(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, ("vq.2",)) as writer:
        for i in range(3):
            writer.add(f"{i}", codes_of(i, 2))
    with CodesWriter(tmp_path, ("vq.0", "vq.1")) as writer:
        assert writer.songs_done == set()
        writer.add("1", codes_of(1, 0, 1))
    reader = CodesReader(tmp_path)
    assert reader.songs == ["0", "1", "2"]
    assert reader.streams == ("vq.0", "vq.1", "vq.2")
    assert reader.songs_with(("vq.0", "vq.1", "vq.2")) == ["1"]
    np.testing.assert_array_equal(reader.read("1", "vq.0"), codes_of(1, 0, 1)["vq.0"])
    np.testing.assert_array_equal(reader.read("1", "vq.2"), codes_of(1, 2)["vq.2"])
    with pytest.raises(UserError, match=r"2: no vq\.0 in .*; it has \['vq\.2'\]"):
        reader.read("2", "vq.0")


def test_two_writers_with_names_of_their_own_share_a_folder(tmp_path: Path) -> None:
    writers = [CodesWriter(tmp_path, ("vq.2",), name=f"rank{rank}") for rank in range(2)]
    for i in range(6):
        writers[i % 2].add(f"{i}", codes_of(i, 2))
    for writer in writers:
        writer.close()
    assert CodesReader(tmp_path).songs == list("012345")


KILLED = """
import os, signal, sys
sys.path[:] = {path!r}
import numpy as np
from data_prep.codes import CodesWriter
writer = CodesWriter({folder!r}, ("vq.2",), shard_bytes=250)
for i in range(7):
    writer.add(str(i), {{"vq.2": np.full(50, i, np.uint16)}})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_writer_keeps_every_song_that_it_had_added(tmp_path: Path) -> None:
    script = KILLED.format(path=sys.path, folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1
    assert CodesReader(tmp_path).songs == list("012345")  # two finished shards, readable without an index
    part = next(tmp_path.glob(".*.part"))
    part.write_bytes(part.read_bytes() + b"\xff\xff\xff\xff\x10\x01\x00\x00half a song")
    with CodesWriter(tmp_path, ("vq.2",)) as writer:
        assert writer.songs_done == set("0123456")
        writer.add("7", {"vq.2": np.full(50, 7, np.uint16)})
    reader = CodesReader(tmp_path)
    assert [int(reader.read(song, "vq.2")[0]) for song in reader.songs] == list(range(8))
    assert not list(tmp_path.glob(".codes*"))


def test_wrong_codes_are_refused(tmp_path: Path) -> None:
    writer = CodesWriter(tmp_path, ("vq.2",))
    good = np.ones(1, np.uint16)
    for wrong in ({"vq.2": [70000]}, {"vq.2": [-1]}, {"vq.2": good[None, None]}, {"vq.2": good[0]}, {"vq.1": good}):
        with pytest.raises(ValueError):
            writer.add("a", wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no codes here"):
        CodesReader(tmp_path)


def test_a_reader_travels_to_another_process(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, ("vq.2",)) as writer:
        writer.add("a", codes_of(0, 2))
    reader = CodesReader(tmp_path)
    reader.read("a", "vq.2")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read("a", "vq.2"), codes_of(0, 2)["vq.2"])


def test_books_and_latents_come_back_in_their_dtype_as_views(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    songs = {
        f"{length}": {
            "tokens": rng.integers(0, 65536, (length, 2)).astype(np.uint16),
            "latent": rng.standard_normal((2 * length, 3)).astype(np.float16),
            "wide": rng.integers(0, 1 << 20, length).astype(np.uint32),
        }
        for length in (5, 0, 40)
    }
    with CodesWriter(tmp_path, ("tokens", "latent", "wide"), shard_bytes=600) as writer:
        for song, values in songs.items():
            writer.add(song, values)
    for reader in (CodesReader(tmp_path), CodesReader(tmp_path)):  # by the index, then by the shards
        for song, values in songs.items():
            for stream, frames in values.items():
                for part in (slice(None), slice(2, 9), slice(4, 4)):
                    found = reader.read(song, stream, part.start or 0, part.stop)
                    assert found.dtype == frames.dtype and found.shape == frames[part].shape
                    np.testing.assert_array_equal(found, frames[part])
                    assert not found.size or (not found.flags.writeable and not found.flags.owndata)
                assert reader.length(song, stream) == len(frames)
        (tmp_path / "index.parquet").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="expected unsigned or float frames"):
        CodesWriter(tmp_path, ("tokens",)).add("a", {"tokens": np.zeros((3, 2, 2), np.uint16)})


def write_version_1(folder: Path, songs: dict[str, dict[int, np.ndarray]]) -> None:
    """Write a shard and an index as version 1 did: columns and index by level."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple] = []
    levels = sorted(next(iter(songs.values())))
    schema = pa.schema([("song", pa.string()), *((f"level_{level}", pa.large_list(pa.uint16())) for level in levels)])
    with pa.OSFile(str(folder / "codes-00000.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as shard:
        for row, (song, codes) in enumerate(songs.items()):
            columns = [pa.array([song]), *(pa.array([codes[level]], pa.large_list(pa.uint16())) for level in levels)]
            shard.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows += [(song, level, "codes-00000.arrow", row, len(codes[level])) for level in levels]
    names = ("song", "level", "shard", "row", "length")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*sorted(rows)))))), folder / "index.parquet")


def test_a_folder_of_version_1_is_read_by_stream_and_goes_on_with_new_shards(tmp_path: Path) -> None:
    old = {f"{i}": {level: codes_of(i, level)[f"vq.{level}"] for level in (1, 2)} for i in range(3)}
    write_version_1(tmp_path / "old", old)
    reader = CodesReader(tmp_path / "old")
    assert reader.songs == ["0", "1", "2"] and reader.streams == ("vq.1", "vq.2")
    for song, codes in old.items():
        for level, values in codes.items():
            np.testing.assert_array_equal(reader.read(song, f"vq.{level}", 3, 20), values[3:20])
    with CodesWriter(tmp_path / "old", ("vq.2",)) as writer:
        assert writer.songs_done == {"0", "1", "2"}
        writer.add("3", codes_of(3, 2))
    both = CodesReader(tmp_path / "old")
    assert both.songs_with(["vq.2"]) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(both.read("3", "vq.2"), codes_of(3, 2)["vq.2"])
    np.testing.assert_array_equal(both.read("0", "vq.1"), old["0"][1])


def test_several_folders_are_read_as_one_and_the_first_counts(tmp_path: Path) -> None:
    for name, seed, streams in (("a", 0, (2,)), ("b", 1, (1, 2))):
        with CodesWriter(tmp_path / name, [f"vq.{level}" for level in streams]) as writer:
            writer.add("x", codes_of(seed, *streams))
    reader = CodesReader(tmp_path / "a", tmp_path / "b")
    assert reader.songs_with(["vq.1", "vq.2"]) == ["x"]
    np.testing.assert_array_equal(reader.read("x", "vq.2"), codes_of(0, 2)["vq.2"])
    np.testing.assert_array_equal(reader.read("x", "vq.1"), codes_of(1, 1, 2)["vq.1"])
