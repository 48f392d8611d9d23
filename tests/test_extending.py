"""A codec and a prior of another package, registered by entry points, go the whole way without a change to the project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import write_wav
from data_prep.codes import CodesReader
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from launch.cli import main
from vqvae.registry import CODECS

TOYS = Path(__file__).parent / "toys"
ENTRY_POINTS = """\
[jukebox.codecs.config]
toy-codec = toy_codec:ToyCodecConfig
[jukebox.codecs.model]
toy-codec = toy_codec:ToyCodec
[jukebox.priors.config]
toy-prior = toy_prior:ToyPriorConfig
[jukebox.priors.model]
toy-prior = toy_prior:ToyPrior
[jukebox.tasks]
toy-codec = toy_codec:ToyCodecTask
toy-prior = launch.training.tasks:PriorTask
[jukebox.presets]
toy = toy_codec:PRESET
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy package, installed: its folder and its metadata are on the path."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy-0.1.dist-info").mkdir()
    (site / "toy-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (site / "toy-0.1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path[:0] = [str(site), str(TOYS)]
    yield
    for path in (str(site), str(TOYS)):
        sys.path.remove(path)
    for name in ("toy_codec", "toy_prior"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder and a model folder, made by the verbs of the command line alone."""
    root = tmp_path_factory.mktemp("toy")
    music, data, model = root / "music", root / "data", root / "model"
    music.mkdir()
    for i in range(8):
        t = np.arange(24_000) / 8000
        wave = 0.4 * np.sin(2 * np.pi * (220 + 40 * i) * t) + 0.01 * np.random.default_rng(i).standard_normal(len(t))
        write_wav(music / f"artist {i % 2} - song {i}.wav", wave[None].astype(np.float32), 8000)
    steps = [
        ["prepare", music, "--out", data, "--min_seconds", "1", "--test_share", "0.4"],
        ["train", "toy-codec", data, "--preset", "toy", "--out", model],
        ["encode", data, model],
        ["train", "toy-prior", data, "--preset", "toy", "--out", model],
    ]
    for words in steps:
        assert main(list(map(str, words))) == 0, words
    return data, model


def test_config_json_names_kinds_and_the_package_that_brings_them(trained):
    config = json.loads((trained[1] / "config.json").read_text())
    assert [(each["kind"], each["package"]) for each in config["codecs"] + config["priors"]] == [
        ("toy-codec", "toy"), ("toy-prior", "toy")
    ]  # fmt: skip
    assert "toy_codec" not in json.dumps(config) and str(TOYS) not in json.dumps(config)


def test_training_lowers_the_losses_of_both(trained):
    for part in ("toy-codec", "toy"):
        lines = [json.loads(line) for line in (trained[1] / "training" / part / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < 0.8 * lines[0]["loss"], part


def test_encoded_songs_hold_two_books_and_latents_in_their_own_dtypes(trained):
    data, model = trained
    info = ModelInfo.read(model)
    for stream, dtype, shape in (("toy.codes", np.uint8, (2,)), ("toy.latents", np.float32, (8,))):
        reader = CodesReader(data / "codes" / info.codes_hash(stream))
        song = reader.songs[0]
        frames = reader.read(song, stream)
        assert frames.dtype == dtype and frames.shape == (24_000 // info.spec.stream(stream).hop, *shape)


def test_encoding_in_pieces_equals_encoding_the_whole(trained):
    codec = ModelFolder.from_pretrained(trained[1]).codec()
    wave = torch.randn(1, 1, 3000)
    whole, long = codec.encode(wave, codec.spec.names), codec.encode_long(wave, codec.spec.names)
    assert all(torch.equal(whole[name], long[name]) for name in whole)
    assert codec.decode_long(long["toy.latents"], "toy.latents").shape == (1, 1, 3000 // 128 * 128)


def test_a_plan_counts_the_toy_prior(trained, capsys):
    assert main(["plan", "sample", str(trained[1]), "--seconds", "3", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "predicted:" in printed and "level 1" in printed


def test_evaluate_measures_the_toy_prior_beside_a_control(trained, tmp_path):
    data, model = trained
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(model), str(data), "--out", str(out), "--windows", "8", "--songs", "3"]) == 0
    figures = json.loads(out.read_text())
    assert "toy" in figures["priors"] and set(figures["codec"]) == {"0", "1"}


def test_without_the_package_the_error_names_it(trained, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site" not in Path(path).name or "site-packages" in path])
    with pytest.raises(ValueError, match="toy-codec.*install the package toy"):
        CODECS.load("toy-codec", "toy")
