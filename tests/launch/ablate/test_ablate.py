"""The ablation: units differ from the base as their name states, finished ones are kept, seeds are compared in pairs."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from launch.ablate import codec, masked, prior
from launch.ablate import experiment as experiments
from launch.ablate.ablate import EXPERIMENTS, ablate
from launch.ablate.experiment import Arm, Comparison, Experiment, FigureRows, found
from launch.cli import main
from launch.corpus.encode import encode
from launch.training.control import Stop
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
    arms = [codec.arm_of("base", 2), codec.arm_of(variant, 2)]
    base, other = (codec.shape_of(arm)[0] for arm in arms)
    assert {f.name for f in fields(base) if getattr(base, f.name) != getattr(other, f.name)} == changed
    assert codec.recipe_of(arms[0]) == codec.recipe_of(arms[1])


def test_only_codes_used_less_than_a_quarter_of_the_mean_are_dead():
    for arm in codec.EXPERIMENT.arms:
        config, crop = codec.shape_of(arm)
        if arm.keys["variant"] != "no restarts":
            assert config.threshold == 0.25 * 16 * crop / config.hops[arm.keys["level"]] / config.bins


@pytest.mark.long
@pytest.mark.parametrize("name", ["base_2_0", "nested_all_0"])
def test_a_unit_is_trained_measured_and_kept(data, tmp_path, name, monkeypatch):
    units = codec.EXPERIMENT.units(str(data), "", tmp_path, 1, 10, 1)
    (unit,) = [each for each in units if each.folder == tmp_path / "units" / name]
    figures = codec.EXPERIMENT.run(unit)
    assert 0 < figures["codes_used"] <= 2048 and 0 < figures["error_above_2khz"] < 5
    assert (unit.folder / "made.wav").is_file()
    assert ("whole_convergence_db" in figures) == (figures["variant"] == "nested")
    monkeypatch.setattr(experiments, "write_json", lambda *_: pytest.fail("it was measured again"))
    assert codec.EXPERIMENT.run(unit) == json.loads(json.dumps(figures))


def made_up(variant, level, seed, **figures):
    base = {"convergence_db": -10.0, "error_above_2khz": 0.5, "codes_used": 1000.0, "entropy_bits": 9.0}
    return {"variant": variant, "level": level, "seed": seed, **base, **figures}


def test_what_an_idea_is_worth_is_compared_seed_by_seed():
    units = [made_up("base", 2, s, codes_used=1000.0 + s) for s in range(3)]
    units += [made_up("no restarts", 2, s, codes_used=(1000.0 + s) / 4) for s in (2, 0, 1)]
    units += [made_up("nested", -1, s, convergence_db=-7.0 - s, whole_convergence_db=-20.0) for s in range(3)]
    summary = codec.EXPERIMENT.summary(units)
    worth = {w["what"].split(":")[0]: w for w in summary["worth"]}
    assert set(worth) == {"restarts", "separate"}, "only what was measured is compared"
    assert worth["restarts"]["mean"] == pytest.approx(4) and worth["restarts"]["spread"] == pytest.approx(0, abs=1e-9)
    assert worth["separate"]["values"] == [-3.0, -2.0, -1.0]
    assert summary["rows"][0]["codes_used"] == {"mean": 1001.0, "spread": 1.0}
    table = codec.EXPERIMENT.tables(summary)
    assert "1001 +- 1" in table and "-8.00 +- 1.00" in table and "-20.00 +- 0.00" in table


def test_mistakes_are_told(data, tmp_path):
    with pytest.raises(UserError, match="--steps 1"):
        ablate("codec", str(data), out=str(tmp_path), steps=1)
    with pytest.raises(UserError):
        ablate("codec", str(tmp_path / "none"), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="got no MODEL"):
        ablate("prior", str(data), out=str(tmp_path))
    with pytest.raises(UserError, match="--models"):
        ablate("codec", str(data), out=str(tmp_path), models=["model"])


# ---- an experiment


def parts(unit: experiments.Unit) -> dict:
    """Figures of a unit: one of the arm and seed, and one for each of two parts, where a null has no number."""
    print("measured")
    length = float(unit.arm.changes + unit.seed)
    return {
        "length": length,
        "parts": {"a": {"difference": length, "z": 4.0 - unit.seed}, "b": {"difference": None, "z": None}},
    }


TOY = Experiment(
    parts, [Arm("short", "short", {"arm": "short"}, 1), Arm("long", "long", {"arm": "long"}, 5)], check=str,
    rows=[FigureRows({"length": "length", "width": "width"}), FigureRows({"part {}": "parts.{}.difference"}, "parts", descending=True)],
    comparisons=[Comparison("long - short", "long", "short", "length"), Comparison("width", "long", "short", "width")],
)  # fmt: skip


def test_an_experiment_has_rows_of_the_figures_that_units_have_and_compares_arms_seed_by_seed(tmp_path):
    units = TOY.units("data_{seed}", "model", tmp_path, 2, 1000, 8)
    assert [unit.data.name for unit in units] == ["data_0", "data_0", "data_1", "data_1"]
    rows = {row["what"]: row for row in TOY.summary([TOY.run(unit) for unit in units])["rows"]}
    assert [*rows] == [
        "short: length",
        "short: part b",
        "short: part a",
        "long: length",
        "long: part b",
        "long: part a",
        "long - short",
    ]
    assert rows["long: part a"]["least_z"] == 3.0 and rows["long: part b"]["least_z"] is None
    assert rows["long: length"]["values"] == [5.0, 6.0] and math.isnan(rows["long: part b"]["mean"])
    assert rows["long - short"]["values"] == [4.0, 4.0] and rows["long - short"]["spread"] == 0.0


def test_a_unit_that_was_asked_for_with_other_numbers_is_measured_again(tmp_path):
    for songs, times in ((8, 1), (8, 1), (9, 2)):
        unit = TOY.units("data", "model", tmp_path, 1, 1000, songs)[0]
        assert TOY.run(unit)["asked"] == {"steps": 1000, "songs": songs}
        assert (unit.folder / "log.txt").read_text() == "measured\n" * times


def test_an_entry_makes_an_ablation(tmp_path, monkeypatch, capsys):
    assert main(["ablate", "lyrics", "data", "--out", "out"]) == 2
    assert f"expected one of {', '.join(EXPERIMENTS)}" in capsys.readouterr().err
    monkeypatch.setitem(EXPERIMENTS, "toy", f"{__name__}:TOY")
    ablate("toy", "data", "model", out=str(tmp_path), seeds=2, processes=1)
    kept = json.loads((tmp_path / "ablation.json").read_text())
    assert len(kept["units"]) == 4 and kept["steps"] == 1000 and kept["rows"][-1]["what"] == "long - short"
    assert "short: part a" in capsys.readouterr().out and (tmp_path / "units" / "long_1" / "figures.json").is_file()


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
    rows = {row["what"]: row for row in prior.EXPERIMENT.summary(units)["rows"]}
    assert rows["pieces - characters: bits"]["mean"] == 0.5 and rows["pieces - characters: bits"]["spread"] == 0.0
    assert rows["characters: lyrics, false - true"]["least_z"] == 9.0  # a z that is no number is passed over
    assert rows["pieces: attention on the word beside times shuffled, difference"]["least_z"] == 20.0
    assert "pieces - characters: bits" in prior.EXPERIMENT.tables({"rows": rows.values()})


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
    units = prior.EXPERIMENT.units(*given, tmp_path / "out", 2, 20, 4, "test")
    assert len(units) == 6 and {unit.data for unit in units} == {tmp_path / f"seed_{s}" / "data" for s in range(2)}
    enter = Stop.__enter__

    def enter_asked(stop: Stop) -> Stop:
        enter(stop).asked = True
        return stop

    with monkeypatch.context() as stopping:
        stopping.setattr(Stop, "__enter__", enter_asked)
        with pytest.raises(KeyboardInterrupt):
            prior.EXPERIMENT.run(units[0])
    assert not (units[0].folder / "figures.json").is_file()
    first = prior.EXPERIMENT.run(units[0])
    assert "stopped at step 1" in (units[0].folder / "log.txt").read_text()
    ablate("prior", *given, out=str(tmp_path / "out"), seeds=2, steps=20, songs=4, processes=1, preset="test")
    kept = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert kept["units"][0] == first and len(kept["units"]) == 6
    what = {row["what"]: row for row in kept["rows"]}
    assert what["pieces: characters an id"]["mean"] > 1.5 > what["characters: characters an id"]["mean"]
    assert "pieces: attention on the word beside untrained, line times, difference" in what
    assert "no time bias: attention on the word beside times shuffled, difference" not in what
    assert "pieces - characters: bits" in capsys.readouterr().out
    for unit in units:
        net = ModelFolder.from_pretrained(unit.folder / "model").prior("prior_2")
        assert net.config.trunk.time_bias == (unit.arm.title != "no time bias")


def test_a_path_may_have_a_name_with_a_decimal_fraction():
    units = [{"table": {"error .5-2 kHz": 1.0, "error below .5 kHz": {"mean": 2.0}}}, {"other": 3.0}]
    assert found(units, "table.error .5-2 kHz") == [1.0] and found(units, "table.error below .5 kHz.mean") == [2.0]
    assert found(units, "table.{}", "error .5-2 kHz") == [1.0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_parent_alone_ends_the_workers(number):
    """A unit of a minute is cut short; without that the parent waits for it."""
    code = (
        "import signal, time; from functools import partial; from launch.ablate.experiment import run_in_processes as run; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # a job in the background of a shell ignores it
        "print('begun', flush=True); run([partial(time.sleep, 60)] * 2, 2)"
    )
    words = {
        "cwd": Path(__file__).parents[3],
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "start_new_session": True,
    }
    with subprocess.Popen([sys.executable, "-c", code], **words) as process:  # type: ignore[call-overload]
        assert process.stdout and process.stdout.readline()
        while len(children := children_of(process.pid)) < 3:  # two workers, and the tracker of their resources
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(20) == -number  # python ends by the signal where no command line catches it
    end = time.monotonic() + 30  # the tracker ends a moment after its parent; a worker may still be importing
    while any(map(is_running, children)):
        assert time.monotonic() < end, "a worker goes on"
        time.sleep(0.05)


def write_when_ended(folder: Path) -> None:
    """A unit that still writes for a second after it was asked to end, as a training writes its checkpoint."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        (folder / "begun").touch()
        time.sleep(60)
    finally:
        time.sleep(1)
        (folder / "ended").touch()


