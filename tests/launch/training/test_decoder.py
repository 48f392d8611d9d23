"""The adversarial second phase of the spectral decoder, from the command line: codes and priors stay valid, kills cost nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.report.curves import explain
from launch.cli import main
from launch.training.export import export
from launch.training.log import read_log
from launch.training.tasks.decoder import DecoderTask
from launch.training.tasks.task import TaskSetup
from launch.training.trainer import fit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of synthetic songs, beside it a model of the preset test_spectral with a hardly trained codec."""
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 6, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    assert main(["train", "spectral", str(root / "data"), *flags(root / "model"), "--steps", "6"]) == 0
    return root / "data"


def flags(model: Path) -> list[str]:
    return ["--preset", "test_spectral", "--out", str(model), "--threads", "1"]


def copy_of(data: Path, out: Path) -> Path:
    return shutil.copytree(data.parent / "model", out, ignore=shutil.ignore_patterns("training"))


def test_the_decoder_learns_against_a_discriminator_and_the_codes_stay_valid(data, tmp_path):
    model, before = copy_of(data, tmp_path / "model"), ModelFolder.from_pretrained(data.parent / "model")
    assert main(["train", "decoder", str(data), *flags(model), "--steps", "4", "--examples_every", "4"]) == 0
    after = ModelFolder.from_pretrained(model)
    assert [after.info.codes_hash(name) for name in ("tokens", "spectral")] == [
        before.info.codes_hash(name) for name in ("tokens", "spectral")
    ]
    old, new = (load_file(folder / "codec.safetensors") for folder in (data.parent / "model", model))
    assert old.keys() == new.keys(), "the discriminator is not part of the model"
    moved = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"decoder"}
    lines = read_log(model / "training" / "decoder" / "log.jsonl")
    assert {"loss", "adversary_loss", "matching_loss", "scales_loss", "discriminator_loss", "discriminator_true_right"} <= set(
        lines[0]
    )
    assert len(list((model / "training" / "decoder" / "examples").glob("*.wav"))) == 2
    assert not [name for name in lines[0] if not explain(name)[1]], "each name of the log is explained"


def test_a_checkpoint_of_two_phases_is_exported_as_the_codec_that_the_training_wrote(data, tmp_path):
    model = copy_of(data, tmp_path / "model")
    assert main(["train", "decoder", str(data), *flags(model), "--steps", "3", "--ema", "0.9"]) == 0
    whole = (model / "codec.safetensors").read_bytes()
    out = copy_of(data, tmp_path / "out")
    assert (out / "codec.safetensors").read_bytes() != whole
    export(str(model / "training" / "decoder"), out=str(out))
    assert (out / "codec.safetensors").read_bytes() == whole


def test_a_training_of_the_decoder_without_the_adversary_has_one_phase(data, tmp_path):
    from dataclasses import replace

    recipe = replace(find("test_spectral").more_recipes["decoder"]["tokens"], steps=2, phases={})
    task = DecoderTask(
        TaskSetup(ModelFolder.from_pretrained(copy_of(data, tmp_path / "model")), "tokens", data, recipe, 0, "cpu")
    )
    fit(task, recipe, tmp_path / "training")
    (line, _) = read_log(tmp_path / "training" / "log.jsonl")
    assert "scales_loss" in line and not any(name.startswith(("discriminator", "adversary")) for name in line)


def test_a_decoder_without_a_trained_codec_is_an_error_of_one_line(data, tmp_path, capsys):
    assert main(["train", "decoder", str(data), *flags(tmp_path / "none")]) == 2
    assert "holds no model; train its codec first" in capsys.readouterr().err and not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="the preset small has no decoder"):
        from launch.training.train import train

        train("decoder", str(data), preset="small", out=str(tmp_path / "none"))
