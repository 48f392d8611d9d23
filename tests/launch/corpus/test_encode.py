"""Codes of a corpus: exact lengths, equal to encoding each song by itself, made once, and valid as long as their encoder."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import launch.corpus.encode as verb
from data_prep.audio.audio import read, write_wav
from data_prep.codes import CodesReader, CodesWriter
from data_prep.errors import UserError
from data_prep.manifest import audio_path, load_manifest, prepare
from jukebox import Jukebox
from jukebox.model.codes import codes_folder, open_codes
from jukebox.model.presets import find
from launch.corpus.encode import encode, spread_songs
from vqvae.jukebox.vqvae import VQVAE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten short noises of odd lengths, rates and channels."""
    rng = np.random.default_rng(0)
    for i in range(10):
        rate, channels = (22050, 1) if i % 2 else (44100, 2)
        write_wav(tmp_path / "music" / f"{i}.wav", 0.3 * rng.standard_normal((channels, rate + 131 * i)), rate)
    prepare(tmp_path / "music", tmp_path / "data", test_share=0.4, workers=1)
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A codec of the test preset with random weights."""
    torch.manual_seed(0)
    config = find("test").codec
    Jukebox.create(tmp_path / "model", config).save_codec(VQVAE(config))
    return tmp_path / "model"


STREAMS = ("vq.2", "vq.1", "vq.0")


def codes_of(data: Path, model: Path, *streams: str) -> CodesReader:
    return open_codes(data, Jukebox.from_pretrained(model).info, streams or STREAMS)


@pytest.fixture
def encoded(monkeypatch) -> list[tuple[str, ...]]:
    """The streams of every song that is encoded, in order."""
    calls, whole = [], verb.encode_sound
    monkeypatch.setattr(verb, "encode_sound", lambda codec, x, streams: calls.append(streams) or whole(codec, x, streams))
    return calls


def change(model: Path, part: str) -> None:
    """Train a part of the codec a little, as `part` of its tensors' names."""
    opened = Jukebox.from_pretrained(model)
    codec = opened.codec()
    changed = [x.add_(0.1) for name, x in codec.state_dict().items() if part in name and x.is_floating_point()]
    assert changed
    opened.save_codec(codec)


def test_every_song_gets_the_codes_that_its_sound_has_by_itself(data, model, capsys):
    encode(str(data), str(model))
    assert "10 songs" in capsys.readouterr().out
    reader, codec, rows = codes_of(data, model), Jukebox.from_pretrained(model).codec(), load_manifest(data)
    assert len(reader.songs) == len(rows) == 10
    for row in rows:
        audio, _ = read(audio_path(data, row), sample_rate=22050, channels=1)
        alone = codec.encode(torch.from_numpy(audio)[None], STREAMS)
        for stream, hop in zip(STREAMS, (128, 32, 8)):
            assert reader.length(row.song, stream) == audio.shape[1] // hop
            assert np.array_equal(reader.read(row.song, stream), alone[stream][0].numpy())


def test_training_songs_are_encoded_transposed_too_and_only_once(data, model, encoded, capsys):
    encode(str(data), str(model), levels="2", semitones=(12.0, -12.0))
    rows, reader = load_manifest(data), codes_of(data, model, "vq.2")
    training = [row for row in rows if row.split == "train"]
    assert 0 < len(training) < len(rows) and len(reader.songs) == len(rows) + 2 * len(training) == len(encoded)
    for row in training:
        audio, _ = read(audio_path(data, row), sample_rate=11025, channels=1)  # an octave higher at 22,050 Hz
        alone = Jukebox.from_pretrained(model).codec().encode(torch.from_numpy(audio)[None], ["vq.2"])["vq.2"][0].numpy()
        assert np.array_equal(reader.read(f"{row.song}@+12", "vq.2"), alone)
        assert abs(reader.length(f"{row.song}@-12", "vq.2") - 4 * len(alone)) <= 4
    encode(str(data), str(model), levels="2", semitones=(12.0,))
    assert "all " in capsys.readouterr().out.splitlines()[-1] and len(encoded) == len(reader.songs)