def test_an_interruption_waits_for_what_the_workers_still_write(tmp_path):
    code = (
        "import signal; from functools import partial; from pathlib import Path; from launch.ablate.experiment import "
        "run_in_processes as run; from tests.launch.ablate.test_ablate import write_when_ended as unit; "
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"folder = Path({str(tmp_path)!r})\ntry:\n    run([partial(unit, folder)], 1)\n"
        "except KeyboardInterrupt:\n    assert (folder / 'ended').exists()\n"  # here, and not only when Python exits
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0 and (tmp_path / "ended").exists()


def is_running(pid: int) -> bool:
    """Whether a process does anything: a dead one may wait for its exit code to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    found = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for line in found for child in line.split()]


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
    rows = {row["what"]: row for row in masked.EXPERIMENT.summary([made_up_masked(s) for s in range(3)])["rows"]}
    assert rows["level 2, half hidden: bits"]["values"] == [4.0, 5.0, 6.0]
    assert rows["frechet of 12 passes / of 1"]["values"] == [0.25, 0.3, 0.35]
    assert rows["bottom from the levels above: mel, ratio"]["mean"] == 0.25
    assert "another song: frechet" in rows and "middle and bottom autoregressively: mel" not in rows


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
    assert what["level 0, half hidden: unigram bits"] > 0 and "middle and bottom autoregressively: mel" in what
    assert sorted(path.name for path in model.iterdir()) == before
    assert ModelFolder.from_pretrained(tmp_path / "out" / "units" / "masked_0" / "model").prior("masked")
