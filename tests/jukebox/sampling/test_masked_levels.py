"""Levels filled by the masked prior: the walk of every level, its windows whole, its passes in the request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.model.folder import build_prior, hollow, is_norm
from jukebox.model.info import ModelInfo
from jukebox.model.presets import PRESETS, find
from jukebox.planning.sampling import plan_sampling
from jukebox.sampling import masked_sampler as masked_filling
from jukebox.sampling import walk as sampling
from jukebox.sampling.masked_sampler import MaskedLevelSampler
from jukebox.sampling.request import SamplingOptions, sampled
from jukebox.sampling.run import Run
from jukebox.song import Song

SONG = Song("ann", ("rock",), "la la la\nli li")
SECONDS = 0.4  # 68 columns; a window has 32, of which 4 are known from the one before


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Jukebox:
    """The tiny model with a masked prior beside its own, spread as theirs."""
    folder = tmp_path_factory.mktemp("masked") / "model"
    shutil.copytree(tiny_model.folder, folder)
    torch.manual_seed(0)
    prior = build_prior(find("test").priors["masked"].for_corpus(3, 3, tiny_model.vocabulary.size))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    made = Jukebox.from_pretrained(folder)
    made.save_prior("masked", prior)
    return Jukebox.from_pretrained(folder)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(sampling, "write_page", lambda folder: None)


def draw(model, out, **options) -> Run:
    return sampling.sample(model, [SONG, Song()], SECONDS, out, **{"seed": 3, "lower": "masked", "passes": (3, 2), **options})


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Run:
    return draw(model, tmp_path_factory.mktemp("run") / "a")


def assert_same(a: Run, b: Run) -> None:
    for level in a.request["levels"]:
        assert np.array_equal(a.codes(level), b.codes(level)), f"level {level} differs"


def test_a_model_folder_names_the_masked_prior_beside_those_of_a_level_and_gives_it_back(model, tiny_model):
    config = json.loads((model.folder / "config.json").read_text())
    masked, *others = config["priors"]
    streams = ["vq.0", "vq.1", "vq.2"]
    assert (masked["name"], masked["kind"], masked["file"]) == ("masked", "masked", "prior_masked.safetensors")
    assert masked["reads"] == masked["writes"] == streams
    assert [(p["name"], p["kind"], p["writes"]) for p in others] == [
        (f"prior_{level}", "autoregressive", [stream]) for level, stream in enumerate(streams)
    ]
    assert model.info.levels_with_prior == [0, 1, 2]
    assert model.info.writer("vq.1", "any").config == model.prior("masked").config
    assert "prior masked (masked) of vq.0, vq.1, vq.2" in (model.folder / "card.md").read_text()
    half = model.prior("masked", "bfloat16").state_dict()
    assert all(x.dtype == (torch.float32 if is_norm(name) else torch.bfloat16) for name, x in half.items())
    with pytest.raises(UserError, match="train masked"):
        tiny_model.prior("masked")


def test_every_level_comes_to_its_length_and_the_request_keeps_the_passes(run, model):
    assert run.request["lower"] == "masked"
    assert [run.request["how"][level]["passes"] for level in "210"] == [0, 3, 2]
    for level, ratio in enumerate((16, 4, 1)):
        codes = run.codes(level)
        assert codes.shape == (2, 68 * ratio) and len(np.unique(codes)) > 8
    assert list(dict.fromkeys(line["start"] for line in run.progress if line["level"] == 1)) == [0, 28 * 4, 36 * 4]


def test_the_same_request_gives_the_same_codes_and_more_passes_or_another_seed_give_others(run, model, tmp_path):
    sampling.replay(run.folder, tmp_path / "again")  # UserError where a code differs
    more = draw(model, tmp_path / "more", passes=(4, 2))
    other = sampling.upsample(run, tmp_path / "other", seed=4)
    for each in (more, other):
        assert np.array_equal(each.codes(2), run.codes(2)) and not np.array_equal(each.codes(1), run.codes(1))
    one_by_one = sampling.upsample(run, tmp_path / "one_by_one", lower="autoregressive", level=1)
    assert one_by_one.request["lower"] == "autoregressive" and one_by_one.count(0) == 68 * 16
    assert other.request["lower"] == "masked" and other.request["how"]["1"]["passes"] == 3


def test_a_window_that_a_kill_left_unwritten_is_drawn_again_to_the_same_codes(run, model, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    calls, true = [], MaskedLevelSampler.draw

    def draw_twice(self, rows, prime, rngs, length):
        calls.append(self.level)
        if len(calls) % 3 == 0:
            raise Killed
        return true(self, rows, prime, rngs, length)

    monkeypatch.setattr(masked_filling.MaskedLevelSampler, "draw", draw_twice)
    with pytest.raises(Killed):
        draw(model, tmp_path / "b")
    for _ in range(5):
        try:
            again = sampling.resume(Run.open(tmp_path / "b"))
        except Killed:
            continue
        break
    assert len(calls) > 6
    assert_same(run, again)


def test_a_run_of_the_top_level_goes_on_masked_in_its_own_folder(run, model, tmp_path):
    top = sampling.sample(model, [SONG, Song()], SECONDS, tmp_path / "top", seed=3, levels=(2,))
    whole = sampling.upsample(top, lower="masked", passes=(3, 2))
    assert_same(run, whole)
    with pytest.raises(UserError, match="make a copy"):
        sampling.upsample(whole, lower="autoregressive")


def test_what_is_given_of_every_level_is_kept_and_heard(run, model, tmp_path):
    def go_on(out, source):
        return sampling.continue_(model, [SONG], [source], 0.1, SECONDS, out, seed=5, lower="masked", passes=(2, 2))

    a = go_on(tmp_path / "a", run.folder)
    for level, ratio in enumerate((16, 4, 1)):
        given = 0.1 * 22050 // 128 * ratio
        assert a.request["given"][str(level)] == given
        assert np.array_equal(a.codes(level, stop=int(given)), run.codes(level, stop=int(given)))


def test_what_cannot_be_is_said_in_one_line(model, tiny_model, tmp_path):
    for wish, said in (
        ({"lower": "masked", "parallel": True}, "parallel"), ({"lower": "masked", "passes": (3,)}, "2 numbers"),
        ({"lower": "masked", "passes": (3, 0)}, "2 numbers"), ({"passes": (3, 2)}, "--lower masked"), ({"lower": "both"}, "expected"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            sampled(ModelInfo.read(model.folder), [SONG], 1.0, SamplingOptions(**wish))
    with pytest.raises(UserError, match="train masked"):
        sampled(ModelInfo.read(tiny_model.folder), [SONG], 1.0, SamplingOptions(lower="masked"))


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if "masked" in preset.priors])
def test_a_masked_prior_is_counted_as_it_is_built(name):
    config = PRESETS[name].priors["masked"].for_corpus(3, 4)
    state, counted = hollow(config).state_dict(), config.parameters()
    assert counted.all == sum(t.numel() for t in state.values())
    assert counted.norms == sum(t.numel() for n, t in state.items() if is_norm(n))
    assert counted.table == state["heads.0.out.w"].numel()


def test_a_plan_counts_the_passes_of_masked_levels(run):
    plan = plan_sampling(ModelInfo.read(run.request["model"]), {**run.request, "device": "cpu", "dtype": "float32"})
    assert {level.level: level.steps for level in plan.levels if level.level < 2} == {1: 3 * 3, 0: 3 * 2}
    assert all(level.parts["cache"] == 0 and level.parts["weights"] > 0 for level in plan.levels if level.level < 2)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux what was resident")
def test_a_pass_takes_about_the_memory_that_is_planned():
    """A wide prior over long windows, in a process of its own; logits of all codes at once alone would take ten times that."""
    code = """if True:
        import torch
        from launch.bench.upsample import Shape, masked_of
        from launch.bench.alternate import forget_peak, peak_mb
        from priors.conditioning.conditions import Conditions
        from priors.spec import SamplingParams
        torch.set_num_threads(1)

        def fill(prior, columns, rows):
            ratios = {"vq.0": 16, "vq.1": 4, "vq.2": 1}
            codes = {name: torch.zeros(rows, columns * ratio, dtype=torch.long) for name, ratio in ratios.items()}
            keep = {name: torch.full_like(x, name == "vq.2", dtype=torch.bool) for name, x in codes.items()}
            rngs = [torch.Generator() for _ in range(rows)]
            prior.fill(codes, keep, Conditions(), rngs, dict.fromkeys(("vq.1", "vq.0"), SamplingParams(passes=1)))

        fill(masked_of(Shape(64, "float32", columns=16)), 16, 1)  # what torch takes the first time
        prior, rows, columns = masked_of(Shape(512, "float32", columns=256, depth=1)), 8, 256
        before = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 2**10
        forget_peak()
        fill(prior, columns, rows)
        print(peak_mb() - before, prior.config.pass_bytes("vq.0", rows, columns, 4) / 2**20)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env, check=True)
    seen, planned = map(float, told.stdout.split())
    assert 0.5 < planned / seen < 2, (seen, planned)
