"""Checkpoints of windows in progress: a run that is killed again and again gets on, and no file can lead it astray."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jukebox import Jukebox
from jukebox.runs.run import Run
from jukebox.sampling import sampler, walk, window_checkpoint
from jukebox.sampling.window_checkpoint import WindowCheckpoint
from jukebox.song import Song
from priors.autoregressive import model as autoregressive
from priors.autoregressive.config import AutoregressiveParams
from priors.tokens import model as tokens
from priors.tokens.config import FrameParams
from tests.jukebox.sampling.kills import Killed, assert_same, in_blocks
from tests.runs import sample

SONG = Song("ann", ("rock",), "la la la\nli li")
SECONDS = 0.2
BLOCK = 7  # codes that are yielded at once here


@pytest.fixture(autouse=True)
def checkpoint_every_block(monkeypatch):
    """Codes are yielded, written, and states are saved, every 7; no pages."""
    in_blocks(monkeypatch, BLOCK)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    monkeypatch.setattr(window_checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(window_checkpoint, "RATE", torch.inf)
    monkeypatch.setattr(walk, "write_page", lambda folder: None)


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """How many frames have been inputs of a decoding step."""
    count = [0]

    def counted(make):
        def stepper(*given):
            step = make(*given)

            def counting(code):
                count[0] += 1
                return step(code)

            return counting

        return stepper

    for module in (autoregressive, tokens):
        monkeypatch.setattr(module, "stepper", counted(module.stepper))
    return count


def kill_after(monkeypatch, saves: int) -> None:
    """The process dies whenever it has saved `saves` states."""
    keep, saved = WindowCheckpoint.save, [0]

    def kill(self, frames):
        keep(self, frames)
        saved[0] += 1
        if saved[0] % saves == 0:
            raise Killed

    monkeypatch.setattr(WindowCheckpoint, "save", kill)


def cut_short(monkeypatch, model, out: Path, **options) -> Run:
    """A run that was killed in its first window after two blocks, with its state."""
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            sample(model, [SONG], SECONDS, out, **options)
    assert [path.name for path in (out / "states").iterdir()] == ["level_2_sample_0.pt"]
    return Run.open(out)


@pytest.mark.parametrize("saves", [1, 2])
@pytest.mark.parametrize("options", [
    {},
    {"parallel": True},
    {"parallel": True, "batch": 3},
    {"batch": 1, "compile": "on"},
    {"compile": "on", "dtype": "bfloat16"},
    {"compile": "on", "dtype": "int8", "params": {2: AutoregressiveParams(guidance=1.5), 1: AutoregressiveParams(top_k=5)}},
])  # fmt: skip
def test_a_run_killed_more_often_than_a_window_takes_comes_to_the_codes_of_an_uninterrupted_one(
    options, saves, tiny_model, tmp_path, monkeypatch, steps
):
    check_kills(tiny_model, SECONDS, {"seed": 3, "levels": (2, 1), **options}, saves, tmp_path, monkeypatch, steps)


@pytest.mark.parametrize("options", [
    {"compile": "off"},
    {"batch": 1, "compile": "on"},
    {"compile": "on", "dtype": "bfloat16"},
    {"compile": "on", "dtype": "int8", "params": {1: FrameParams(guidance=1.5, top_k=5)}},
])  # fmt: skip
def test_frames_of_several_codes_come_to_those_of_an_uninterrupted_run(options, spectral_model, tmp_path, monkeypatch, steps):
    check_kills(spectral_model, 0.8, {"seed": 3, **options}, 1, tmp_path, monkeypatch, steps)


def check_kills(model: Jukebox, seconds: float, chosen: dict, saves: int, folder: Path, monkeypatch, steps: list[int]) -> None:
    whole = sample(model, [SONG, SONG], seconds, folder / "whole", **chosen)
    at_once, steps[0], kills = steps[0], 0, 0
    kill_after(monkeypatch, saves)
    with pytest.raises(Killed):
        sample(model, [SONG, SONG], seconds, folder / "run", **chosen)
    for kills in range(1, 1000):  # noqa: B007
        try:
            run = walk.resume(Run.open(folder / "run"))
            break
        except Killed:
            continue
    assert_same(run, whole)
    assert kills >= 5 and not (run.folder / "states").exists()
    assert at_once <= steps[0] <= at_once + kills  # at most the last code is an input once more


def test_without_its_state_a_window_is_sampled_from_its_beginning(tiny_model, tmp_path, monkeypatch, steps):
    whole = sample(tiny_model, [SONG], SECONDS, tmp_path / "whole", levels=(2,))
    run, steps[0] = cut_short(monkeypatch, tiny_model, tmp_path / "run", levels=(2,)), 0
    shutil.rmtree(run.folder / "states")
    at_once = len(range(whole.total(2)))
    assert_same(walk.resume(run), whole)
    assert steps[0] > at_once - BLOCK


@pytest.mark.parametrize("harm", ["cut", "changed", "not a state", "nothing"])
def test_a_damaged_state_is_named_and_not_used(harm, tiny_model, tmp_path, monkeypatch, capsys):
    whole = sample(tiny_model, [SONG], SECONDS, tmp_path / "whole", levels=(2,))
    run = cut_short(monkeypatch, tiny_model, tmp_path / "run", levels=(2,))
    path = run.folder / "states" / "level_2_sample_0.pt"
    data = bytearray(path.read_bytes())
    if harm == "changed":  # a number of the caches, where the file is longest
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(byte ^ 0x10 for byte in data[middle : middle + 64])
    path.write_bytes({"cut": data[: len(data) // 2], "not a state": b"state", "nothing": b""}.get(harm, bytes(data)))
    assert_same(walk.resume(run), whole)
    assert f"{path} is damaged" in capsys.readouterr().err


def test_the_state_of_another_run_or_window_is_not_used(tiny_model, tmp_path, monkeypatch):
    whole = sample(tiny_model, [SONG], SECONDS, tmp_path / "whole", levels=(2,), seed=1)
    run = cut_short(monkeypatch, tiny_model, tmp_path / "run", levels=(2,), seed=1)
    other = cut_short(monkeypatch, tiny_model, tmp_path / "other", levels=(2,), seed=2)
    shutil.copy(other.folder / "states" / "level_2_sample_0.pt", run.folder / "states" / "level_2_sample_0.pt")
    assert_same(walk.resume(run), whole)


@pytest.mark.parametrize("failure", ["no room", "full"])
def test_where_there_is_no_room_for_a_state_the_run_goes_on_without(failure, tiny_model, tmp_path, monkeypatch, capsys):
    if failure == "no room":
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
    run = sample(tiny_model, [SONG], SECONDS, tmp_path / "run", levels=(2,))
    assert run.count(2) == run.total(2) and not (run.folder / "states").exists()
    assert ("could not be saved" in capsys.readouterr().err) == (failure == "full")


def test_a_short_window_leaves_no_state(tiny_model, tmp_path, monkeypatch):
    monkeypatch.undo()
    run = sample(tiny_model, [SONG], 0.05, tmp_path / "run", levels=(2,))
    assert not (run.folder / "states").exists()
