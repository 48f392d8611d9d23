"""The model folder: read level by level, written by several processes, and its mistakes named."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from vqvae.jukebox.vqvae import VQVAE


@pytest.fixture
def copy(tiny_model, tmp_path) -> ModelFolder:
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    return ModelFolder.from_pretrained(tmp_path / "model")


def test_a_level_is_read_alone(copy):
    for name in ("prior_0.safetensors", "prior_1.safetensors"):
        (copy.folder / name).unlink()
    assert copy.prior("prior_2").spec.writes == ("vq.2",)
    assert {name.split(".")[1] for name in copy.codec(["vq.1"]).state_dict()} == {"1"}
    with pytest.raises(UserError, match="no prior of level 1"):
        copy.prior("prior_1")


def test_what_was_saved_is_what_is_read(copy):
    prior, codec = copy.prior("prior_1"), copy.codec()
    copy.save_prior("prior_1", prior)
    copy.save_codec(codec)
    again = ModelFolder.from_pretrained(copy.folder)
    for ours, theirs in ((prior, again.prior("prior_1")), (codec, again.codec())):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert again.info == copy.info and not [p for p in copy.folder.iterdir() if p.suffix in (".tmp", ".part")]


def test_levels_of_the_codec_saved_at_the_same_time_are_all_kept(tmp_path):
    config = find("test").codec
    model = ModelFolder.create(tmp_path / "m", config)
    codecs = {stream: VQVAE(config, (stream,)) for stream in config.spec.names}
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(model.save_codec, codecs.values()))
    assert model.trained_streams() == ("vq.0", "vq.1", "vq.2")
    for stream, codec in codecs.items():
        saved = model.codec([stream]).state_dict()
        assert all(torch.equal(saved[name], value) for name, value in codec.state_dict().items())


def test_mistakes_are_one_clear_sentence(copy, tmp_path):
    with pytest.raises(UserError, match=r"no config\.json; expected a model folder"):
        ModelFolder.from_pretrained(tmp_path)
    empty = ModelFolder.create(tmp_path / "empty", find("test").codec)
    with pytest.raises(UserError, match="train vqvae"):
        empty.codec()
    with pytest.raises(UserError, match="another configuration"):
        ModelFolder.create(copy.folder, find("demo").codec)
    (copy.folder / "config.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="not a model configuration"):
        ModelFolder.from_pretrained(copy.folder)


def test_the_card_names_rate_priors_and_conditions(tiny_model: ModelFolder):
    card = Path(tiny_model.folder / "card.md").read_text()
    assert "22050 Hz" in card and "prior prior_2" in card and "labels, lyrics" in card


@pytest.mark.parametrize("name", ["../codec.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_a_configuration_that_names_files_elsewhere_is_not_opened(tiny_model, tmp_path, name):
    config = json.loads((tiny_model.folder / "config.json").read_text())
    config["codecs"][0]["file"] = name
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is no name of a file in this folder"):
        ModelInfo.read(tmp_path)
