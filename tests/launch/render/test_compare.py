"""`jukebox compare`: the same tokens through each renderer, wav files and a table; and the counter of passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from jukebox.model.presets import find
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.bench.render import random_models
from launch.cli import main
from launch.render.compare import distances
from launch.render.passes import counted
from launch.render.renderers import TokenSource, renderers
from priors.diffusion.config import DiffusionParams
from priors.diffusion.network import DualPathNetwork


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """A model of random weights with three levels, tokens and latents."""
    return random_models(tmp_path_factory.mktemp("model"), ("test", "test_melody"), 0)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    at = np.arange(2 * 22050) / 22050
    soundfile.write(tmp_path / "song.wav", 0.3 * np.sin(2 * np.pi * 330 * at), 22050)
    return tmp_path / "song.wav"


def test_a_recording_is_rendered_by_all_that_the_model_can(model, song, tmp_path, capsys):
    words = ["compare", str(model.folder), str(song), "--out", str(tmp_path / "out"), "--steps", "3", "--threads", "1"]
    assert main(words) == 0
    rows = {row["renderer"]: row for row in json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]}
    noise = rows.pop("noise of the same spectrum")
    assert list(rows) == ["phases learned", "phases griffin_lim", "diffusion", "vq.0 after encoding", "latent after encoding"]
    assert noise["mel"] > 0 and all({"onsets", "peakiness", "chroma_change"} < set(row) for row in (noise, *rows.values()))
    lengths = {name: len(soundfile.read(tmp_path / "out" / row["file"])[0]) for name, row in rows.items()}
    assert len(set(lengths.values())) == 1 and all(row["mel"] > 0 and row["frechet"] >= 0 for row in rows.values())
    windows = 1 + -(-(lengths["diffusion"] // 64 - 64) // 32)
    assert rows["diffusion"]["passes"] == 3 * windows and rows["phases learned"]["passes"] == 0
    assert all(row["decoder_passes"] > 0 for row in rows.values()) and "phases griffin_lim" in capsys.readouterr().out


def test_the_tokens_of_a_run_are_compared_with_the_phase_decoder(model, tmp_path):
    run = tmp_path / "run"
    assert (
        main(["sample", str(model.folder), "--route", "spectral", "--seconds", "1", "--threads", "1", "--out", str(run)]) == 0
    )
    words = ["compare", str(model.folder), str(run), "--out", str(tmp_path / "out"), "--steps", "1", "--seconds", "0.6"]
    assert main([*words, "--threads", "1"]) == 0
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert rows[0]["mel"] == 0 and rows[2]["mel"] > 0
    assert len(soundfile.read(tmp_path / "out" / rows[0]["file"])[0]) == int(0.6 * 22050) // 256 * 256
    assert Run.open(run).total(0) > 0


def test_one_seed_renders_the_same_latents_and_another_does_not(model):
    tokens = np.random.default_rng(0).integers(32, size=(30, 2))
    made = [renderers(model, TokenSource(tokens, Song()), DiffusionParams(2), seed)["diffusion"]() for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2]) and made[0].shape == (1, 30 * 256)


def test_a_run_without_tokens_and_a_model_without_them_are_one_line(model, song, tmp_path, capsys):
    only = random_models(tmp_path / "levels", ("test",), 0)
    assert main(["compare", str(only.folder), str(song), "--out", str(tmp_path / "x")]) == 2
    assert "tokens" in capsys.readouterr().err
    assert main(["compare", str(model.folder), str(song), "--out", str(tmp_path / "x"), "--steps", "0"]) == 2
    run = tmp_path / "run"
    words = ["sample", str(model.folder), "--route", "jukebox", "--levels", "2", "--seconds", "0.2", "--threads", "1"]
    levels = [model.spec.names.index(name) for name in ("vq.2",)]
    words[words.index("--levels") + 1] = str(levels[0])
    assert main([*words, "--out", str(run)]) == 0
    assert main(["compare", str(model.folder), str(run), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].count("has no tokens of take 1") == 1
    shutil.rmtree(run)


def test_distances_of_a_sound_from_itself_are_0_and_a_short_one_has_no_frechet_distance():
    sound = torch.randn(1, 44100) * 0.1
    same, other = distances(sound, sound, 22050), distances(sound, 0.1 * torch.randn(1, 44100).cumsum(-1).sin(), 22050)
    assert same["mel"] == 0 and same["frechet"] == pytest.approx(0, abs=1e-3) and other["mel"] > 1 and other["frechet"] > 1
    assert distances(sound[:, :5000], sound[:, :5000], 22050)["frechet"] is None


def test_the_counter_counts_passes_while_it_is_open_alone():
    config = find("test_melody").priors["diffusion"]
    network = DualPathNetwork(config)  # type: ignore[arg-type]
    given = torch.zeros(1, 64, 4), torch.zeros(1, 64), torch.zeros(1, 16, 2, dtype=torch.long)
    with counted() as passes:
        network(*given)
        network(*given)
    network(*given)
    assert (passes.priors, passes.decoders) == (2, 0)
