"""`jukebox plan`, and the preflight of every sampling run: a prediction without weights, a choice that fits, or one line."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.info import ModelInfo
from jukebox.planning import speed
from jukebox.planning.sampling import Speed, plan_sampling
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.cli import main
from launch.verbs.plan import plan
from priors.autoregressive import native
from priors.tokens.config import FrameParams
from tests.jukebox.sampling.models import with_masked_prior
from tests.peak import watch
from tests.runs import sample


def test_a_published_set_is_planned_without_any_weights(capsys):
    made = plan("sample", "5b_lyrics", seconds=60.0, takes=4, dtype="bfloat16", bandwidth=1000.0, threads=1, device="cpu")
    printed = capsys.readouterr().out
    assert [level.level for level in made.levels] == [2, 1, 0]
    assert made.levels[0].parts["weights"] > 11.2e9 and "predicted: " in printed
    assert len(printed.splitlines()) == 6  # a head, three levels, the unit, the whole in a line
    assert 20671 * 11e9 / 1e12 < (made.levels[0].seconds or 0)  # no faster than its weights can be read


def test_a_limit_chooses_for_the_plan_as_it_would_for_the_run(tiny_model, tmp_path, capsys):
    flags = ["--seconds", "0.3", "--takes", "3", "--threads", "1", "--levels", "2"]
    whole = plan("sample", str(tiny_model.folder), seconds=0.3, takes=3, levels=(2,), threads=1)
    two = plan("sample", str(tiny_model.folder), seconds=0.3, takes=3, levels=(2,), threads=1, batch=2, dtype="float32")
    assert two.peak < whole.peak
    limit = f"{two.peak / 1e9:.9f}GB"
    out = tmp_path / "run"
    asked = ["sample", str(tiny_model.folder), "--out", str(out), *flags, "--dtype", "float32"]
    assert main([*asked, "--max_memory", limit]) == 0
    assert "predicted: " in capsys.readouterr().out
    request = json.loads((out / "run.json").read_text())
    assert (request["dtype"], request["batches"]) == ("float32", [[0, 1], [2]])
    free = [word if word != str(out) else str(tmp_path / "free") for word in asked]
    assert main(free) == 0
    codes = [Run.open(folder).codes(2) for folder in (out, tmp_path / "free")]
    assert codes[0].shape == codes[1].shape and np.mean(codes[0] == codes[1]) > 0.9  # but for ties within rounding


def test_what_cannot_fit_ends_with_one_line_before_anything_is_written(tiny_model, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["sample", str(tiny_model.folder), "--out", str(out), "--max_memory", "50MB"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("jukebox sample: --max_memory 0.05GB is not enough: ") and len(printed.splitlines()) == 1
    assert not out.exists()


def test_every_sampling_verb_prints_what_it_will_take(tiny_model, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["sample", str(tiny_model.folder), "--out", str(out), "--seconds", "0.2", "--levels", "2"]) == 0
    assert capsys.readouterr().out.startswith("predicted: ")
    assert main(["upsample", str(out)]) == 0
    assert capsys.readouterr().out.startswith("predicted: ")
    assert main(["resume", str(out)]) == 0
    assert "predicted" not in capsys.readouterr().out  # there is nothing left to do


@pytest.mark.parametrize("compile_", ["on", "off", "auto"])
def test_time_is_measured_with_the_threads_and_the_steps_of_the_run(tiny_model, tmp_path, monkeypatch, compile_):
    if compile_ != "off" and native.why_not():
        pytest.skip("no C++ compiler here")
    seen, plain = [], speed.measure

    def measure(device, dtype, rows, matrices, compiled):
        seen.append((torch.get_num_threads(), compiled))
        return plain(device, dtype, rows, matrices, compiled)

    monkeypatch.setattr(speed, "measure", measure)
    words = ["sample", str(tiny_model.folder), "--out", str(tmp_path / "run"), "--seconds", "0.2", "--levels", "2,1"]
    assert main([*words, "--device", "cpu", "--threads", "2", "--compile", compile_]) == 0
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert asked["compiled"] == (compile_ != "off") and set(seen) == {(2, compile_ != "off")}


def test_speed_is_measured_on_the_gpu_of_the_run(tiny_model, monkeypatch):
    """Not on the first one, whose memory another program may need."""
    current, seen = [], []

    @contextmanager
    def device(name):
        current.append(name)
        yield
        current.remove(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(speed, "measure", lambda *_: seen.append(list(current)) or Speed(1e9, 1e9, 1e-6))
    plan("sample", str(tiny_model.folder), seconds=0.3, threads=1, device="cuda:1")
    assert seen == [["cuda:1"]] * 3 and current == []


def test_mistakes_are_one_clear_sentence(tiny_model, tmp_path):
    for wrong, message in {
        "nope": "no preset or published set 'nope'",
        str(tmp_path): "holds no config.json",
        "vqvae": "has priors for level (none)",
    }.items():
        with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
            plan("sample", wrong)
    with pytest.raises(UserError, match="expected a length"):
        plan("sample", str(tiny_model.folder), seconds=2.0, prompt_seconds=3.0)
    with pytest.raises(UserError, match="got --levels 7"):
        plan("sample", "demo", levels=(7,))


def test_frames_of_several_codes_are_planned_as_the_run_that_follows(spectral_model, tmp_path):
    planned = plan("sample", str(spectral_model.folder), seconds=1.0, takes=2, threads=1, guidance=2.0, device="cpu")
    run = sample(spectral_model, [Song()] * 2, 1.0, tmp_path / "run", params={1: FrameParams(guidance=2.0)})
    made = plan_sampling(spectral_model.info, run.request)
    assert [(level.steps, level.rows, level.codes) for level in made.levels] == [(86, 4, 2 * 86)]  # type: ignore[union-attr]
    assert [level.parts for level in planned.levels] == [level.parts for level in made.levels]  # type: ignore[union-attr]


def test_a_route_is_planned_as_the_run_that_follows(tiny_model, tmp_path):
    model = with_masked_prior(tiny_model, tmp_path / "model")
    planned = plan("sample", str(model.folder), seconds=0.4, takes=2, threads=1, route="masked", device="cpu")
    run = sample(model, [Song()] * 2, 0.4, tmp_path / "run", route="masked", passes=(24, 12))
    made = plan_sampling(model.info, run.request)
    assert [level.steps for level in planned.levels] == [level.steps for level in made.levels] == [68, 3 * 24, 3 * 12]
    assert [level.parts for level in planned.levels] == [level.parts for level in made.levels]
    with pytest.raises(UserError, match="has no route 'flow'"):
        plan("sample", str(model.folder), route="flow")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux what is resident")
def test_a_real_run_peaks_as_planned(each_model, tmp_path):
    model, flags = each_model.folder, ("--seconds", "0.3", "--threads", "1", "--takes", "3", "--max_memory", "1GB")
    peak = watch("sample", str(model), "--out", str(tmp_path / "run"), *flags)
    asked = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (asked["dtype"], asked["batches"]) == ("float32", [[0, 1, 2]])
    assert peak.all == pytest.approx(plan_sampling(ModelInfo.read(model), asked).peak, rel=0.15)
