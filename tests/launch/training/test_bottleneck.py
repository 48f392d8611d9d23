"""`jukebox train vqvae --bottleneck argmax`: recorded in the model folder, kept by what follows, one line where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.codes import open_codes
from jukebox.model.info import ModelInfo
from jukebox.runs.run import Run
from launch.cli.commands import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 4, seconds=2.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    return root / "data"


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    out = data.parent / "model"
    words = ["train", "vqvae", str(data), "--preset", "test", "--level", "2", "--steps", "6", "--threads", "1"]
    assert main([*words, "--bottleneck", "argmax", "--out", str(out)]) == 0
    return out


def test_the_bottleneck_is_recorded(model):
    config = json.loads((model / "config.json").read_text())
    assert config["codecs"][0]["config"]["bottleneck"] == "argmax"


def test_codes_are_encoded_and_a_prior_of_them_is_trained_and_sampled_as_ever(data, model, tmp_path):
    flags = ["--steps", "3", "--threads", "1", "--out", str(model)]
    assert main(["encode", str(data), str(model), "--threads", "1"]) == 0
    codes = open_codes(data, ModelInfo.read(model), ["vq.2"])
    read = codes.read(codes.songs_with(["vq.2"])[0], "vq.2", 0, 64)
    assert read.max() < 32 and len(np.unique(read)) > 1
    assert main(["train", "prior", str(data), "--level", "2", *flags]) == 0
    assert (
        main(["train", "vqvae", str(data), "--preset", "test", "--level", "1", *flags]) == 0
    )  # the flag is that of the folder
    assert ModelInfo.read(model).codecs[0].config.bottleneck == "argmax"
    assert main(["sample", str(model), "--seconds", "0.5", "--levels", "2", "--out", str(tmp_path / "run")]) == 0
    assert Run.open(tmp_path / "run").count(2) == Run.open(tmp_path / "run").total(2)


@pytest.mark.parametrize(
    ("preset", "bottleneck", "line"),
    [
        ("test", "softmax", "--bottleneck"),
        ("test", "codebook", "was begun with --bottleneck argmax, now it is codebook"),
        ("test_spectral", "argmax", "is for the codec vqvae"),
    ],
)
def test_another_bottleneck_is_one_line(preset, bottleneck, line, data, model, tmp_path, capsys):
    what, out = ("spectral", tmp_path / "other") if preset == "test_spectral" else ("vqvae", model)
    words = ["train", what, str(data), "--preset", preset, "--bottleneck", bottleneck, "--steps", "2", "--out", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert line in said and said.count("\n") == 0
