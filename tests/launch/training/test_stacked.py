"""The second autoencoder of the spectral codec, from the command line: nothing of the first one changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from jukebox.report.curves import explain
from launch.cli import main
from launch.training.log import read_log


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of synthetic songs, and beside it a model with a hardly trained codec."""
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 4, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    assert main(["train", "spectral", *flags(root), "--steps", "3"]) == 0
    return root


def flags(root: Path) -> list[str]:
    return [str(root / "data"), "--preset", "test_musika", "--out", str(root / "model"), "--threads", "1"]


def test_the_second_autoencoder_is_a_training_of_its_own_that_leaves_the_first(root, capsys):
    before, model = load_file(root / "model" / "codec.safetensors"), ModelFolder.from_pretrained(root / "model")
    hashes = {name: model.info.codes_hash(name) for name in ("tokens", "spectral")}
    assert model.trained_streams() == ("spectral", "tokens") and model.info.codes_hash("spectral.2") == ""
    for _ in range(2):  # the second time it is done already
        assert main(["train", "stacked", *flags(root), "--steps", "4", "--examples_every", "4"]) == 0
    after = load_file(root / "model" / "codec.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"stacked"}
    assert {name: model.info.codes_hash(name) for name in hashes} == hashes and model.info.codes_hash("spectral.2")
    assert model.trained_streams() == ("spectral", "tokens", "spectral.2")
    lines = read_log(root / "model" / "training" / "stacked" / "log.jsonl")
    assert {"latent_loss", "discriminator_loss"} <= set(lines[0])
    assert not [name for name in lines[0] if not explain(name)[1]], "each name of the log is explained"
    assert len(list((root / "model" / "training" / "stacked" / "examples").glob("*.wav"))) == 2
    assert main(["encode", str(root / "data"), str(root / "model"), "--levels", "2"]) == 0
    assert "spectral.2" in capsys.readouterr().out
