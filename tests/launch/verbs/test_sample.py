"""The verbs that make music, as processes: what lies on disk when, kills at any moment, and ranks that share a run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox.sampling import walk as sampling
from jukebox.sampling.run import Run
from jukebox.song import Song
from launch.cli import main
from launch.cluster.ranks import rank_and_ranks

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def same(a: Run, b: Run) -> bool:
    return all(np.array_equal(a.codes(level), b.codes(level)) for level in a.request["levels"])


def whole(run: Run) -> bool:
    return all(run.count(level) == run.total(level) for level in run.request["levels"])


def test_the_request_is_on_disk_before_torch_is_imported_and_is_enough_to_resume(tiny_model, tmp_path):
    """Each command is stopped the moment its run.json is there."""
    song = tmp_path / "song.npz"
    tones = np.zeros(40, np.uint16)
    np.savez(
        song,
        level_2=tones,
        level_1=np.repeat(tones, 4),
        level_0=np.repeat(tones, 16),
        sample_rate=22050,
        samples=5120,
        codec="",
    )
    model, commands = str(tiny_model.folder), []
    commands.append(
        ["sample", model, "--seconds", "0.05", "--levels", "2", "--artist", "ann", "--lyrics", str(tmp_path / "words.txt")]
    )
    commands.append(
        ["continue", model, str(song), "--prompt_seconds", "0.1", "--seconds", "0.2", "--levels", "2", "--takes", "2"]
    )
    (tmp_path / "words.txt").write_text("la la", encoding="utf-8")
    for command in commands:
        out = tmp_path / command[0]
        code = f"""if True:
            import os, sys
            from jukebox.sampling import run
            create = run.Run.create
            def stop(*args, **more):
                create(*args, **more)
                print("torch" in sys.modules, flush=True)
                os.kill(os.getpid(), {signal.SIGKILL})
            run.Run.create = stop
            from launch.cli import main
            main({[*command, "--out", str(out)]!r})
        """
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=ENV)
        assert (result.stdout, result.returncode) == ("False\n", -signal.SIGKILL), result.stderr
        assert main(["resume", str(out)]) == 0 and whole(Run.open(out))
        assert main(["resume", str(out)]) == 0  # a finished run has nothing to do


def test_a_song_is_continued_in_takes_and_goes_on_from_the_chosen_one(tiny_model, tmp_path, capsys):
    """What a person types: takes, a branch from one of them, a replay, the finer levels."""
    run, more = tmp_path / "takes", tmp_path / "more"
    assert main(["sample", str(tiny_model.folder), "--seconds", "0.1", "--takes", "3", "--levels", "2", "--out", str(run)]) == 0
    assert f"jukebox branch {run} --take N" in capsys.readouterr().out
    assert main(["branch", str(run), "--take", "2", "--seconds", "0.2", "--out", str(more)]) == 0
    kept = Run.open(run).codes(2, [1])
    assert np.array_equal(Run.open(more).codes(2, stop=kept.shape[1]), kept)
    assert main(["upsample", str(more), "--out", str(tmp_path / "fine"), "--seed", "3", "--parallel"]) == 0
    assert "level 0: spectral flux where windows join is" in capsys.readouterr().out
    assert main(["replay", str(tmp_path / "fine")]) == 0
    assert "level 0: the same" in capsys.readouterr().out
    assert same(Run.open(tmp_path / "fine"), Run.open(tmp_path / "fine_replay"))
    assert main(["sample", str(tiny_model.folder), "--out", str(run)]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_run_whose_folder_is_not_named_gets_one_that_nothing_is_in(tiny_model, tmp_path, capsys, monkeypatch):
    """Made where the person is, or beside what it comes from; told before the first code, numbered, resumed like any other."""
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model.folder)
    words = ["--seconds", "0.05", "--levels", "2"]
    for name in ("song", "song_2"):
        assert main(["sample", model, *words]) == 0
        assert capsys.readouterr().out.startswith(f"into the run folder {name}\n") and whole(Run.open(tmp_path / name))
    assert main(["continue", model, "song", "--prompt_seconds", "0.03", "--takes", "3", *words]) == 0
    assert main(["branch", "song_continued", "--take", "3", "--seconds", "0.1"]) == 0
    assert main(["replay", "song_continued_branch"]) == 0
    capsys.readouterr()
    names = ("song_continued", "song_continued_branch", "song_continued_branch_replay")
    assert [Run.open(tmp_path / name).n_samples for name in names] == [3, 1, 1]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sample", model, *words]) == 2
    assert "its folder needs a name: give --out" in capsys.readouterr().err and not (tmp_path / "song_3").exists()


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, (0, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, (5, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script: one process, alone
    ],
)
def test_ranks_come_from_the_environment(environ, expected):
    assert rank_and_ranks(environ) == expected


@pytest.mark.parametrize("environ", [{"RANK": "4", "WORLD_SIZE": "4"}, {"PMI_RANK": "x", "PMI_SIZE": "2"}])
def test_a_rank_that_cannot_be_is_refused(environ):
    with pytest.raises(UserError, match="torchrun, mpirun or srun"):
        rank_and_ranks(environ)


def process(*words: object, **environ: str) -> subprocess.Popen:
    """A command that writes codes every 8, with STATES their states too, and not too fast, so that kills find windows half done."""
    code = f"""if True:
        import os, sys, time
        from launch.cli import main
        import priors.autoregressive.model as p, jukebox.sampling.sampler as f, jukebox.sampling.window_checkpoint as h
        plain = p.AutoregressivePrior.sample
        def sample(self, state, length):
            for part in plain(self, state, length, 8):
                time.sleep(0.004)
                yield part
        p.AutoregressivePrior.sample = sample
        f.EVERY = 0.0
        if "STATES" in os.environ:
            h.EVERY, h.RATE = 0.0, float("inf")
        f.write_page = lambda folder: None
        sys.exit(main({[str(word) for word in words]!r}))
    """
    return subprocess.Popen([sys.executable, "-c", code], env=ENV | environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(run: Path) -> list[dict]:
    path = run / "progress.jsonl"
    data = path.read_bytes() if path.is_file() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


@pytest.mark.long
def test_a_run_killed_at_20_random_moments_has_the_codes_of_an_uninterrupted_one(tiny_model, tmp_path):
    """SIGKILL, spread over all levels and over the start of the process, and a resume after each."""
    chance, song = random.Random(0), Song("ann", ("rock",), "la la la\nli li")
    reference = sampling.sample(tiny_model, [song, Song()], 1.0, tmp_path / "whole", seed=3)
    asked, out = {**reference.request}, tmp_path / "run"
    run = Run.create(out, {k: v for k, v in asked.items() if k != "model_hash"})
    full, kills, half_done = sum(2 * run.total(level) for level in (2, 1, 0)), [], 0
    ends = {(line["level"], line["codes_total"]) for line in reference.progress}  # of windows
    for kill in range(20):
        target = full * (kill + chance.random()) / 20
        child, began = process("resume", out, **({"STATES": "1"} if kill % 3 else {})), time.monotonic()
        while child.poll() is None and time.monotonic() - began < (chance.uniform(0.1, 2.0) if kill % 5 == 4 else 300):
            done = lines(out)
            beyond = sum(line["rows"] * len(line["samples"]) for line in done) > target
            if beyond and (kill % 2 or (done[-1]["level"], done[-1]["codes_total"]) not in ends):  # half of them in a window
                time.sleep(chance.random() * 0.01 if kill % 2 else 0.0)
                break
            time.sleep(0.002)
        child.kill()
        child.wait()
        assert child.returncode == -signal.SIGKILL, child.stderr.read().decode() if child.stderr else ""
        done = lines(out)
        kills.append(done[-1]["level"] if done else 2)
        half_done += bool(done) and (done[-1]["level"], done[-1]["codes_total"]) not in ends
    assert set(kills) == {2, 1, 0} and half_done >= 5, (kills, half_done)
    last = process("resume", out)
    assert last.wait(timeout=300) == 0
    assert same(reference, Run.open(out)) and whole(Run.open(out))
    for path in (reference.folder / "audio").iterdir():
        assert path.read_bytes() == (out / "audio" / path.name).read_bytes()
    assert main(["resume", str(out)]) == 0


@pytest.mark.long
def test_a_process_killed_anywhere_in_its_start_leaves_nothing_or_a_run_that_resumes(tiny_model, tmp_path):
    for i, moment in enumerate(np.linspace(0.1, 3.0, 8)):
        out = tmp_path / str(i)
        child = process("sample", tiny_model.folder, "--seconds", "0.05", "--levels", "2", "--out", out)
        time.sleep(moment)
        child.kill()
        child.wait()
        if (out / "run.json").exists():
            assert main(["resume", str(out)]) == 0 and whole(Run.open(out))


@pytest.mark.long
def test_ranks_share_the_samples_of_a_run_and_one_process_finishes_a_lost_share(tiny_model, tmp_path):
    words = ["sample", str(tiny_model.folder), "--seconds", "0.4", "--takes", "4", "--seed", "5"]
    shared, cut = tmp_path / "shared", tmp_path / "cut"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python"]
    command = [*torchrun, sys.executable, "-m", "launch.cli", *words, "--out", str(shared)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENV)
    assert result.returncode == 0, result.stderr
    made = Run.open(shared)
    assert whole(made) and made.request["batches"] == [[0, 2], [1, 3]]
    drawn = sum(line["rows"] * len(line["samples"]) for line in made.progress)
    assert drawn == 4 * sum(made.total(level) for level in (2, 1, 0))  # no code was drawn twice

    ranks = [process(*words, "--out", cut, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    while not any(line["samples"] == [1, 3] and line["level"] == 1 for line in lines(cut)):
        assert ranks[1].poll() is None
        time.sleep(0.01)
    ranks[1].kill()
    assert ranks[0].wait(timeout=300) == 0
    left = Run.open(cut)
    assert left.count(0, [0, 2]) == left.total(0) and left.count(0, [1, 3]) < left.total(0)
    assert main(["resume", str(cut)]) == 0
    assert whole(Run.open(cut)) and same(made, Run.open(cut))
