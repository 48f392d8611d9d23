"""Tables of codes: what goes in comes out, from memory-mapped shards, also after a kill."""

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


def codes_of(seed: int, *levels: int, length: int = 40) -> dict[int, np.ndarray]:
    """Return random codes of a song."""
    rng = np.random.default_rng(seed)
    return {level: rng.integers(0, 65536, length << (2 * (2 - level))).astype(np.uint16) for level in levels}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_reading_undoes_writing_for_any_shard_size(tmp_path_factory, lengths, shard_bytes) -> None:
    folder = tmp_path_factory.mktemp("codes")
    songs = {f"Å/{i}.wav": codes_of(i, 1, 2, length=length) for i, length in enumerate(lengths)}
    with CodesWriter(folder, (2, 1), shard_bytes=shard_bytes) as writer:
        for song, codes in songs.items():
            writer.add(song, codes)
    reader = CodesReader(folder)
    assert reader.songs == sorted(songs)
    assert reader.levels == (1, 2)
    for song, codes in songs.items():
        for level, values in codes.items():
            assert reader.length(song, level) == len(values)
            assert reader.read(song, level).dtype == np.uint16
            np.testing.assert_array_equal(reader.read(song, level), values)
            np.testing.assert_array_equal(reader.read(song, level, 3, 11), values[3:11])


def test_shards_roll_and_reading_is_a_view_into_the_file(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, (0,), shard_bytes=3000) as writer:
        for i in range(10):
            writer.add(f"{i}", codes_of(i, 0))
    assert len(list(tmp_path.glob("*.arrow"))) == 4  # 3 songs of 1,280 bytes fill one
    piece = CodesReader(tmp_path).read("7", 0, 100, 200)
    assert not piece.flags.owndata and not piece.flags.writeable
    np.testing.assert_array_equal(piece, codes_of(7, 0)[0][100:200])


def test_a_writer_continues_and_knows_what_is_done(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, (2,)) as writer:
        writer.add("a", codes_of(0, 2))
    with CodesWriter(tmp_path, (2,)) as writer:
        assert writer.songs_done == {"a"}
        writer.add("b", codes_of(1, 2))
    assert CodesReader(tmp_path).songs == ["a", "b"]


def test_levels_can_be_added_later_for_some_songs(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, (2,)) as writer:
        for i in range(3):
            writer.add(f"{i}", codes_of(i, 2))
    with CodesWriter(tmp_path, (0, 1)) as writer:
        assert writer.songs_done == set()
        writer.add("1", codes_of(1, 0, 1))
    reader = CodesReader(tmp_path)
    assert reader.songs == ["0", "1", "2"]
    assert reader.levels == (0, 1, 2)
    assert reader.songs_with((0, 1, 2)) == ["1"]
    np.testing.assert_array_equal(reader.read("1", 0), codes_of(1, 0, 1)[0])
    np.testing.assert_array_equal(reader.read("1", 2), codes_of(1, 2)[2])
    with pytest.raises(UserError, match="no codes of level 0"):
        reader.read("2", 0)


def test_two_writers_with_names_of_their_own_share_a_folder(tmp_path: Path) -> None:
    writers = [CodesWriter(tmp_path, (2,), name=f"rank{rank}") for rank in range(2)]
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
writer = CodesWriter({folder!r}, (2,), shard_bytes=250)
for i in range(7):
    writer.add(str(i), {{2: np.full(50, i)}})
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
    with CodesWriter(tmp_path, (2,)) as writer:
        assert writer.songs_done == set("0123456")
        writer.add("7", {2: np.full(50, 7)})
    reader = CodesReader(tmp_path)
    assert [int(reader.read(song, 2)[0]) for song in reader.songs] == list(range(8))
    assert not list(tmp_path.glob(".codes*"))


def test_wrong_codes_are_refused(tmp_path: Path) -> None:
    writer = CodesWriter(tmp_path, (2,))
    for wrong in ({2: [70000]}, {2: [-1]}, {2: [[1]]}, {1: [1]}):
        with pytest.raises(ValueError):
            writer.add("a", wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no codes here"):
        CodesReader(tmp_path)


def test_a_reader_travels_to_another_process(tmp_path: Path) -> None:
    with CodesWriter(tmp_path, (2,)) as writer:
        writer.add("a", codes_of(0, 2))
    reader = CodesReader(tmp_path)
    reader.read("a", 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read("a", 2), codes_of(0, 2)[2])
