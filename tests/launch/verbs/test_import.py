"""Published checkpoints become model folders, or one clear error that names the tensor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.errors import UserError
from jukebox.importers.vqvae_keys import published_vqvae_key
from jukebox.model.folder import ModelFolder
from jukebox.model.settings import VQVAES, vqvae_config
from launch.cli import main
from launch.verbs.import_ import import_
from tests.conformance.golden import Golden
from vqvae.jukebox.vqvae import VQVAE

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
GOLDEN = Golden(Path(__file__).parents[2] / "golden", "vqvae_tiny")


def checkpoint(path, zipped=True, **changes):
    """A file as the published code writes them, of the golden codec; `changes` replace its entries."""
    model = {f"module.{name}": tensor for name, tensor in GOLDEN.state.items()}
    content = {"model": model, "hps": GOLDEN.json["hps"], "opt": {"state": {}}, "step": 5, "extra": os.getcwd}
    torch.save({**content, **changes}, path, _use_new_zipfile_serialization=zipped)
    return str(path)


@FORMATS
def test_an_imported_codec_is_the_recorded_one(tmp_path, zipped, capsys):
    import_("vqvae", files=checkpoint(tmp_path / "vqvae.pth.tar", zipped), out=str(tmp_path / "model"))
    assert "after 5 steps" in capsys.readouterr().out
    model = ModelFolder.from_pretrained(tmp_path / "model")
    config = vqvae_config(GOLDEN.json["hps"])
    assert model.info.codecs[0].config == config and model.trained_streams() == config.spec.names
    state = load_file(tmp_path / "model" / "codec.safetensors")
    back = {published_vqvae_key(n, config.downs_t): t for n, t in state.items() if not n.endswith(SUMS)}
    assert back.keys() == GOLDEN.state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in GOLDEN.state.items())
    codes = model.codec().encode(GOLDEN.io["in.audio"].mT, config.spec.names)
    assert all(torch.equal(codes[f"vq.{i}"], GOLDEN.io[f"out.codes.level{i}"]) for i in range(config.levels))


SUMS = (".k_sum", ".k_elem", ".initialised")


@pytest.mark.parametrize("name", ["bottleneck.level_blocks.0.k", "decoders.1.out.bias"])
def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path, name):
    short = {key: tensor for key, tensor in GOLDEN.state.items() if key != name}
    with pytest.raises(UserError, match=f"has no {name}"):
        import_("vqvae", files=checkpoint(tmp_path / "a", model=short), out=str(tmp_path / "model"))
    wrong = {**GOLDEN.state, name: GOLDEN.state[name][:-1]}
    with pytest.raises(UserError, match=f"{name} has shape .*expected"):
        import_("vqvae", files=checkpoint(tmp_path / "a", model=wrong), out=str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("preset", ["vqvae", "small_vqvae"])
def test_a_preset_stands_in_for_settings_that_the_file_lacks(tmp_path, preset):
    config = vqvae_config(VQVAES[preset])
    state = VQVAE(config).state_dict()
    model = {published_vqvae_key(n, config.downs_t): t for n, t in state.items() if not n.endswith(SUMS)}
    assert len(model) == {"vqvae": 669, "small_vqvae": 486}[preset]
    file = checkpoint(tmp_path / "a", model=model, hps=None)
    import_("vqvae", files=file, out=str(tmp_path / "model"), preset=preset)
    assert ModelFolder.from_pretrained(tmp_path / "model").info.codecs[0].config == config
    other = {"vqvae": "small_vqvae", "small_vqvae": "vqvae"}[preset]
    with pytest.raises(UserError, match="name it with --preset"):
        import_("vqvae", files=file, out=str(tmp_path / "other"), preset=other)


def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys):
    file = checkpoint(tmp_path / "a")
    for words in (["--files", str(tmp_path / "none")], ["--files", file, "--preset", "large"]):
        assert main(["import", "vqvae", *words, "--out", str(tmp_path / "model")]) == 2
    assert main(["import", "vqvae", "--files", file, "--out", str(tmp_path / "model")]) == 0
    other = checkpoint(tmp_path / "b", hps={**GOLDEN.json["hps"], "sr": 8000})
    assert main(["import", "vqvae", "--files", other, "--out", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.count("\n") == 3
