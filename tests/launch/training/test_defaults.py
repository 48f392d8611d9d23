"""Presets of the machine and of the model folder, the expected time, and what a model records of its songs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from data_prep.manifest import load_manifest, prepare
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import PRESETS
from jukebox.model.provenance import read_provenance
from launch.training import expected
from launch.training.defaults import preset_of_machine, presets_of
from launch.training.tasks.task import TaskSetup
from launch.training.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs of 2 s, one without a licence; all of them are training songs."""
    from data_prep.synthetic.songs import make_corpus

    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 6, seed=0, seconds=2.0, workers=1)
    path = root / "corpus" / "songs.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [line | ({"licence": "CC0" if i > 2 else "CC BY 4.0"} if i else {}) for i, line in enumerate(lines)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    prepare(path, root / "data", test_share=0.0, workers=1)
    return root / "data"


@pytest.fixture
def model(data: Path, tmp_path: Path) -> Path:
    train("vqvae", str(data), preset="test", level=2, steps=2, out=str(tmp_path / "model"), threads=1)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("gigabytes", "what", "preset"),
    [(0, "vqvae", "demo"), (0, "tokens", "demo"), (24, "prior", "demo"), (24, "spectral", "spectral"), (40, "prior", "small"),
     (40, "masked", "small"), (80, "tokens", "spectral"), (80, "masked_tokens", "demo")],
)  # fmt: skip
def test_the_preset_follows_the_memory_of_the_gpu(gigabytes: int, what: str, preset: str) -> None:
    assert preset_of_machine(what, 1e9 * gigabytes) == preset


def test_a_new_model_has_the_preset_of_the_machine(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train("vqvae", str(data), level=0, steps=1, out=str(tmp_path / "new"), threads=1, device="cpu")
    assert "preset demo, for a machine with no GPU" in capsys.readouterr().out
    assert ModelFolder.from_pretrained(tmp_path / "new").info.codecs[0].config == PRESETS["demo"].codec


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "a folder of before"])
def test_a_model_folder_keeps_its_preset(recorded: bool, data: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["presets"] == ["test"]
    if not recorded:
        del config["presets"]
        (model / "config.json").write_text(json.dumps(config))
    assert presets_of(model)[0] == "test"
    train("vqvae", str(data), level=1, steps=2, out=str(model), threads=1)
    assert "preset test, with which the model was begun" in capsys.readouterr().out
    assert ModelFolder.from_pretrained(model).trained_streams() == ("vq.1", "vq.2")


def test_the_card_counts_training_songs_by_licence(data: Path, model: Path) -> None:
    line = "- trained on 6 songs, 0.00333 h, by licence: CC0 3, CC BY 4.0 2, unknown 1"
    assert line in (model / "card.md").read_text().splitlines()
    (entry,) = read_provenance(model).values()
    assert sum(entry["artists"].values()) == len(load_manifest(data))


def test_every_part_is_measured(data: Path, tmp_path: Path) -> None:
    preset = PRESETS["test_both"]
    model = [ModelFolder.create(tmp_path / "model", codec) for codec in preset.codecs][-1]
    recipes = [*((part, recipe, None) for part, recipe in preset.codec_recipes.items())]
    recipes += [(part, recipe, preset.priors[part]) for part, recipe in preset.prior_recipes.items()]
    for part, recipe, config in recipes:
        assert 0 < expected.expected_seconds(TaskSetup(model, part, data, recipe, 0, "cpu", config), 1), part


def test_a_long_training_says_what_to_change(data: Path, model: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(expected, "step_seconds", lambda setup: 3600.0)
    opened, recipe = ModelFolder.from_pretrained(model), PRESETS["test"].codec_recipes["vq.2"]
    setups = [TaskSetup(opened, part, data, recipe, 0, "cpu") for part in ("vq.2", "vq.1")]
    expected.print_expected(setups, model / "training", "test")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "expected on this machine: vq.2 28 steps, 28.0 h; vq.1 30 steps, 30.0 h; in all 58.0 h"
    assert "--max_minutes" in second and "--preset demo" in second
    monkeypatch.setattr(expected, "step_seconds", lambda setup: 1 / 0)
    assert math.isnan(expected.expected_seconds(setups[0], 5))