def test_a_gpu_encodes_one_song_at_a_time_with_exact_arithmetic(data, model, monkeypatch):
    """The layers of each song take gigabytes there; the other threads read. The device is a stand-in."""
    seen = []

    def encoded_here(codec, audio, streams):
        seen.append(
            (
                threading.current_thread() is threading.main_thread(),
                torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
            )
        )
        found = codec.encode_long(torch.from_numpy(audio)[None], streams)
        return {name: codec.spec.stream(name).check(found[name][0].numpy(), "encoded") for name in streams}

    monkeypatch.setattr(verb, "encode_sound", encoded_here)
    encode(str(data), str(model), levels="2", threads=3)
    on_cpu = codes_of(data, model, "vq.2")
    before = {song: on_cpu.read(song, "vq.2").copy() for song in on_cpu.songs}
    assert {here for here, _ in seen} == {False}
    shutil.rmtree(data / "codes")
    monkeypatch.setattr(VQVAE, "device", torch.device("meta"))
    del seen[:]
    encode(str(data), str(model), levels="2", threads=3)
    assert seen == [(True, False)] * 10
    assert all(np.array_equal(codes_of(data, model, "vq.2").read(song, "vq.2"), codes) for song, codes in before.items())


def test_songs_and_streams_that_are_there_are_not_encoded_again(data, model, encoded, capsys):
    encode(str(data), str(model), levels="2")
    encode(str(data), str(model), levels="vq.1,0", songs=3)
    assert encoded == [("vq.2",)] * 10 + [("vq.1", "vq.0")] * 3
    song = codes_of(data, model).songs_with(["vq.0"])[0]
    first = codes_of(data, model).read(song, "vq.0").copy()
    encode(str(data), str(model), songs=5)
    assert encoded[13:] == [("vq.1", "vq.0")] * 2
    capsys.readouterr()
    encode(str(data), str(model), songs=5)
    assert len(encoded) == 15 and "all 5 songs have vq.2, vq.1, vq.0" in capsys.readouterr().out
    assert np.array_equal(codes_of(data, model).read(song, "vq.0"), first)


def test_a_split_alone_can_be_encoded(data, model):
    encode(str(data), str(model), levels="2", split="test")
    held_out = sorted(row.song for row in load_manifest(data) if row.split == "test")
    assert held_out and codes_of(data, model, "vq.2").songs == held_out


def test_a_run_that_dies_keeps_what_it_has_made(data, model, encoded, monkeypatch):
    whole = verb.encode_sound

    def dies(codec, audio, streams):
        if len(encoded) == 4:
            raise MemoryError
        return whole(codec, audio, streams)

    monkeypatch.setattr(verb, "encode_sound", dies)
    with pytest.raises(MemoryError):
        encode(str(data), str(model))
    monkeypatch.setattr(verb, "encode_sound", whole)
    encode(str(data), str(model))
    assert len(encoded) == 10 and len(codes_of(data, model).songs) == 10


def test_a_run_that_ends_between_two_streams_of_a_song_goes_on_with_the_second(data, model, encoded, monkeypatch):
    add, added = CodesWriter.add, []

    def dies(self, song, values):
        if len(added) == 5:
            raise MemoryError
        added.append(song)
        add(self, song, values)

    monkeypatch.setattr(CodesWriter, "add", dies)
    with pytest.raises(MemoryError):
        encode(str(data), str(model), levels="2,1", threads=1)
    monkeypatch.setattr(CodesWriter, "add", add)
    del encoded[:]
    encode(str(data), str(model), levels="2,1")
    assert (
        encoded == [("vq.1",)] + [("vq.2", "vq.1")] * 7
        and len(codes_of(data, model, *STREAMS[:2]).songs_with(STREAMS[:2])) == 10
    )


def test_another_encoder_writes_codes_of_its_own(data, model):
    encode(str(data), str(model), levels="2")
    before = codes_of(data, model, "vq.2")
    change(model, "levels.2.encoder")
    with pytest.raises(UserError, match="no codes of this codec for vq.2"):
        codes_of(data, model, "vq.2")
    encode(str(data), str(model), levels="2", songs=2)
    assert codes_of(data, model, "vq.2").folders != before.folders and len(codes_of(data, model, "vq.2").songs) == 2


