"""The ablation of the treble: arms change what they name, at equal CPU time, and a unit is measured."""

from __future__ import annotations

from dataclasses import fields

import pytest

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from launch.ablate import treble
from launch.ablate.ablate import ablate


def unit_of(variant: str, tmp_path, data="data"):
    (unit,) = [u for u in treble.EXPERIMENT.units(str(data), "", tmp_path, 1, 10, 1, "test") if u.arm.name == f"{variant}_0"]
    return unit


def test_an_arm_changes_what_its_name_says(tmp_path):
    unit = unit_of("base", tmp_path)
    base, recipe = treble.shape_of(unit, {})
    changed = {}
    for variant, changes in treble.VARIANTS.items():
        config, of_arm = treble.shape_of(unit, changes)
        pairs = [(base, config), (recipe, of_arm)]
        changed[variant] = {f.name for a, b in pairs for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}
    single = [changed[name] for name in ("flat", "relative", "gain")]
    assert single == [{"flat_upsampling"}, {"relative_waveform"}, {"gain_db"}]
    assert changed["chosen"] == set().union(*single) and not changed["base"]
    assert changed["chosen and log"] - changed["chosen"] == {"log_spectral"}
    assert changed["chosen and both"] - changed["chosen"] == {"log_spectral", "pre_emphasis"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("treble")
    corpus = make_corpus(folder / "corpus", 4, seconds=4.0, workers=0)
    prepare(corpus / "songs.jsonl", folder / "data", test_share=0.3)
    return folder / "data"


def test_an_arm_whose_steps_cost_more_gets_fewer(data, tmp_path, monkeypatch):
    monkeypatch.setattr(treble, "cost", lambda unit: 2.0)
    figures = treble.EXPERIMENT.run(unit_of("chosen", tmp_path, data))
    assert figures["steps_trained"] == 10 and treble.STEPS[0] == 2  # of 20
    assert {name for name in treble.EXPERIMENT.columns if name not in figures} == set()
    config = ModelFolder.from_pretrained(tmp_path / "units" / "chosen_0_0" / "model").info.codec_of("vq.0").config
    assert config.flat_upsampling and (tmp_path / "units" / "chosen_0_0" / "made_0.wav").is_file()  # type: ignore[attr-defined]


@pytest.mark.long
def test_the_verb_prints_the_arms_side_by_side(data, tmp_path, capsys):
    ablate("treble", str(data), out=str(tmp_path), seeds=1, steps=10, songs=1, processes=1, preset="test")
    printed = capsys.readouterr().out
    assert "chosen, level 1" in printed and "level 0: comb, dB, less than the base" in printed
