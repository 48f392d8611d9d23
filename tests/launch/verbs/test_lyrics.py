"""Pieces learned from a data folder are what a model's priors read; lyrics are added to a trained prior at the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.align import TimedText
from data_prep.manifest import load_manifest
from jukebox.model.folder import ModelFolder
from jukebox.song import PreparedSong, Song, song_of, window_conditions
from launch.cli import main
from launch.corpus.encode import encode
from launch.training.train import train
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.vocabulary import Characters, SentencePieceVocabulary


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_prep.manifest import prepare
    from data_prep.synthetic.songs import make_corpus

    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 8, seed=0, seconds=8.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.2, workers=1)
    return root / "data"


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    """Pieces first, then a codec (hardly trained) and its codes."""
    folder = data.parent / "model"
    assert main(["lyrics", "train", str(data), "--out", str(folder), "--vocabulary", "320"]) == 0
    train("vqvae", str(data), preset="test", steps=2, out=str(folder))
    encode(str(data), str(folder))
    return folder


def test_a_model_reads_the_pieces_and_word_times_follow_them(data, model):
    vocabulary = ModelFolder.from_pretrained(model).vocabulary
    assert (
        isinstance(vocabulary, SentencePieceVocabulary)
        and json.loads((model / "lyrics.json").read_text())["kind"] == "sentencepiece"
    )
    row = next(row for row in load_manifest(data) if row.lyrics)
    assert vocabulary.decode(vocabulary.encode(row.lyrics).ids) == row.lyrics
    jukebox = ModelFolder.from_pretrained(model)
    song = PreparedSong.of(song_of(row), jukebox.labels, vocabulary, jukebox.sample_rate)
    assert len(song.ids) == len(song.seconds) < len(Characters().encode(row.lyrics).ids)
    known = song.seconds[~np.isnan(song.seconds)]
    assert len(known) > 0.5 * len(song.seconds) and (np.diff(known) >= 0).all()
    times = (TimedText("sing", 1.0, 2.0), TimedText("moon", 5.0, 6.0))
    timed = PreparedSong.of(Song(lyrics="sing moon", word_times=times), jukebox.labels, vocabulary, jukebox.sample_rate)
    assert 1.0 <= np.nanmin(timed.seconds) <= 2.0 and 5.0 <= np.nanmax(timed.seconds) <= 6.0


def test_a_prior_is_built_for_the_pieces_and_they_stay_once_it_is_trained(data, model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    train("prior", str(data), preset="test", level=2, steps=2, out=str(folder))
    jukebox = ModelFolder.from_pretrained(folder)
    lyrics = jukebox.info.priors["prior_2"].config.lyrics
    assert lyrics is not None and lyrics.vocabulary == jukebox.vocabulary.size
    assert main(["lyrics", "train", str(data), "--out", str(folder)]) == 2
    assert "has a vocabulary already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mute(model: Path) -> Path:
    """The same model with a prior without lyrics."""
    from jukebox.model.presets import find

    folder = model.parent / "mute"
    shutil.copytree(model, folder)
    jukebox = ModelFolder.from_pretrained(folder)
    names, priors = (len(jukebox.labels.artists), len(jukebox.labels.genres)), find("test").priors
    preset = priors["prior_2"].for_corpus(*names)
    torch.manual_seed(1)
    plain = replace(preset, lyrics=None, trunk=replace(preset.trunk, depth=2, order=("dense",), time_bias=False))
    jukebox.save_prior("prior_2", AutoregressivePrior(plain))
    jukebox.save_prior("prior_1", AutoregressivePrior(priors["prior_1"].for_corpus(*names)))
    return folder


def adding(data: Path, mute: Path, new: Path, level: int = 2) -> list[str]:
    """The command that adds lyrics."""
    where = ["--level", str(level), "--out", str(new), "--from_model", str(mute), "--tune", "lyrics"]
    return ["train", "prior", str(data), "--preset", "test", *where]


def test_lyrics_added_at_the_command_line_leave_the_first_output_bit_equal(data, model, mute, tmp_path):
    """A step of 1e-30 is lost in the rounding of every weight, so what is written is what the first step computed with."""
    old = ModelFolder.from_pretrained(mute).prior("prior_2")
    outputs = {}
    for lr in ("1e-30", "1e-2"):
        new = tmp_path / lr
        assert main([*adding(data, mute, new), "--steps", "2", "--lr", lr]) == 0
        jukebox = ModelFolder.from_pretrained(new)
        prior = jukebox.prior("prior_2")
        assert prior.config.trunk.order == ("dense", "dense", "cross") and prior.config.trunk.time_bias
        song = next(song_of(row) for row in load_manifest(data) if row.lyrics)
        heard = PreparedSong.of(song, jukebox.labels, jukebox.vocabulary, jukebox.sample_rate)
        cond = window_conditions(heard, prior.config, 400)
        assert cond.lyrics is not None and (cond.lyrics.ids > 0).any()
        codes = torch.randint(0, 32, (1, 32), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before, outputs[lr] = old(codes, cond.without("lyrics")), prior(codes, cond)
    assert torch.equal(outputs["1e-30"], before)
    assert not torch.equal(outputs["1e-2"], before)  # the control: what has learned is seen


def test_lyrics_are_added_once_and_where_the_preset_has_them(data, model, mute, tmp_path, capsys):
    new, newer = tmp_path / "new", tmp_path / "newer"
    assert main([*adding(data, mute, new), "--steps", "1"]) == 0
    assert main([*adding(data, new, newer), "--steps", "1"]) == 2
    assert main([*adding(data, mute, new, level=1), "--steps", "1"]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jukebox train:")]
    assert len(err) == 2 and "conditioned on lyrics already" in err[0] and "no lyrics for prior_1" in err[1]


def test_a_folder_without_lyrics_is_one_line(data, tmp_path, capsys):
    from data_prep.manifest import prepare

    for path in (data.parent / "corpus").glob("*.wav"):
        (tmp_path / "music").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "music")
    prepare(tmp_path / "music", tmp_path / "data", workers=1)
    assert main(["lyrics", "train", str(tmp_path / "data"), "--out", str(tmp_path / "model")]) == 2
    assert "has lyrics" in capsys.readouterr().err