def test_another_decoder_or_stream_leaves_the_codes_valid(data, model, encoded):
    encode(str(data), str(model))
    for part in ("decoder", "levels.0."):  # the codec file changes as a whole
        old = Jukebox.from_pretrained(model).info.old_codes_hash("vq.2")
        change(model, part)
        assert Jukebox.from_pretrained(model).info.old_codes_hash("vq.2") != old
    encode(str(data), str(model), levels="2,1")
    assert len(encoded) == 10 and len(codes_of(data, model, *STREAMS[:2]).songs_with(STREAMS[:2])) == 10
    with pytest.raises(UserError, match="no codes of this codec for vq.0"):
        codes_of(data, model)
    encode(str(data), str(model), songs=1)
    assert encoded[10:] == [("vq.0",)]


def test_codes_of_version_1_are_read_and_not_encoded_again(data, model, encoded):
    info, rows = Jukebox.from_pretrained(model).info, load_manifest(data)
    rng, old = np.random.default_rng(0), {}
    with CodesWriter(data / "codes" / info.old_codes_hash("vq.0"), ["level_2", "level_1"]) as writer:
        for row in spread_songs(rows, 5)[:4]:
            old[row.song] = {f"level_{level}": rng.integers(0, 32, 9).astype(np.uint16) for level in (2, 1)}
            writer.add(row.song, old[row.song])
    (writer.folder / "index.parquet").unlink()
    encode(str(data), str(model), levels="2")
    assert encoded == [("vq.2",)] * 6
    encode(str(data), str(model), songs=5)
    assert encoded[6:] == [("vq.0",)] * 4 + [("vq.1", "vq.0")]
    assert {path.name for path in writer.folder.glob("*.arrow")} == {"codes-00000.arrow"}
    reader = codes_of(data, model)
    assert len(reader.songs) == 10 and len(reader.songs_with(STREAMS)) == 5
    for song, codes in old.items():
        for level in (2, 1):
            assert np.array_equal(reader.read(song, f"vq.{level}"), codes[f"level_{level}"])
    assert len(reader.read(spread_songs(rows, 5)[4].song, "vq.2")) > 9


def test_mistakes_are_told_in_one_line(data, model, tmp_path):
    for arguments, flags, message in [
        ((str(data), str(tmp_path / "none")), {}, "expected a model folder"),
        ((str(data), str(model)), {"levels": "3"}, r"there is no 3 to choose; choose among 0 \(vq.0\), 1 \(vq.1\), 2 \(vq.2\)"),
        ((str(data), str(model)), {"split": "training"}, "no songs of the split training; expected train or test"),
        ((str(tmp_path / "none"), str(model)), {}, "none"),
    ]:
        with pytest.raises(UserError, match=message):
            encode(*arguments, **flags)


def test_two_processes_cannot_encode_into_one_folder(data, model):
    from filelock import FileLock

    target = codes_folder(data, Jukebox.from_pretrained(model).info, "vq.1")
    target.mkdir(parents=True)
    with FileLock(target / ".codes.lock"), pytest.raises(UserError, match="another process is encoding"):
        encode(str(data), str(model))
    encode(str(data), str(model), levels="2")


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_behind_the_songs_it_has_made(data, model, encoded):
    info = Jukebox.from_pretrained(model).info
    parts = [codes_folder(data, info, stream) for stream in ("vq.2", "vq.1")]
    program = (
        "import sys, time, launch.corpus.encode as verb; whole = verb.encode_sound\n"
        "verb.encode_sound = lambda *a: time.sleep(0.2) or whole(*a)\n"
        "verb.encode(*sys.argv[1:3], levels='2,1')"
    )
    command = [sys.executable, "-c", program, str(data), str(model)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    while sum(p.stat().st_size for f in parts for p in f.glob(".codes*.part")) < 3_000 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    encode(str(data), str(model), levels="2,1")
    assert 0 < len(encoded) < 10 and len(codes_of(data, model, "vq.1", "vq.2").songs_with(["vq.1", "vq.2"])) == 10


def test_some_songs_are_of_as_many_artists_as_there_are(data):
    row = load_manifest(data)[0]
    rows = [replace(row, song=name, path=name, artist=name[0] if name[0] != "c" else None, hash=f"{i * 7919 % 97:02d}")
            for i, name in enumerate(["a1", "a2", "a3", "a4", "b1", "c1"])]  # fmt: skip
    some = [[row.song for row in spread_songs(rows, count)] for count in range(7)]
    assert {name[0] for name in some[3]} == {"a", "b", "c"} and some[0] == some[6] == [row.song for row in rows]
    assert all(set(few) < set(more) for few, more in pairwise(some[1:]))
