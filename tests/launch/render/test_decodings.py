"""Decodings of the spectral codec: each replaces the named part, the truth is that of the corpus, curves have their checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from launch.ablate.ablate import ablate
from launch.engines.checkpoint import save_checkpoint
from launch.render import decodings as D
from vqvae.spectral.config import LATENTS, TOKENS, SpectralConfig
from vqvae.spectral.model import SpectralCodec

SMALL = SpectralConfig(width=16, latent=8, books=2, bins=16, phase_frames=16, peak_rounds=2)
SEED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decodings")
    corpus = make_corpus(folder / "corpus", 6, seed=SEED, seconds=10.0, workers=0)
    prepare(corpus / "songs.jsonl", folder / "data", test_share=0.4)
    return folder / "data"


@pytest.fixture(scope="module")
def codec(data) -> SpectralCodec:
    torch.manual_seed(0)
    made = SpectralCodec(SMALL)
    made.initialise(D.held_out_songs(data, SMALL, 1, -1)[0].audio[None], torch.Generator())
    return made.eval()


@pytest.fixture(scope="module")
def song(data) -> D.HeldOutSong:
    return D.held_out_songs(data, SMALL, 1, SEED)[0]


@pytest.mark.parametrize("phases", D.PHASES)
def test_phasors_have_length_one(codec, song, phases):
    spectra = codec.spectra(song.audio[None])[0, :12]
    slopes = torch.randn(12, 2, 2, SMALL.frequencies, generator=torch.Generator().manual_seed(0))
    phasors = D.PHASES[phases](SMALL, D.Predicted(spectra.abs(), slopes, spectra))
    assert torch.allclose(phasors.abs(), torch.ones(12, 1, SMALL.frequencies), atol=1e-4)


def test_true_magnitudes_with_true_phases_are_the_original(codec, song):
    made = D.decode_as(codec, song, D.Decoding("", D.TRUE, phases="true"))
    assert torch.allclose(made.audio, song.audio, atol=1e-4)


def test_fewer_books_and_latents_are_other_magnitudes(codec, song):
    decodings = (D.Decoding(""), D.Decoding("", books=1), D.Decoding("", LATENTS))
    whole, one, latents = (D.decode_as(codec, song, each).magnitudes for each in decodings)
    assert not torch.equal(whole, one) and not torch.equal(whole, latents)


def test_learned_phases_are_those_that_the_codec_decodes_with(codec, song):
    tokens = codec.encode_long(song.audio[None], [TOKENS])[TOKENS]
    made, decoded = D.decode_as(codec, song, D.Decoding("")).audio, codec.decode_long(tokens, TOKENS)[0]
    first = SMALL.hop * 2  # later phases amplify what rounding differs
    assert torch.allclose(made[:, :first], decoded[:, :first], atol=1e-3)


def test_a_book_of_512_codes_has_194_bits_per_second():
    assert D.bit_rate(SpectralConfig(), 1) == pytest.approx(9 * 22050 / 1024)


def test_the_truth_is_that_of_the_seed_of_the_corpus_and_of_no_other(data, song):
    assert song.truth is not None and song.truth.strokes
    assert D.held_out_songs(data, SMALL, 1, -1)[0].truth is None
    with pytest.raises(UserError, match="--corpus_seed 4"):
        D.held_out_songs(data, SMALL, 1, SEED + 1)


def test_means_leave_out_songs_without_a_figure():
    songs = [
        {"convergence": 0.1, "vibrato": float("nan"), "rise_ms": 4.0},
        {"convergence": 0.1, "vibrato": 0.5, "rise_ms": 6.0},
    ]
    assert D.mean_figures(songs) == pytest.approx({"vibrato": 0.5, "rise_ms": 5.0, "convergence_db": -20.0})


def test_the_verb_writes_a_row_a_decoding_and_a_curve_over_checkpoints(codec, data, tmp_path, monkeypatch, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    ModelFolder.create(model, SMALL).save_codec(codec)
    for step in (5, 10):
        weights = [(f"weights/{name}", tensor) for name, tensor in codec.state_dict().items()]
        metadata = {"name": "spectral", "step": step, "minutes": step / 10, "identity": {}, "recipe": {}, "engine": {}}
        save_checkpoint(model / "training" / "spectral", metadata, weights, keep=2)
    monkeypatch.setattr(D, "DECODINGS", (D.DECODINGS[0], *D.DECODINGS[5:7]))
    ablate("codec", str(data), str(model), out=str(out), songs=1, corpus_seed=SEED, models=[str(model)])
    kept = json.loads((out / "decodings.json").read_text())
    assert [row["decoding"] for row in kept["rows"]] == ["original", *(d.name for d in D.DECODINGS)]
    assert kept["rows"][0]["mel"] == 0 and kept["rows"][0]["false"] == 0 and kept["rows"][1]["mel"] > 0
    curve = [(row["minutes"], row["books"]) for row in kept["curve"]]
    assert curve == [(minutes, books) for minutes in (0.5, None, None) for books in (1, 2)]
    assert (out / "random_phase.wav").is_file() and "bit/s" in capsys.readouterr().out


def test_a_model_without_a_spectral_codec_is_one_line(data, tmp_path):
    ModelFolder.create(tmp_path / "empty", replace(SMALL, books=1))
    with pytest.raises(UserError, match="no trained spectral codec"):
        ablate("codec", str(data), str(tmp_path / "empty"), out=str(tmp_path / "out"))
