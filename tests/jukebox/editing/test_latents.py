"""Morph and stretch: latents mixed and repeated, exact lengths, decoding that is killed and goes on, and models that cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from jukebox.editing import latents
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder, build_codec
from jukebox.model.presets import find
from jukebox.params import MachineOptions
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import sampler, walk, window_checkpoint
from jukebox.sampling.window_checkpoint import WindowCheckpoint
from launch.cli.commands import main
from priors.wavenet.config import WaveNetConfig
from tests.jukebox.editing.nsynth import make_nsynth
from tests.jukebox.sampling.kills import Killed, assert_same

SETTINGS = RunSettings(machine=MachineOptions(threads=1, device="cpu"))
RATE = 22050


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return make_nsynth(tmp_path_factory.mktemp("nsynth") / "model")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings, 1,700 and 2,000 samples long."""
    folder = tmp_path_factory.mktemp("songs")
    for name, n, hz in (("a", 1700, 220.0), ("b", 2000, 330.0)):
        write_wav(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hz * np.arange(n) / RATE)[None].astype(np.float32), RATE)
    return [folder / "a.wav", folder / "b.wav"]


def test_a_morph_mixes_the_latents_of_both_and_decodes_each_mixture_to_their_common_length(model, songs, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["morph", str(model.folder), *map(str, songs), "--alpha", "0,0.25,1", "--threads", "1", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "the first 0.08 s of both are mixed" in printed and "alpha_0.25.wav" in printed
    z = {alpha: Codes.load(out / f"alpha_{alpha}.npz").streams["nsynth"] for alpha in ("0", "0.25", "1")}
    assert z["0"].shape == (4, 16) and np.allclose(z["0.25"], 0.75 * z["0"] + 0.25 * z["1"], atol=1e-6)
    whole = [latents.encoded(model, model.spec.stream("nsynth"), path, "cpu")[0] for path in songs]
    assert np.array_equal(z["0"], whole[0]) and np.array_equal(z["1"], whole[1][:4])
    audio = {alpha: read(out / f"alpha_{alpha}.wav") for alpha in z}
    assert {(wave.shape, rate) for wave, rate in audio.values()} == {((1, 1700), RATE)}
    assert not np.array_equal(audio["0"][0], audio["1"][0])
    assert main(words) == 0 and np.array_equal(read(out / "alpha_1.wav")[0], audio["1"][0])


@pytest.mark.parametrize(("factor", "samples"), [(2.0, 3400), (0.5, 850), (1.3, 2210)])
def test_a_stretch_is_exactly_so_many_times_as_long_and_repeats_latents(factor, samples, model, songs, tmp_path):
    out = tmp_path / "longer.wav"
    assert latents.stretch(model, songs[0], factor, out, SETTINGS) == [out]
    assert read(out)[0].shape == (1, samples)
    z, own = (
        Codes.load(out.with_suffix(".npz")).streams["nsynth"],
        latents.encoded(model, model.spec.stream("nsynth"), songs[0], "cpu")[0],
    )
    assert len(z) == -(-samples // 512) and np.array_equal(z, own[(np.arange(len(z)) / factor).astype(int)])


def test_decoding_that_is_killed_goes_on_to_the_samples_of_an_uninterrupted_one(model, songs, tmp_path, monkeypatch):
    for name, value in ((WaveNetConfig, 400), (sampler, 0.0), (window_checkpoint, 0.0)):
        monkeypatch.setattr(name, "block" if name is WaveNetConfig else "EVERY", value)
    monkeypatch.setattr(window_checkpoint, "RATE", torch.inf)
    monkeypatch.setattr(walk, "write_page", lambda folder: None)
    whole, killed = tmp_path / "whole.wav", tmp_path / "killed.wav"
    latents.stretch(model, songs[0], 2.0, whole, SETTINGS)
    keep = WindowCheckpoint.save

    def kill(self, frames):
        keep(self, frames)
        raise Killed

    monkeypatch.setattr(WindowCheckpoint, "save", kill)
    for kills in range(1, 1000):  # noqa: B007
        try:
            latents.stretch(model, songs[0], 2.0, killed, SETTINGS)
            break
        except Killed:
            assert not killed.exists()
    assert kills >= 8 and killed.read_bytes() == whole.read_bytes()
    assert_same(Run.open(tmp_path / "killed.run"), Run.open(tmp_path / "whole.run"))


def test_latents_that_a_codec_decodes_itself_are_decoded_by_it(songs, tmp_path):
    preset = find("test_spectral")
    torch.manual_seed(0)
    model, codec = ModelFolder.create(tmp_path / "model", preset.codec), build_codec(preset.codec)
    codec.initialise(0.1 * torch.randn(4, 1, 1 << 14), torch.Generator())
    model.save_codec(codec)
    stream, route = latents.latent_stream(model.info)
    assert (stream.name, route) == ("spectral", "")
    (made,) = latents.stretch(model, songs[0], 2.0, tmp_path / "x.wav", SETTINGS)
    assert read(made)[0].shape == (1, 3400) and not (tmp_path / "x.run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["morph", "{model}", "{a}", "{b}", "--alpha", "0,1.5", "--out", "{out}"], "expected numbers from 0"),
        (["stretch", "{model}", "{a}", "--factor", "0", "--out", "{out}.wav"], "factor 0; expected a number above 0"),
        (["stretch", "{model}", "{a}", "--out", "{out}.txt"], "cannot be written; expected a name that ends in"),
        (["stretch", "{codes}", "{a}", "--out", "{out}.wav"], "has no trained stream of latents that is decoded"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, line, model, songs, tmp_path, capsys):
    ModelFolder.create(tmp_path / "codes", find("test").codec)
    places = {"model": model.folder, "codes": tmp_path / "codes", "a": songs[0], "b": songs[1], "out": tmp_path / "out"}
    assert main([word.format(**places) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and "\n" not in said
