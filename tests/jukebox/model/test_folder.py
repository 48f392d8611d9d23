"""The model folder: read level by level, written by several processes, and its mistakes named."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import Jukebox, write_json
from jukebox.model.presets import find
from vqvae.jukebox.vqvae import VQVAE


@pytest.fixture
def copy(tiny_model, tmp_path) -> Jukebox:
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    return Jukebox.from_pretrained(tmp_path / "model")


def test_a_level_is_read_alone(copy):
    for name in ("prior_0.safetensors", "prior_1.safetensors"):
        (copy.folder / name).unlink()
    assert copy.prior(2).spec.writes == (2,)
    assert list(copy.codec([1]).levels) == ["1"]
    with pytest.raises(UserError, match="no prior for level 1"):
        copy.prior(1)


def test_what_was_saved_is_what_is_read(copy):
    prior, codec = copy.prior(1), copy.codec()
    copy.save_prior(1, prior)
    copy.save_codec(codec)
    again = Jukebox.from_pretrained(copy.folder)
    for ours, theirs in ((prior, again.prior(1)), (codec, again.codec())):
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    assert again.prior_configs == copy.prior_configs and not [p for p in copy.folder.iterdir() if p.suffix == ".tmp"]


def test_levels_of_the_codec_saved_side_by_side_all_arrive(tmp_path):
    config = find("test").codec
    model = Jukebox.create(tmp_path / "m", config)
    codecs = {level: VQVAE(config, (level,)) for level in range(3)}
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(model.save_codec, codecs.values()))
    assert model.trained_levels() == (0, 1, 2)
    for level, codec in codecs.items():
        saved = model.codec([level]).state_dict()
        assert all(torch.equal(saved[name], value) for name, value in codec.state_dict().items())


def test_mistakes_are_one_clear_sentence(copy, tmp_path):
    with pytest.raises(UserError, match=r"no config\.json; expected a model folder"):
        Jukebox.from_pretrained(tmp_path)
    empty = Jukebox.create(tmp_path / "empty", find("test").codec)
    with pytest.raises(UserError, match="train vqvae"):
        empty.codec()
    with pytest.raises(UserError, match="another configuration"):
        Jukebox.create(copy.folder, find("demo").codec)
    (copy.folder / "config.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="not a model configuration"):
        Jukebox.from_pretrained(copy.folder)


def test_json_files_hold_no_nan_and_keep_unicode(tmp_path):
    write_json(tmp_path / "a.json", {"z": float("nan"), "name": "Céline", "rows": [(1.5, float("inf"))]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"z": None, "name": "Céline", "rows": [[1.5, None]]} and "Céline" in text


def test_the_card_says_what_it_is(tiny_model: Jukebox):
    card = Path(tiny_model.folder / "card.md").read_text()
    assert "22050 Hz" in card and "prior of level 2" in card and "labels, lyrics" in card
