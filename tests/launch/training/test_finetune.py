"""Fine-tuning at the command line: what is learned of a new artist, what old ones keep, and what lies on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.codes import CodesWriter
from data_prep.manifest import load_manifest, prepare
from data_prep.synthetic.band import ARTISTS, NEWCOMER
from data_prep.synthetic.songs import make_corpus
from jukebox import Jukebox
from jukebox.evaluation.figures import window_bits
from jukebox.model.codes import codes_folder, open_codes
from jukebox.song import prepare_all, song_of, window_conditions
from launch.cli import main
from launch.training.log import read_log
from launch.training.tasks.finetune import TunedPrior
from launch.training.train import train
from launch.verbs.sample import sample
from priors.conditioning.conditions import stack

ALPHABETS = {artist.name: 8 * i + np.arange(8) for i, artist in enumerate(ARTISTS)}  # an artist draws from eight codes
ALPHABETS[NEWCOMER.name] = np.r_[0:4, 8:12]  # of two of them: no old artist will do


def write_data(root: Path, model: Jukebox, artist: str | None = None) -> Path:
    """A data folder of synthetic songs of 3 s, and codes of level 2 as its artists draw them."""
    corpus = make_corpus(root / "corpus", 12, seed=0, seconds=3.0, artist=artist, workers=1)
    prepare(corpus / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    rng = np.random.default_rng(0)
    with CodesWriter(codes_folder(root / "data", model.info, "vq.2"), ["vq.2"]) as writer:
        for row in load_manifest(root / "data"):
            writer.add(row.song, {"vq.2": rng.choice(ALPHABETS[row.artist or ""], 516).astype(np.uint16)})
    return root / "data"


@pytest.fixture(scope="module")
def songs(tiny_model: Jukebox, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model that knows four artists, their data folder, and that of a fifth."""
    root = tmp_path_factory.mktemp("finetune")
    model = Jukebox.create(root / "model", tiny_model.info.codecs[0].config)
    model.save_codec(tiny_model.codec())
    old = write_data(root / "old", model)
    new = write_data(root / "new", model, NEWCOMER.name)
    train("prior", str(old), preset="test", level=2, steps=150, lr=1e-2, out=str(root / "model"))
    model.save_prior("prior_1", tiny_model.prior("prior_1"))  # a level that will not be tuned, with labels of its own
    model.save_labels(tiny_model.labels, "prior_1")
    return root / "model", old, new


def bits(folder: Path, data: Path, artist: str | None = None) -> float:
    """Bits per code of the first window of every held-out song, as by `artist` where one is given."""
    model = Jukebox.from_pretrained(folder)
    prior, codes = model.prior("prior_2"), open_codes(data, model.info, ["vq.2"])
    rows = [row for row in load_manifest(data) if row.split == "test"]
    said = [song_of(row if artist is None else replace(row, artist=artist)) for row in rows]
    ready = prepare_all(said, model.labels_of("prior_2"), model.vocabulary, model.sample_rate)
    windows = torch.from_numpy(np.stack([codes.read(row.song, "vq.2", 0, 32) for row in rows]).astype(np.int64))
    return float(window_bits(prior, windows, [window_conditions(song, prior.config, 0) for song in ready]).mean())


def tune(songs: tuple[Path, Path, Path], out: Path, *flags: str) -> Path:
    model, _, new = songs
    words = ["train", "prior", str(new), "--preset", "test", "--level", "2", "--from_model", str(model), "--out", str(out)]
    assert main([*words, *flags, *(() if "--steps" in flags else ("--steps", "40"))]) == 0
    return out


def test_adapters_of_a_prior_of_frames_learn_a_new_artist(spectral_model, tmp_path, capsys):
    """`train tokens --tune lora`, and that the merged prior is a plain one that samples."""
    model = Jukebox.create(tmp_path / "model", spectral_model.info.codecs[0].config)
    model.save_codec(spectral_model.codec())
    old, new = (write_frames(tmp_path / name, model, artist) for name, artist in (("old", None), ("new", NEWCOMER.name)))
    train("tokens", str(old), preset="test_spectral", steps=120, lr=1e-2, out=str(model.folder))
    words = ["train", "tokens", str(new), "--preset", "test_spectral", "--from_model", str(model.folder), "--tune"]
    flags = ["--lr", "1e-2", "--batch", "16", "--steps", "80"]
    assert main([*words, "lora", "--out", str(tmp_path / "tuned"), *flags]) == 0
    tuned, before = Jukebox.from_pretrained(tmp_path / "tuned"), Jukebox.from_pretrained(model.folder)
    assert frame_bits(tuned, new) < frame_bits(before, new) - 0.5
    assert set(tuned.prior("tokens").state_dict()) == set(before.prior("tokens").state_dict())
    sample(str(tuned.folder), out=str(tmp_path / "run"), seconds=0.5, artist=NEWCOMER.name)
    assert main([*words, "lyrics", "--out", str(tmp_path / "x")]) == 2
    assert "no lyrics for tokens by cross attention" in capsys.readouterr().err


