"""Levels written by masked decoding: the walk of every level, windows whole, passes in the request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.model.folder import hollow, is_norm
from jukebox.model.presets import PRESETS
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from jukebox.planning.sampling import plan_sampling
from jukebox.runs.request import RunSettings, sampled
from jukebox.runs.run import Run
from jukebox.sampling import sampler, walk, window_checkpoint
from jukebox.song import PreparedSong, Song, window_conditions
from priors.conditioning.conditions import stack
from priors.masked.config import MaskedParams
from priors.masked.model import MaskedPrior
from priors.noise import Generators, generator
from priors.prior import Known, Window, sample_window
from tests import runs
from tests.jukebox.sampling.models import with_masked_prior

SONG = Song("ann", ("rock",), "la la la\nli li")
SECONDS = 0.4  # 68 columns; a window has 32, of which 4 are known from the one before
RATIOS = (16, 4, 1)  # frames of a column, by level


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(tiny_model, tmp_path_factory.mktemp("masked") / "model")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def sample(model, out, **options) -> Run:
    return runs.sample(model, [SONG, Song()], SECONDS, out, **{"seed": 3, "route": "masked", "passes": (3, 2), **options})


def by_route(route: str = "", lower: str = "", passes: tuple[int, ...] = ()) -> RunSettings:
    return RunSettings(SamplingOptions(route=route, lower=lower), SamplingParams(passes=passes) if passes else None)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Run:
    return sample(model, tmp_path_factory.mktemp("run") / "a")


def assert_same(a: Run, b: Run) -> None:
    for level in a.request["levels"]:
        assert np.array_equal(a.codes(level), b.codes(level)), f"level {level} differs"


def test_a_model_folder_names_the_masked_prior_beside_those_of_a_level_and_returns_it(model, tiny_model):
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


def test_every_level_comes_to_its_length_and_the_request_keeps_the_passes(run):
    assert run.request["route"] == "masked" and run.request["priors"] == {"2": "prior_2", "1": "masked", "0": "masked"}
    assert [run.request["params"][level].get("passes") for level in "210"] == [None, 3, 2]
    for level, ratio in enumerate(RATIOS):
        codes = run.codes(level)
        assert codes.shape == (2, 68 * ratio) and len(np.unique(codes)) > 8
    assert list(dict.fromkeys(line["start"] for line in run.progress if line["level"] == 1)) == [0, 28 * 4, 36 * 4]


def test_a_window_is_conditioned_on_the_codes_above_and_on_its_overlap_with_the_one_before(run, model, monkeypatch):
    """Of its own stream a window knows what the one before has written in the overlap, of coarser ones all, of finer ones nothing."""
    begun, plain = [], MaskedPrior.start

    def start(self, window, known, *more):
        begun.append((window, {stream: mask.sum(dim=1).tolist() for stream, mask in known.mask.items()}))
        return plain(self, window, known, *more)

    monkeypatch.setattr(MaskedPrior, "start", start)
    walk.upsample(run, run.folder.with_name("again"), level=2)
    windows = [Window(0, 32, 68), Window(28, 32, 68), Window(36, 32, 68)]
    assert [window for window, _ in begun] == windows * 2
    overlaps = [0, 4, 24]  # columns; the last window begins earlier, to end with the level
    level_1 = [{"vq.2": [32, 32], "vq.1": [4 * n, 4 * n], "vq.0": [0, 0]} for n in overlaps]
    level_0 = [{"vq.2": [32, 32], "vq.1": [128, 128], "vq.0": [16 * n, 16 * n]} for n in overlaps]
    assert [known for _, known in begun] == level_1 + level_0


def test_inside_one_window_a_level_is_the_prior_sampled_once(model, tmp_path):
    """The frames of a level of one window are those that the prior returns for the codes above, without the walk."""
    run = runs.sample(model, [Song()], 0.18, tmp_path / "run", seed=2, route="masked", passes=(3, 2))
    columns = run.total(2)
    assert columns <= 32
    prior = model.prior("masked")
    song = Song(seconds=run.request["total_seconds"]).placed(model.labels)
    prepared = PreparedSong.of(song, model.labels, model.vocabulary, model.sample_rate)
    cond = stack([window_conditions(prepared, prior.config, 0, None)])
    for level, passes in ((1, 3), (0, 2)):
        codes = {f"vq.{i}": torch.from_numpy(run.codes(i).astype(np.int64)) for i in range(3)}
        known = {stream: torch.full_like(x, int(stream[-1]) > level, dtype=torch.bool) for stream, x in codes.items()}
        noise, params = Generators([generator(2, 0, level, 0)]), {f"vq.{level}": MaskedParams(passes=passes)}
        made = sample_window(prior, Window(0, columns, columns), Known(codes, known), cond, noise, params)
        assert np.array_equal(made[f"vq.{level}"][0].numpy(), run.codes(level)[0])


def test_the_same_request_gives_the_same_codes_and_more_passes_or_another_seed_give_others(run, model, tmp_path):
    walk.replay(run.folder, tmp_path / "again")  # UserError where a code differs
    more = sample(model, tmp_path / "more", passes=(4, 2))
    other = walk.upsample(run, tmp_path / "other", seed=4)
    for each in (more, other):
        assert np.array_equal(each.codes(2), run.codes(2)) and not np.array_equal(each.codes(1), run.codes(1))
    autoregressive = walk.upsample(run, tmp_path / "autoregressive", by_route("jukebox"), level=1)
    assert autoregressive.request["route"] == "jukebox" and autoregressive.count(0) == 68 * 16
    assert autoregressive.request["priors"]["0"] == "prior_0" and np.array_equal(autoregressive.codes(1), run.codes(1))
    assert other.request["route"] == "masked" and other.request["params"]["1"]["passes"] == 3


class Killed(Exception):
    pass


def kill_every(monkeypatch, updates: int) -> list[int]:
    """From now on the process dies at every n-th update of a masked prior; the passes of each level that it came to."""
    passes, plain = [], MaskedPrior._pass

    def run_pass(self, stream, state):
        plain(self, stream, state)
        passes.append(int(stream[-1]))
        if len(passes) % updates == 0:
            raise Killed

    monkeypatch.setattr(MaskedPrior, "_pass", run_pass)
    return passes


def resume_until_done(folder: Path) -> Run:
    for _ in range(100):
        try:
            return walk.resume(Run.open(folder))
        except Killed:
            continue
    raise AssertionError(f"{folder} does not get on")


def test_a_window_that_a_kill_left_unwritten_is_sampled_again_to_the_same_codes(run, model, tmp_path, monkeypatch):
    """Without saved states every window is sampled from its beginning: a process must come through one window at least."""
    passes = kill_every(monkeypatch, 5)
    with pytest.raises(Killed):
        sample(model, tmp_path / "b")
    assert_same(run, resume_until_done(tmp_path / "b"))
    assert len(passes) > 3 * 3 + 3 * 2  # windows times passes, of both levels


def test_with_saved_states_a_window_killed_after_every_pass_goes_on_from_it(run, model, tmp_path, monkeypatch):
    for module, name, value in (
        (window_checkpoint, "EVERY", 0.0),
        (window_checkpoint, "RATE", torch.inf),
        (sampler, "EVERY", 0.0),
    ):
        monkeypatch.setattr(module, name, value)
    keep, passes, plain = window_checkpoint.WindowCheckpoint.save, [], MaskedPrior._pass

    def keep_and_die(self, frames):
        keep(self, frames)
        raise Killed

    def count_pass(self, stream, state):
        plain(self, stream, state)
        passes.append(int(stream[-1]))

    top = sample(model, tmp_path / "b", levels=(2,))
    monkeypatch.setattr(window_checkpoint.WindowCheckpoint, "save", keep_and_die)
    monkeypatch.setattr(MaskedPrior, "_pass", count_pass)
    with pytest.raises(Killed):
        walk.upsample(top, settings=by_route("masked", passes=(3, 2)))
    assert_same(run, resume_until_done(tmp_path / "b"))
    assert (passes.count(1), passes.count(0)) == (3 * 3, 3 * 2)  # no pass was made twice
    assert not (tmp_path / "b" / "states").exists()


def test_a_run_of_the_top_level_goes_on_masked_in_its_own_folder(run, model, tmp_path):
    top = runs.sample(model, [SONG, Song()], SECONDS, tmp_path / "top", seed=3, levels=(2,))
    whole = walk.upsample(top, settings=by_route(lower="masked", passes=(3, 2)))
    assert_same(run, whole)
    with pytest.raises(UserError, match="make a copy"):
        walk.upsample(whole, settings=by_route(lower="autoregressive"))


def test_given_codes_of_every_level_are_kept(run, model, tmp_path):
    settings = {"seed": 5, "route": "masked", "passes": (2, 2)}
    a = runs.continue_(model, [SONG], [run.folder], 0.1, SECONDS, tmp_path / "a", **settings)
    for level, ratio in enumerate(RATIOS):
        given = int(0.1 * 22050 // 128) * ratio
        assert a.request["given"][str(level)] == given and a.count(level) == 68 * ratio
        assert np.array_equal(a.codes(level, stop=given), run.codes(level, stop=given))
        assert not np.array_equal(a.codes(level)[:, given:], run.codes(level)[:, given:])


def test_what_a_route_cannot_do_is_one_line(model, tiny_model):
    masked = SamplingOptions(route="masked")
    for settings, message in (
        (RunSettings(masked, None, MachineOptions(parallel=True)), "--parallel is for autoregressive levels"),
        (RunSettings(masked, SamplingParams(passes=(3,))), "2 numbers"),
        (RunSettings(masked, SamplingParams(passes=(3, 0))), "2 numbers"),
        (RunSettings(SamplingOptions(), SamplingParams(passes=(3, 2))), "no prior of this route has --passes"),
        (RunSettings(SamplingOptions(lower="both")), "expected one of autoregressive, masked"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match=message) as error:
            sampled(model.info, [SONG], 1.0, settings)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="train masked"):
        sampled(tiny_model.info, [SONG], 1.0, RunSettings(masked))


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if "masked" in preset.priors])
def test_a_masked_prior_is_counted_as_it_is_built(name):
    config = PRESETS[name].priors["masked"].for_corpus(3, 4)
    state, counted = hollow(config).state_dict(), config.parameters()
    assert counted.all == sum(t.numel() for t in state.values())
    assert counted.norms == sum(t.numel() for n, t in state.items() if is_norm(n))
    assert counted.table == state["heads.0.out.w"].numel()


def test_a_plan_counts_the_passes_of_masked_levels(run, model):
    plan = plan_sampling(model.info, {**run.request, "device": "cpu", "dtype": "float32"})
    assert {level.level: level.steps for level in plan.levels if level.level < 2} == {1: 3 * 3, 0: 3 * 2}
    assert all(level.parts["cache"] == 0 and level.parts["weights"] > 0 for level in plan.levels if level.level < 2)


def test_a_plan_for_a_gpu_counts_its_larger_blocks_of_logits(run, model):
    on_cpu, on_gpu = (
        plan_sampling(model.info, {**run.request, "device": name, "dtype": "float32"}) for name in ("cpu", "cuda")
    )
    for cpu, gpu in zip(on_cpu.levels, on_gpu.levels):
        assert (gpu.parts["activations"] > cpu.parts["activations"]) == (cpu.level < 2)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux what was resident")
def test_a_pass_takes_about_the_memory_that_is_planned():
    """A wide prior over long windows, in a process of its own; logits of all codes at once alone would take ten times that."""
    code = """if True:
        import torch
        from launch.bench.upsample import Shape, masked_of
        from launch.bench.alternate import forget_peak, peak_mb
        from priors.conditioning.conditions import Conditions
        from priors.masked.config import MaskedParams
        from priors.noise import Generators
        from priors.prior import Known, Window, sample_window
        torch.set_num_threads(1)

        def sample(prior, columns, rows):
            ratios = {"vq.0": 16, "vq.1": 4, "vq.2": 1}
            codes = {name: torch.zeros(rows, columns * ratio, dtype=torch.long) for name, ratio in ratios.items()}
            mask = {name: torch.full_like(x, name == "vq.2", dtype=torch.bool) for name, x in codes.items()}
            noise = Generators([torch.Generator() for _ in range(rows)])
            params = dict.fromkeys(("vq.1", "vq.0"), MaskedParams(passes=1))
            sample_window(prior, Window(0, columns, columns), Known(codes, mask), Conditions(), noise, params)

        sample(masked_of(Shape(64, "float32", columns=16)), 16, 1)  # what torch takes the first time
        prior, rows, columns = masked_of(Shape(512, "float32", columns=256, depth=1)), 8, 256
        before = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 2**10
        forget_peak()
        sample(prior, columns, rows)
        print(peak_mb() - before, prior.config.pass_bytes("vq.0", rows, columns, 4) / 2**20)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env, check=True)
    seen, planned = map(float, printed.stdout.split())
    assert 0.5 < planned / seen < 2, (seen, planned)
