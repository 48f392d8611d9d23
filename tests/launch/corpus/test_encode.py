"""Codes of a corpus: exact lengths, equal to encoding each song by itself, and made once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import launch.corpus.encode as verb
from data_prep.audio.audio import read, write_wav
from data_prep.codes import CodesReader
from data_prep.errors import UserError
from data_prep.manifest import audio_path, load_manifest, prepare
from jukebox.model.folder import Jukebox
from jukebox.model.presets import find
from launch.corpus.encode import encode
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


def codes_of(data: Path, model: Path) -> CodesReader:
    return CodesReader(data / "codes" / Jukebox.from_pretrained(model).codec_hash())


def test_every_song_gets_the_codes_that_its_sound_has_by_itself(data, model, capsys):
    encode(str(data), str(model))
    assert "10 songs" in capsys.readouterr().out
    reader, codec, rows = codes_of(data, model), Jukebox.from_pretrained(model).codec(), load_manifest(data)
    assert len(reader.songs) == len(rows) == 10
    for row in rows:
        audio, _ = read(audio_path(data, row), sample_rate=22050, channels=1)
        alone = codec.encode(torch.from_numpy(audio)[None], [0, 1, 2])
        for level, hop in enumerate((8, 32, 128)):
            assert reader.length(row.song, level) == audio.shape[1] // hop
            assert np.array_equal(reader.read(row.song, level), alone[level][0].numpy())


def test_songs_and_levels_that_are_there_are_not_encoded_again(data, model, monkeypatch, capsys):
    calls: list[tuple[int, ...]] = []
    whole = verb.encode_sound
    monkeypatch.setattr(verb, "encode_sound", lambda codec, x, levels: calls.append(levels) or whole(codec, x, levels))
    encode(str(data), str(model), levels="2")
    encode(str(data), str(model), levels="1,0", songs=3)
    assert calls == [(2,)] * 10 + [(1, 0)] * 3
    first = codes_of(data, model).read(load_manifest(data)[0].song, 0).copy()
    encode(str(data), str(model), songs=5)
    assert calls[13:] == [(1, 0)] * 2
    capsys.readouterr()
    encode(str(data), str(model), songs=5)
    assert len(calls) == 15 and "all 5 songs have codes" in capsys.readouterr().out
    assert np.array_equal(codes_of(data, model).read(load_manifest(data)[0].song, 0), first)


def test_a_split_alone_can_be_encoded(data, model):
    encode(str(data), str(model), levels="2", split="test")
    held_out = sorted(row.song for row in load_manifest(data) if row.split == "test")
    assert held_out and codes_of(data, model).songs == held_out


def test_a_run_that_dies_keeps_what_it_has_made(data, model, monkeypatch):
    whole, made = verb.encode_sound, []

    def dies(codec, audio, levels):
        if len(made) == 4:
            raise MemoryError
        made.append(levels)
        return whole(codec, audio, levels)

    monkeypatch.setattr(verb, "encode_sound", dies)
    with pytest.raises(MemoryError):
        encode(str(data), str(model))
    monkeypatch.setattr(verb, "encode_sound", lambda codec, x, levels: made.append(levels) or whole(codec, x, levels))
    encode(str(data), str(model))
    assert len(made) == 10 and len(codes_of(data, model).songs) == 10


def test_another_codec_writes_codes_of_its_own(data, model):
    encode(str(data), str(model), levels="2")
    before = codes_of(data, model)
    jukebox = Jukebox.from_pretrained(model)
    codec = jukebox.codec()
    next(codec.parameters()).data.add_(0.1)
    jukebox.save_codec(codec)
    encode(str(data), str(model), levels="2", songs=2)
    assert codes_of(data, model).folder != before.folder and len(codes_of(data, model).songs) == 2


def test_mistakes_are_told_in_one_line(data, model, tmp_path):
    for arguments, flags, message in [
        ((str(data), str(tmp_path / "none")), {}, "expected a model folder"),
        ((str(data), str(model)), {"levels": "3"}, "there is no level 3"),
        ((str(data), str(model)), {"split": "training"}, "no songs of the split training; expected train or test"),
        ((str(tmp_path / "none"), str(model)), {}, "none"),
    ]:
        with pytest.raises(UserError, match=message):
            encode(*arguments, **flags)


def test_two_processes_cannot_encode_into_one_folder(data, model):
    from filelock import FileLock

    target = data / "codes" / Jukebox.from_pretrained(model).codec_hash()
    target.mkdir(parents=True)
    with FileLock(target / ".codes.lock"), pytest.raises(UserError, match="another process is encoding"):
        encode(str(data), str(model))
    encode(str(data), str(model), levels="2")


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_behind_the_songs_it_has_made(data, model, tmp_path):
    target = data / "codes" / Jukebox.from_pretrained(model).codec_hash()
    program = (
        "import sys, time, launch.corpus.encode as verb; whole = verb.encode_sound\n"
        "verb.encode_sound = lambda *a: time.sleep(0.2) or whole(*a)\n"
        "verb.encode(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, str(data), str(model)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    while sum(path.stat().st_size for path in target.glob(".codes*.part")) < 12_000 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    calls, whole = [], verb.encode_sound
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "encode_sound", lambda *a: calls.append(1) or whole(*a))
        encode(str(data), str(model))
    assert 0 < len(calls) < 10 and len(codes_of(data, model).songs_with([0, 1, 2])) == 10
