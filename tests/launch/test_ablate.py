"""The ablation: units differ from the base by what their name says, finished ones are kept, seeds are compared in pairs."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.songs import make_corpus
from launch import ablate as verb
from launch.ablate import VARIANTS, Unit, ablate, recipe_of, run_unit, shape_of, summarise


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    corpus = make_corpus(folder / "corpus", 4, seconds=4.0, workers=0)
    prepare(corpus / "songs.jsonl", folder / "data", test_share=0.3)
    return folder / "data"


@pytest.mark.parametrize(
    ("variant", "changed"),
    [("no restarts", {"threshold"}), ("no spectral loss", {"multispectral"}), ("256 codes", {"bins", "threshold"})],
)
def test_a_variant_is_the_base_but_for_what_it_leaves_out(variant, changed):
    base, _ = shape_of(Unit("base", 2, 0))
    other, _ = shape_of(Unit(variant, 2, 0))
    assert {f.name for f in fields(base) if getattr(base, f.name) != getattr(other, f.name)} == changed
    assert recipe_of(Unit("base", 2, 0), 100) == recipe_of(Unit(variant, 2, 1), 100)


def test_only_codes_used_less_than_a_quarter_of_the_mean_are_dead():
    for variant, (_, levels) in VARIANTS.items():
        for level in levels:
            config, crop = shape_of(Unit(variant, level, 0))
            if variant != "no restarts":
                assert config.threshold == 0.25 * 16 * crop / config.hops[level] / config.bins


@pytest.mark.long
@pytest.mark.parametrize("unit", [Unit("base", 2, 0), Unit("nested", -1, 0)])
def test_a_unit_is_trained_measured_and_kept(data, tmp_path, unit, monkeypatch):
    figures = run_unit(unit, data, tmp_path, steps=10, songs=1)
    assert 0 < figures["codes_used"] <= 2048 and 0 < figures["error_above_2khz"] < 5
    assert (tmp_path / "units" / unit.name / "made.wav").is_file()
    assert ("whole_convergence_db" in figures) == (unit.variant == "nested")
    monkeypatch.setattr(verb, "_train_and_measure", lambda *_: pytest.fail("it was trained again"))
    again = run_unit(unit, data, tmp_path, steps=10, songs=1)
    assert again == json.loads(json.dumps(figures))


def made_up(variant, level, seed, **figures):
    base = {"convergence_db": -10.0, "error_above_2khz": 0.5, "codes_used": 1000.0, "entropy_bits": 9.0}
    return {"variant": variant, "level": level, "seed": seed, **base, **figures}


def test_what_an_idea_is_worth_is_compared_seed_by_seed():
    units = [made_up("base", 2, s, codes_used=1000.0 + s) for s in range(3)]
    units += [made_up("no restarts", 2, s, codes_used=(1000.0 + s) / 4) for s in (2, 0, 1)]
    units += [made_up("nested", -1, s, convergence_db=-7.0 - s, whole_convergence_db=-20.0) for s in range(3)]
    summary = summarise(units)
    worth = {w["what"].split(":")[0]: w for w in summary["worth"]}
    assert set(worth) == {"restarts", "separate"}, "only what was measured is compared"
    assert worth["restarts"]["mean"] == pytest.approx(4) and worth["restarts"]["spread"] == pytest.approx(0, abs=1e-9)
    assert worth["separate"]["values"] == [-3.0, -2.0, -1.0]
    assert summary["rows"][0]["codes_used"] == {"mean": 1001.0, "spread": 1.0}
    verb.print_tables(summary)


def test_mistakes_are_told(data, tmp_path):
    with pytest.raises(UserError, match="--steps 1"):
        ablate("codec", str(data), out=str(tmp_path), steps=1)
    with pytest.raises(UserError):
        ablate("codec", str(tmp_path / "none"), out=str(tmp_path / "out"))