def write_frames(root: Path, model: Jukebox, artist: str | None = None) -> Path:
    """A data folder of synthetic songs of 3 s, and frames of two codes as their artists draw them."""
    corpus = make_corpus(root / "corpus", 8, seed=0, seconds=3.0, artist=artist, workers=1)
    prepare(corpus / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    rng = np.random.default_rng(0)
    with CodesWriter(codes_folder(root / "data", model.info, "tokens"), ["tokens"]) as writer:
        for row in load_manifest(root / "data"):
            writer.add(row.song, {"tokens": rng.choice(ALPHABETS[row.artist or ""], (258, 2)).astype(np.uint16)})
    return root / "data"


def frame_bits(model: Jukebox, data: Path) -> float:
    """Bits per frame of the first window of every held-out song."""
    prior, codes = model.prior("tokens"), open_codes(data, model.info, ["tokens"])
    rows = [row for row in load_manifest(data) if row.split == "test"]
    ready = prepare_all([song_of(row) for row in rows], model.labels, model.vocabulary, model.sample_rate)
    windows = torch.from_numpy(np.stack([codes.read(row.song, "tokens", 0, 32) for row in rows]).astype(np.int64))
    cond = stack([window_conditions(song, prior.config, 0) for song in ready])
    bits = prior.nll({"tokens": windows}, cond)
    assert bits is not None
    return float(bits["tokens"].mean())


def test_new_names_alone_learn_and_old_artists_keep_every_bit(songs, tmp_path):
    model, old, new = songs
    tuned = tune(songs, tmp_path / "tuned", "--tune", "labels", "--lr", "0.05", "--steps", "120")
    before, after = bits(model, new), bits(tuned, new)
    assert after < before - 0.05 and bits(tuned, new, artist="Night Ferry") > after + 0.05
    assert bits(tuned, old) == bits(model, old)


def test_adapters_learn_a_new_artist_and_rehearsed_old_ones_stay_within_two_percent(songs, tmp_path):
    model, old, new = songs
    flags = ("--tune", "lora", "--lr", "1e-2", "--batch", "24", "--steps", "120")
    tuned = tune(songs, tmp_path / "tuned", *flags, "--rehearse", str(old))
    forgotten = tune(songs, tmp_path / "forgotten", *flags)  # the control: nothing is rehearsed
    assert bits(tuned, new) < bits(model, new) - 0.5
    assert bits(tuned, old) < 1.02 * bits(model, old) < bits(forgotten, old)


def test_the_new_folder_plays_with_one_numbering_and_levels_that_were_not_tuned_keep_their_labels(songs, tmp_path):
    model, _, _ = songs
    before, tuned = (Jukebox.from_pretrained(model), Jukebox.from_pretrained(tune(songs, tmp_path / "tuned", "--tune", "all")))
    assert tuned.labels.artists == (*before.labels.artists, NEWCOMER.name) and tuned.labels.genres == before.labels.genres
    assert tuned.labels_of("prior_2") == tuned.labels
    assert tuned.labels_of("prior_1") == before.labels_of("prior_1")
    labels = tuned.info.priors["prior_2"].config.labels
    assert labels is not None and labels.artists == len(tuned.labels.artists)
    assert (
        tuned.info.codes_hash("vq.2") == before.info.codes_hash("vq.2")
        and tuned.hashes()["prior_1.safetensors"] == before.hashes()["prior_1.safetensors"]
    )
    sample(str(tuned.folder), out=str(tmp_path / "run"), seconds=0.3, artist=NEWCOMER.name, levels=(2, 1))
    assert (tmp_path / "run" / "index.html").is_file()


@pytest.mark.parametrize("way", ["lora", "labels"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(songs, tmp_path, monkeypatch, way):
    whole = tune(songs, tmp_path / "whole", "--tune", way)
    loss = TunedPrior.loss

    def dies(self, batch, step):
        if step == 27:
            raise ZeroDivisionError
        return loss(self, batch, step)

    monkeypatch.setattr(TunedPrior, "loss", dies)
    with pytest.raises(ZeroDivisionError):
        tune(songs, tmp_path / "again", "--tune", way)
    monkeypatch.undo()
    again = tune(songs, tmp_path / "again", "--tune", way)
    assert len(read_log(again / "training" / "prior_2" / "log.jsonl")) == 40
    names = ("prior_2.safetensors", "labels.json", "labels_2.json", "config.json")
    assert [(whole / name).read_bytes() for name in names] == [(again / name).read_bytes() for name in names]


def test_mistakes_are_one_line(songs, tmp_path, capsys):
    model, old, new = (str(path) for path in songs)
    for words, message in [
        (["prior", new, "--from_model", model, "--out", model], "is the model to begin with"),
        (["prior", old, "--from_model", model, "--out", str(tmp_path / "a"), "--tune", "labels"], "names no artist or genre"),
        (["prior", new, "--from_model", model, "--out", str(tmp_path / "b"), "--tune", "lora", "--rank", "0"], "--rank got 0"),
        (["prior", new, "--from_model", model, "--out", str(tmp_path / "c"), "--batch", "1", "--rehearse", old], "has none"),
        (["prior", str(tmp_path / "no"), "--from_model", model, "--out", str(tmp_path / "d")], "there is no data folder"),
        (["prior", new, "--tune", "lora", "--out", model], "--from_model"),
        (["vqvae", new, "--from_model", model, "--out", str(tmp_path / "e")], "--from_model is for priors"),
    ]:
        assert main(["train", *words, "--preset", "test", "--level", "2"]) == 2
        err = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in err, err
