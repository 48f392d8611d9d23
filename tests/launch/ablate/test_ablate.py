"""The ablation: units differ from the base by what their name says, finished ones are kept, seeds are compared in pairs."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from launch.ablate import ablate as verb
from launch.ablate import masked as ablate_masked
from launch.ablate import prior as ablate_prior
from launch.ablate.ablate import VARIANTS, CodecUnit, ablate, recipe_of, run_unit, shape_of, summarise
from launch.ablate.units import rows_table
from launch.corpus.encode import encode
from launch.training import loop
from launch.training.train import train


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
    base, _ = shape_of(CodecUnit("base", 2, 0))
    other, _ = shape_of(CodecUnit(variant, 2, 0))
    assert {f.name for f in fields(base) if getattr(base, f.name) != getattr(other, f.name)} == changed
    assert recipe_of(CodecUnit("base", 2, 0), 100) == recipe_of(CodecUnit(variant, 2, 1), 100)


def test_only_codes_used_less_than_a_quarter_of_the_mean_are_dead():
    for variant, (_, levels) in VARIANTS.items():
        for level in levels:
            config, crop = shape_of(CodecUnit(variant, level, 0))
            if variant != "no restarts":
                assert config.threshold == 0.25 * 16 * crop / config.hops[level] / config.bins


@pytest.mark.long
@pytest.mark.parametrize("unit", [CodecUnit("base", 2, 0), CodecUnit("nested", -1, 0)])
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
    with pytest.raises(UserError, match="got no MODEL"):
        ablate("prior", str(data), out=str(tmp_path))
    with pytest.raises(UserError, match="--models"):
        ablate("codec", str(data), out=str(tmp_path), models=["model"])


# ---- the prior


def made_up_prior(arm, seed, bits):
    trial = {"score": 0.9, "control": 0.1, "difference": 0.8 - 0.1 * seed, "z": 20.0 + seed}
    lyrics = {"difference": 0.5 + 0.1 * seed, "z": None if seed == 2 else 10.0 - seed}
    return {
        "arm": arm, "seed": seed, "bits": bits, "unigram_bits": 7.0, "characters_an_id": 1.0, "controls": {"lyrics": lyrics},
        "alignment": {"chance": 0.07, "trials": {"times shuffled": trial}},
    }  # fmt: skip


def test_arms_of_the_prior_are_compared_seed_by_seed_with_their_least_z():
    units = [made_up_prior("characters", s, 5.0 + s) for s in range(3)]
    units += [made_up_prior("pieces", s, 5.5 + s) for s in (2, 0, 1)]
    rows = {row["what"]: row for row in ablate_prior.summarise(units)}
    assert rows["pieces - characters: bits"]["mean"] == 0.5 and rows["pieces - characters: bits"]["spread"] == 0.0
    assert rows["characters: lyrics, false - true"]["least_z"] == 9.0  # a z that is no number is passed over
    assert rows["pieces: attention on the word beside times shuffled, difference"]["least_z"] == 20.0
    assert "pieces - characters: bits" in rows_table(list(rows.values()))


@pytest.mark.long
def test_the_top_prior_is_trained_with_every_kind_of_letters_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """Two corpora of their own, one a seed; a unit that was stopped is not measured, finished ones are kept."""
    for seed in range(2):
        folder = tmp_path / f"seed_{seed}"
        # who is held out hangs on the bytes of the sound, which differ between processors: so many that it is always enough
        corpus = make_corpus(folder / "corpus", 24, seed=seed, seconds=8.0, workers=0)
        prepare(corpus / "songs.jsonl", folder / "data", test_share=0.5)
        train("vqvae", str(folder / "data"), preset="test", level=2, steps=10, out=str(folder / "model"))
        encode(str(folder / "data"), str(folder / "model"), levels="2")
    given = [str(tmp_path / "seed_{seed}" / name) for name in ("data", "model")]
    with pytest.raises(UserError, match="jukebox encode"):
        ablate("prior", given[0], given[1].replace("{seed}", "0"), out=str(tmp_path / "out"), preset="test")
    units = ablate_prior.units_of(*given, 2, "test")
    assert len(units) == 6 and {unit.data for unit in units} == {tmp_path / f"seed_{s}" / "data" for s in range(2)}
    enter = loop.Stop.__enter__

    def enter_asked(stop: loop.Stop) -> loop.Stop:
        enter(stop).asked = True
        return stop

    with monkeypatch.context() as stopping:
        stopping.setattr(loop.Stop, "__enter__", enter_asked)
        with pytest.raises(KeyboardInterrupt):
            ablate_prior.run_unit(units[0], tmp_path / "out", 20, 4)
    assert not (tmp_path / "out" / "units" / units[0].name / "figures.json").is_file()
    first = ablate_prior.run_unit(units[0], tmp_path / "out", 20, 4)
    assert "stopped at step 1" in (tmp_path / "out" / "units" / units[0].name / "log.txt").read_text()
    ablate("prior", *given, out=str(tmp_path / "out"), seeds=2, steps=20, songs=4, processes=1, preset="test")
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert kept["units"][0] == first and len(kept["units"]) == 6
    what = {row["what"]: row for row in kept["rows"]}
    assert what["pieces: characters an id"]["mean"] > 1.5 > what["characters: characters an id"]["mean"]
    assert "pieces: attention on the word beside untrained, line times, difference" in what
    assert "no time bias: attention on the word beside times shuffled, difference" not in what
    assert "pieces - characters: bits" in capsys.readouterr().out
    for unit in units:
        prior = ModelFolder.from_pretrained(tmp_path / "out" / "units" / unit.name / "model").prior("prior_2")
        assert prior.config.trunk.time_bias == (unit.arm != "no time bias")


# ---- the masked prior


def made_up_masked(seed: int) -> dict:
    level = {"bits": 4.0 + seed, "unigram_bits": 8.0, "ratio": 0.5}
    suffix = {f"{end}_{params}": 1.0 for end in ("last", "first") for params in ("with", "without", "ratio")}
    return {
        "seed": seed, "half": {"2": level, "1": level}, "suffix": {"2": suffix, "1": suffix},
        "parents": {"own": 2.0, "other": 8.0, "ratio": 0.25}, "other_song": {"mel": 9.0, "frechet": 50.0},
        "passes": {"1": {"mel": 5.0, "frechet": 20.0}, "12": {"mel": 4.0, "frechet": 5.0 + seed}, "36": {"mel": 4.0, "frechet": 5.0}},
    }  # fmt: skip


def test_figures_of_the_masked_prior_are_ratios_seed_by_seed():
    rows = {row["what"]: row for row in ablate_masked.summarise([made_up_masked(s) for s in range(3)])}
    assert rows["level 2, half hidden: bits"]["values"] == [4.0, 5.0, 6.0]
    assert rows["frechet of 12 passes / of 1"]["values"] == [0.25, 0.3, 0.35]
    assert rows["bottom from the levels above: mel, ratio"]["mean"] == 0.25
    assert "another song: frechet" in rows and "middle and bottom one code after another: mel" not in rows


@pytest.mark.long
def test_a_masked_prior_is_trained_in_a_copy_of_the_model_and_measured(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path / "corpus", 24, seed=0, seconds=4.0, workers=0)
    data, model = tmp_path / "data", tmp_path / "model"
    prepare(corpus / "songs.jsonl", data, test_share=0.5)
    train("vqvae", str(data), preset="test", steps=60, out=str(model))
    with pytest.raises(UserError, match="jukebox encode"):
        ablate("masked", str(data), str(model), out=str(tmp_path / "out"), preset="test")
    encode(str(data), str(model))
    train("prior", str(data), preset="test", levels="1,0", steps=10, out=str(model))
    monkeypatch.setattr("jukebox.evaluation.masked.ROWS", 4)
    before = sorted(path.name for path in model.iterdir())
    ablate("masked", str(data), str(model), out=str(tmp_path / "out"), seeds=1, steps=10, songs=3, processes=1, preset="test")
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())
    what = {row["what"]: row["mean"] for row in kept["rows"]}
    assert what["level 0, half hidden: unigram bits"] > 0 and "middle and bottom one code after another: mel" in what
    assert sorted(path.name for path in model.iterdir()) == before
    assert ModelFolder.from_pretrained(tmp_path / "out" / "units" / "masked_0" / "model").prior("masked")
