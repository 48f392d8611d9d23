"""Runs whose folder or model has moved, and runs of an earlier version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.model.folder import ModelFolder
from jukebox.params import SamplingOptions
from jukebox.runs import request
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import walk
from jukebox.song import Song
from launch.cli import main
from tests.conftest import make_model
from tests.jukebox.sampling.models import with_masked_prior
from tests.runs import sample, settings_of

SONG = Song("ann", ("rock",), "la la la\nli li")
UNCHANGED = Path(__file__).parents[2] / "unchanged" / "runs"


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


def begin(request: dict, out: Path, updates: int) -> Run:
    """A run that was interrupted at its update number `updates`."""
    count = iter(range(10**6))

    def report(written):
        if next(count) == updates:
            raise Interrupted

    with pytest.raises(Interrupted):
        walk.resume(Run.create(out, request), report=report)
    return Run.open(out)


def assert_same(a: Run, b: Run) -> None:
    for level in a.request["levels"]:
        assert a.count(level) == a.total(level) and np.array_equal(a.codes(level), b.codes(level)), level


# ---- moved


@pytest.fixture
def home(tiny_model, tmp_path) -> Path:
    """A folder with a model and a recording."""
    shutil.copytree(tiny_model.folder, tmp_path / "home" / "model")
    t = np.arange(22050) / 22050
    write_wav(
        tmp_path / "home" / "tune.wav", (0.3 * np.sin(2 * np.pi * 220 * t * (1 + 0.2 * t)))[None].astype(np.float32), 22050
    )
    return tmp_path / "home"


def continuation(home: Path, out: Path, updates: int) -> Run:
    model = Jukebox.from_pretrained(home / "model")
    settings = settings_of(model, seed=3, levels=(2, 1))
    return begin(request.continued(model.info, [SONG], [home / "tune.wav"], 0.1, 0.3, settings), out, updates)


def test_paths_in_run_json_are_relative_to_its_folder(home):
    run = continuation(home, home / "runs" / "a", 2)
    written = json.loads((run.folder / "run.json").read_text())
    assert written["model"] == "../../model" and written["sources"] == [["../../tune.wav", 0]]
    assert run.request["model"] == str(home / "model") and run.request["sources"] == [[str(home / "tune.wav"), 0]]


@pytest.mark.parametrize("updates", [0, 2, 5])
def test_a_folder_with_model_recording_and_run_that_was_moved_resumes_to_the_same_codes(home, tmp_path, updates):
    whole = walk.resume(continuation(home, tmp_path / "whole", 0))
    continuation(home, home / "run", updates)
    moved = tmp_path / "elsewhere" / "home"
    moved.parent.mkdir()
    home.rename(moved)
    run = walk.resume(Run.open(moved / "run"))
    assert_same(whole, run)
    assert run.request["model"] == str(moved / "model") and run.request["sources"] == [[str(moved / "tune.wav"), 0]]
    branch = walk.branch(run, moved / "branch", RunSettings(), keep_seconds=0.2)
    assert json.loads((branch.folder / "run.json").read_text())["sources"] == [["../run", 0]]
    again = tmp_path / "again"
    moved.rename(again)
    assert_same(Run.open(again / "branch"), walk.replay(again / "branch", again / "replay"))


def test_paths_with_nothing_but_the_root_in_common_stay_absolute(tiny_model, tmp_path):
    run = Run.create(
        tmp_path / "run", request.sampled(tiny_model.info, [SONG], 0.1, settings_of(tiny_model)) | {"model": "/other/model"}
    )
    assert json.loads((run.folder / "run.json").read_text())["model"] == "/other/model"
    assert Run.open(run.folder).request["model"] == "/other/model"


@pytest.fixture
def apart(home, tmp_path) -> tuple[Path, Path, Path]:
    """An interrupted run, a finished one, and their model, which has moved alone."""
    model = Jukebox.from_pretrained(home / "model")
    asked = request.sampled(model.info, [SONG], 0.3, settings_of(model, levels=(2,)))
    whole = walk.resume(Run.create(tmp_path / "whole", asked))
    part = begin(asked, tmp_path / "part", 1)
    assert whole.count(2) == whole.total(2) > part.count(2) > 0
    (home / "model").rename(tmp_path / "moved")
    return part.folder, whole.folder, tmp_path / "moved"


def test_a_run_whose_model_has_moved_is_resumed_with_its_new_place_and_keeps_it(apart, capsys):
    part, whole, model = apart
    assert main(["resume", str(part)]) == 2
    printed = capsys.readouterr().err
    assert "expected a model folder" in printed and printed.count("\n") == 1
    assert main(["resume", str(part), "--model", str(model)]) == 0
    assert_same(Run.open(whole), Run.open(part))
    assert Run.open(part).request["model"] == str(model)
    assert main(["resume", str(part)]) == 0


@pytest.mark.parametrize("verb", [["branch", "--keep_seconds", "0.1"], ["upsample"], ["replay"]], ids=lambda words: words[0])
def test_branch_upsample_and_replay_take_the_new_place_of_a_model(apart, verb, tmp_path, capsys):
    _, whole, model = apart
    command, out = [verb[0], str(whole), *verb[1:]], tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 2 and not out.exists()
    printed = capsys.readouterr().err
    assert "expected a model folder" in printed and printed.count("\n") == 1
    assert main([*command, "--out", str(out), "--model", str(model)]) == 0
    run = Run.open(out)
    assert run.request["model"] == str(model) and all(run.count(level) == run.total(level) for level in run.request["levels"])


def test_a_run_is_completed_in_its_own_folder_with_the_new_place_of_its_model(apart):
    _, whole, model = apart
    assert main(["upsample", str(whole), "--model", str(model)]) == 0
    run = Run.open(whole)
    assert run.request["levels"] == [2, 1, 0] and run.count(0) == run.total(0) and run.request["model"] == str(model)


def test_a_branch_takes_the_new_place_of_a_model_and_leaves_the_run_as_it_is(apart, tmp_path):
    _, whole, model = apart
    before = (whole / "run.json").read_bytes()
    words = ["branch", str(whole), "--keep_seconds", "0.1", "--model", str(model), "--out", str(tmp_path / "out")]
    assert main(words) == 0 and (whole / "run.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["resume", "branch", "upsample", "replay"])
def test_a_model_with_other_weights_is_one_line(apart, verb, tmp_path, capsys):
    part, whole, model = apart
    other = ModelFolder.from_pretrained(model)
    prior = other.prior("prior_2")
    prior.requires_grad_(False)
    prior.x_emb.weight.add_(1)
    other.save_prior("prior_2", prior)
    folder, out = (part if verb == "resume" else whole), tmp_path / "out"
    before = (folder / "run.json").read_bytes()
    flags = [] if verb == "resume" else ["--out", str(out)]
    flags += ["--keep_seconds", "0.1"] if verb == "branch" else []
    assert main([verb, str(folder), "--model", str(model), *flags]) == 2
    printed = capsys.readouterr().err
    assert f"prior_2.safetensors of {model} changed since this run was sampled" in printed and printed.count("\n") == 1
    assert not out.exists() and (folder / "run.json").read_bytes() == before


# ---- version 2


def test_completing_a_run_with_another_model_leaves_its_request_as_it_is(home, tmp_path, capsys):
    model, other = Jukebox.from_pretrained(home / "model"), make_model(tmp_path / "other", spread=0.3)
    run = walk.resume(
        Run.create(home / "run", request.sampled(model.info, [SONG], 0.1, settings_of(model, levels=(2,)))), model
    )
    before = (run.folder / "run.json").read_bytes()
    assert main(["upsample", str(run.folder), "--model", str(other.folder)]) == 2
    assert "changed since this run was sampled" in capsys.readouterr().err
    assert (run.folder / "run.json").read_bytes() == before


def as_version_2(folder: Path, streams: bool = False) -> None:
    """Make run.json one of version 2, absolute paths and all; the first of these did not specify their streams."""
    asked = Run.open(folder).request
    route, params = asked["route"], asked.pop("params")
    for name in ("route", "priors", "planners", "noise", *(() if streams else ("streams",))):
        asked.pop(name)
    every = {"temperature": 1.0, "top_k": 0, "top_p": 0.0, "guidance": 1.0, "passes": 0, "noise": 4.5, "published": False}
    asked["how"] = {str(level): every | params.get(str(level), {}) for level in range(len(asked["hops"]))}
    asked |= {"version": 2, "lower": {"jukebox": "autoregressive", "masked": "masked"}[route]}
    (folder / "run.json").write_text(json.dumps(asked))


@pytest.fixture(scope="module")
def masked(tiny_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(tiny_model, tmp_path_factory.mktemp("masked") / "model")


def test_a_committed_request_of_version_2_becomes_one_of_version_3():
    for name, route, priors, params in (
        ("finished", "jukebox", {"2": "prior_2", "1": "prior_1", "0": "prior_0"}, {"guidance", "published"}),
        ("masked", "masked", {"2": "prior_2", "1": "masked", "0": "masked"}, {"passes", "noise"}),
    ):
        old = json.loads((UNCHANGED / name / "run.json").read_text())
        assert old["version"] == 2 and "route" not in old
        new = Run.open(UNCHANGED / name).request
        assert (new["version"], new["route"], new["priors"]) == (3, route, priors)
        assert set(new["params"]["0"]) == {"temperature", "top_k", "top_p"} | params
        assert set(new["params"]["2"]) == {"temperature", "top_k", "top_p", "guidance", "published"}
        assert all(
            new["params"][level][k] == v for level in "210" for k, v in old["how"][level].items() if k in new["params"][level]
        )
        assert "how" not in new and "lower" not in new
        assert {k for k in old if k not in ("version", "how", "lower", "model", "sources")} == {
            k for k in old if k in new and k not in ("version", "model", "sources") and old[k] == new[k]
        }  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"levels": (2, 1)}, {"route": "masked", "passes": (3, 2)}, {"parallel": True, "levels": (2, 1)}]
)
@pytest.mark.parametrize("streams", [True, False])
def test_a_run_of_version_2_resumes_replays_and_branches_to_the_same_codes(masked, tmp_path, options, streams):
    chosen = {"seed": 3, **options}
    whole = sample(masked, [SONG, SONG], 0.3, tmp_path / "whole", **chosen)
    begin(request.sampled(masked.info, [SONG, SONG], 0.3, settings_of(masked, **chosen)), tmp_path / "part", 3)
    settings = RunSettings(SamplingOptions())
    branch = walk.branch(whole, tmp_path / "branch", settings, keep_seconds=0.1)
    for name in ("whole", "part"):
        as_version_2(tmp_path / name, streams)
    old, part = Run.open(whole.folder), Run.open(tmp_path / "part")
    assert ("streams" in old.request) == streams and "planners" not in old.request
    assert 0 < part.count(2) and part.count(1) < part.total(1)
    for level, stream in enumerate(masked.spec.streams):
        assert (old.stream(level).name, old.stream(level).key) == (stream.name, stream.key)
        assert old.codes_path(level, 0) == whole.codes_path(level, 0) and old.frame_bytes(level) == 2
    made = walk.resume(part)
    assert_same(whole, made)
    assert_same(whole, walk.replay(old.folder, tmp_path / "again"))
    assert_same(branch, walk.branch(old, tmp_path / "old_branch", settings, keep_seconds=0.1))
    written = json.loads((made.folder / "run.json").read_text())
    assert written["version"] == 3 and written["planners"] == whole.request["planners"]
    assert written["params"]["1"] == whole.request["params"]["1"]


def test_a_run_of_version_2_of_one_trained_level_is_branched(tiny_model, tmp_path):
    """Version 2 recorded parameters of all levels, of priors that the model does not have, too."""
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["priors"] = [prior for prior in config["priors"] if prior["name"] == "prior_2"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    model = Jukebox.from_pretrained(tmp_path / "model")
    run = sample(model, [SONG], 0.1, tmp_path / "run", levels=(2,))
    as_version_2(run.folder)
    branch = walk.branch(Run.open(run.folder), tmp_path / "branch", RunSettings(), keep_seconds=0.05)
    assert branch.request["params"] == run.request["params"] and branch.count(2) == branch.total(2)


def test_a_version_that_is_not_known_is_one_line(tiny_model, tmp_path):
    run = sample(tiny_model, [SONG], 0.05, tmp_path / "run", levels=(2,))
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    with pytest.raises(UserError, match="run.json is of version 4, this program writes 3: sample it again"):
        Run.open(run.folder)
