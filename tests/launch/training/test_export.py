"""jukebox export: what a training has in its checkpoints becomes part of a model, as the training's own end would write it."""

from __future__ import annotations

import shutil

import pytest

from data_prep.errors import UserError
from launch.corpus.encode import encode
from launch.training.checkpoint import written
from launch.training.export import export
from launch.training.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model whose codec, prior and masked prior were just trained, and their trainings."""
    from data_prep.manifest import prepare
    from data_prep.synthetic.songs import make_corpus

    root = tmp_path_factory.mktemp("export")
    make_corpus(root / "corpus", 8, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", workers=1)
    params = {"preset": "test", "steps": 12, "ema": 0.9, "threads": 1, "out": str(root / "model")}
    train("vqvae", str(root / "data"), **params)
    encode(str(root / "data"), str(root / "model"))
    train("prior", str(root / "data"), level=2, keep=1, **params)
    train("masked", str(root / "data"), **params)
    return root


def test_the_last_checkpoint_is_the_model_that_training_wrote_and_an_earlier_one_is_not(trained, tmp_path, capsys):
    parts = {"vqvae_1": "codec.safetensors", "prior_2": "prior_2.safetensors", "masked": "prior_masked.safetensors"}
    for name, file in parts.items():
        training, whole = trained / "model" / "training" / name, (trained / "model" / file).read_bytes()
        out = tmp_path / name
        shutil.copytree(trained / "model", out, ignore=shutil.ignore_patterns("training"))
        if name != "vqvae_1":  # of the codec one level of three is written, and codes of another codec mean nothing
            (out / file).unlink()
        export(str(training), out=str(out))
        assert (out / file).read_bytes() == whole, name
        assert f"{name}: the weights of step 12 are in {out}" in capsys.readouterr().out
    training, early = trained / "model" / "training" / "masked", tmp_path / "early"
    export(str(training), out=str(early), step=10)
    assert (early / "config.json").is_file() and not (early / "training").exists()
    assert (early / "prior_masked.safetensors").read_bytes() != (
        trained / "model" / "prior_masked.safetensors"
    ).read_bytes()


def test_what_cannot_be_exported_is_told_in_one_line(trained, tmp_path):
    training = trained / "model" / "training"
    assert len(written(training / "prior_2")) == 1 and len(written(training / "masked")) == 2, "--keep"
    with pytest.raises(UserError, match="has no checkpoint of step 7; there are: 12, 10"):
        export(str(training / "masked"), step=7)
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        export(str(tmp_path))
    other = tmp_path / "other"
    train("vqvae", str(trained / "data"), preset="test", steps=2, seed=1, threads=1, out=str(other))
    with pytest.raises(UserError, match="codes of another codec"):
        export(str(training / "prior_2"), out=str(other))
    shutil.copytree(training / "prior_2", tmp_path / "broken" / "training" / "prior_2")
    next((tmp_path / "broken" / "training" / "prior_2").glob("step_*/manifest.json")).unlink()
    with pytest.raises(UserError, match="holds no whole checkpoint"):
        export(str(tmp_path / "broken" / "training" / "prior_2"), out=str(other))
