"""The ablation of the bottleneck: arms change what they name, a unit is trained and measured, and the verb compares the arms."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from launch.ablate import bottleneck
from launch.ablate.ablate import ablate


def test_an_arm_changes_the_bottleneck_its_diversity_or_its_restarts_and_nothing_else(tmp_path):
    shapes = {u.arm.title: bottleneck.shape_of(u) for u in bottleneck.EXPERIMENT.units("data", "", tmp_path, 1, 10, 1, "test")}
    base, recipe = shapes["codebook"]
    changed = {
        name: {f.name for f in fields(base) if getattr(base, f.name) != getattr(config, f.name)}
        for name, (config, _) in shapes.items()
    }
    assert list(changed.values()) == [{"bottleneck"}, {"bottleneck", "diversity"}, set(), {"threshold"}]
    assert all(each == recipe and each.delay_quantiser == 0 for _, each in shapes.values())


@pytest.mark.long
def test_the_verb_compares_usage_and_bits_of_the_arms(tmp_path, monkeypatch):
    monkeypatch.setattr(bottleneck, "WINDOWS", 4)
    monkeypatch.setattr(bottleneck, "FRAMES", 4)
    corpus = make_corpus(tmp_path / "corpus", 6, seconds=2.0, workers=0)
    prepare(corpus / "songs.jsonl", tmp_path / "data", test_share=0.4, workers=1)
    out = tmp_path / "out"
    for unit in bottleneck.EXPERIMENT.units(
        str(tmp_path / "data"), "", out, 1, 20, 2, "test"
    ):  # in this process, with few windows
        bottleneck.EXPERIMENT.run(unit)
    ablate("bottleneck", str(tmp_path / "data"), out=str(out), seeds=1, steps=20, songs=2, processes=1, preset="test")
    found = json.loads((out / "ablation.json").read_text())
    assert [row["variant"] for row in found["rows"]] == list(bottleneck.VARIANTS)
    assert all(1 <= each["perplexity"] <= 32 and 0 < each["bits"]["own"] < 9 for each in found["units"])
    worth = {each["what"]: each["values"][0] for each in found["worth"]}
    own, without = found["units"][0], found["units"][1]
    assert worth["A2: perplexity, with / without diversity"] == pytest.approx(own["perplexity"] / without["perplexity"])
    assert worth["A3: bits, own / other codes"] == pytest.approx(own["bits"]["own"] / own["bits"]["other"])
