"""The verbs of sampling, as processes: what is on disk and when, kills at any moment, and ranks that share a run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from jukebox import Jukebox
from jukebox.runs.request import sampled
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.cli import main
from launch.cluster.ranks import rank_and_ranks
from tests.jukebox.sampling.models import with_masked_prior
from tests.runs import settings_of, top_levels

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def same(a: Run, b: Run) -> bool:
    return all(np.array_equal(a.codes(level), b.codes(level)) for level in a.request["levels"])


def finished(run: Run) -> bool:
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
            from jukebox.runs import run
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
        assert main(["resume", str(out)]) == 0 and finished(Run.open(out))
        assert main(["resume", str(out)]) == 0  # a finished run has nothing to do


def test_a_song_is_continued_in_takes_and_goes_on_from_the_chosen_one(tiny_model, tmp_path, capsys):
    """As the user types it: takes, a branch from one of them, a replay, the finer levels."""
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
    """Made in the current folder, or beside its source; printed before the first code, numbered, resumed like any other."""
    monkeypatch.chdir(tmp_path)
    model = str(tiny_model.folder)
    words = ["--seconds", "0.05", "--levels", "2"]
    for name in ("song", "song_2"):
        assert main(["sample", model, *words]) == 0
        assert capsys.readouterr().out.startswith(f"into the run folder {name}\n") and finished(Run.open(tmp_path / name))
    assert main(["continue", model, "song", "--prompt_seconds", "0.03", "--takes", "3", *words]) == 0
    assert main(["branch", "song_continued", "--take", "3", "--seconds", "0.1"]) == 0
    assert main(["replay", "song_continued_branch"]) == 0
    capsys.readouterr()
    names = ("song_continued", "song_continued_branch", "song_continued_branch_replay")
    assert [Run.open(tmp_path / name).n_samples for name in names] == [3, 1, 1]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sample", model, *words]) == 2
    assert "so that its folder needs a name: give --out" in capsys.readouterr().err and not (tmp_path / "song_3").exists()


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
def test_a_rank_that_cannot_be_raises(environ):
    with pytest.raises(UserError, match="torchrun, mpirun or srun"):
        rank_and_ranks(environ)


# ---- kills

SLOWED = """if True:
    # Codes are yielded every 8, or pass by pass, written at once, with STATES their states too, and not too fast, so that kills find
    # windows in progress. With EVENTS that file gets a line for each block: level, first sample and frame of the window, its progress.
    import json, os, sys, time
    import jukebox.sampling.sampler as sampler, jukebox.sampling.window_checkpoint as checkpoint
    import jukebox.editing.job, jukebox.sampling.walk as walk, launch.verbs.edit, launch.verbs.plan, launch.verbs.sample
    from launch.cli import main
    from priors.autoregressive.model import AutoregressivePrior
    from priors.masked.model import MaskedPrior
    from priors.tokens.model import TokenPrior

    window, values = [], sampler.LevelSampler._values
    def in_window(self, rows, *more):
        window[:] = self.level, *rows[0]
        yield from values(self, rows, *more)
        window.clear()
    sampler.LevelSampler._values = in_window

    def slowed(plain, progress):
        def sample(self, state):
            if window:  # not where speed is measured
                self.block = 8
            for update in plain(self, state):
                if window and (path := os.environ.get("EVENTS")):
                    with open(path, "a") as file:
                        file.write(json.dumps([*window, progress(state)]) + "\\n")
                time.sleep(0.004)
                yield update
        return sample
    AutoregressivePrior.sample = slowed(AutoregressivePrior.sample, lambda state: state.done)
    TokenPrior.sample = slowed(TokenPrior.sample, lambda state: state.done)
    MaskedPrior.sample = slowed(MaskedPrior.sample, lambda state: 1000 * state.turn + state.step)
    walk.write_page = lambda folder: None
    sampler.EVERY = 0.0

    def run(words):
        if "STATES" in os.environ:
            checkpoint.EVERY, checkpoint.RATE = 0.0, float("inf")
        return main(words)

    if sys.argv[1:]:
        sys.exit(run(sys.argv[1:]))
    for line in sys.stdin:  # a server: of each line a process is forked, for which all is imported
        words, environ = json.loads(line)
        if not (child := os.fork()):
            os.environ.update(environ)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(run(words))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def process(*words: object, **environ: str) -> subprocess.Popen:
    """A command whose sampling is slowed."""
    command = [sys.executable, "-c", SLOWED, *map(str, words)]
    return subprocess.Popen(command, env=ENV | environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class ForkServer:
    """Runs commands whose sampling is slowed, each in a process of its own that need not import anything."""

    def __init__(self, log: Path):
        self.log = log
        with log.open("wb") as errors:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SLOWED], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def start(self, words: Sequence[object], **environ: str) -> int:
        """The id of the process of a command."""
        assert self.server.stdin and self.server.stdout
        print(json.dumps([[str(word) for word in words], environ]), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def wait(self) -> int:
        """The exit code of the process that was started last."""
        assert self.server.stdout
        return int(self.server.stdout.readline())

    def stop(self) -> None:
        self.server.kill()
        self.server.wait()


def lines(run: Path) -> list[dict]:
    """The lines of progress.jsonl, without one that is not whole."""
    path = run / "progress.jsonl"
    data = path.read_bytes() if path.is_file() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def events(path: Path) -> list[tuple[int, ...]]:
    """The blocks of a log of EVENTS."""
    data = path.read_bytes() if path.is_file() else b""
    return [tuple(json.loads(line)) for line in data[: data.rfind(b"\n") + 1].splitlines()]


@pytest.fixture(scope="module")
def masked_model(tiny_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(tiny_model, tmp_path_factory.mktemp("masked") / "model")


@pytest.fixture(scope="module")
def masked_frames(spectral_model, tmp_path_factory) -> Jukebox:
    return with_masked_prior(spectral_model, tmp_path_factory.mktemp("frames") / "model")


KINDS = {
    "jukebox": {}, "parallel": {"parallel": True, "batch": 8}, "masked": {"route": "masked", "passes": (6, 4)}, "edit": {},
    "spectral": {"batch": 1}, "spectral edit": {},
}  # fmt: skip


def start_of(kind: str, model: Jukebox, folder: Path) -> tuple[Path, list[str]]:
    """The run folder of a kind of run in `folder`, and the command that makes it where that does not resume a run."""
    if not kind.endswith("edit"):
        settings, seconds = settings_of(model, seed=3, **KINDS[kind]), 5.0 if kind == "spectral" else 1.0
        Run.create(
            folder / "x.run", sampled(model.info, [Song("ann", ("rock",), "la la la\nli li"), Song()], seconds, settings)
        )
        return folder / "x.run", []
    folder.mkdir()
    t = np.arange(2 * 44100) / 44100
    write_wav(folder / "song.wav", np.stack([0.3 * np.sin(2 * np.pi * f * t * (1 + 0.1 * t)) for f in (220, 330)]), 44100)
    passes = "4,4,4" if kind == "edit" else "40"
    flags = ["--start", "0.5", "--end", "1.5", "--takes", "2", "--seed", "3", "--passes", passes, "--threads", "1"]
    return folder / "x.run", ["edit", str(model.folder), str(folder / "song.wav"), "--out", str(folder / "x.wav"), *flags]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_20_random_moments_has_the_codes_of_an_uninterrupted_one(kind, request, tmp_path):
    """SIGKILL, spread over all levels and over the start of the process, and a resume after each."""
    model = request.getfixturevalue("masked_frames" if kind.startswith("spectral") else "masked_model")
    chance, server = random.Random(0), ForkServer(tmp_path / "errors.txt")
    try:
        whole, begin = start_of(kind, model, tmp_path / "whole")
        server.start(begin or ["resume", whole], EVENTS=str(tmp_path / "events"))
        assert server.wait() == 0, server.log.read_text()
        blocks = events(tmp_path / "events")
        place, last = {block: i for i, block in enumerate(blocks)}, {block[:3]: block for block in blocks}
        assert len(place) == len(blocks) > 60

        out, begin = start_of(kind, model, tmp_path / "cut")
        killed_at, in_window = [], {True: 0, False: 0}  # with states, and without
        for kill in range(20):
            words = ["resume", out] if (out / "run.json").exists() else begin
            target, states = int(len(blocks) * (kill + chance.random()) / 20), bool(kill % 3)
            target -= target > 0 and blocks[target] == last[blocks[target][:3]]  # more kills fall inside of a window
            log = tmp_path / f"events_{kill}"
            environ = {"EVENTS": str(log), **({"STATES": "1"} if states else {})}
            importing = kill % 5 == 2  # then it is killed somewhere in its start
            child = process(*words, **environ) if importing else None
            pid, began = child.pid if child else server.start(words, **environ), time.monotonic()
            limit = chance.uniform(0.1, 2.0) if importing else 60.0
            while not ((seen := events(log)) and place[seen[-1]] >= target) and time.monotonic() - began < limit:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.01 if kill % 2 else 0.0)
            os.kill(pid, signal.SIGKILL)
            code = child.wait() if child else server.wait()
            assert code == -signal.SIGKILL, server.log.read_text()
            if seen := events(log):
                killed_at.append(seen[-1][0])
                in_window[states] += seen[-1] != last[seen[-1][:3]]
        assert set(killed_at) == set(Run.open(whole).request["levels"]), killed_at
        assert min(in_window.values()) >= 2, in_window
        server.start(["resume", out])
        assert server.wait() == 0, server.log.read_text()
    finally:
        server.stop()
    reference, run = Run.open(whole), Run.open(out)
    assert finished(reference) and finished(run) and same(reference, run) and run.n_samples == 2
    made = [*whole.glob("audio/*"), *whole.parent.glob("x_*.wav")]  # an edit has its results beside it
    assert made
    for path in made:
        assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(whole.parent)).read_bytes()
    assert not (out / "states").exists() and main(["resume", str(out)]) == 0


@pytest.mark.long
def test_a_process_killed_anywhere_in_its_start_leaves_nothing_or_a_run_that_resumes(tiny_model, tmp_path):
    for i, moment in enumerate(np.linspace(0.1, 3.0, 8)):
        out = tmp_path / str(i)
        child = process("sample", tiny_model.folder, "--seconds", "0.05", "--levels", "2", "--out", out)
        time.sleep(moment)
        child.kill()
        child.wait()
        if (out / "run.json").exists():
            assert main(["resume", str(out)]) == 0 and finished(Run.open(out))


@pytest.mark.long
def test_ranks_share_the_samples_of_a_run_and_one_process_finishes_a_lost_share(each_model, tmp_path):
    levels, seconds = top_levels(each_model, 3), 0.4 if len(each_model.spec.names) == 3 else 6.0
    words = ["sample", str(each_model.folder), "--seconds", str(seconds), "--takes", "4", "--seed", "5"]
    shared, cut = tmp_path / "shared", tmp_path / "cut"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python"]
    command = [*torchrun, sys.executable, "-m", "launch.cli", *words, "--out", str(shared)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENV)
    assert result.returncode == 0, result.stderr
    made = Run.open(shared)
    assert finished(made) and made.request["batches"] == [[0, 2], [1, 3]]
    written = sum(line["rows"] * len(line["samples"]) for line in made.progress)
    assert written == 4 * sum(map(made.total, levels))  # no code was sampled twice

    ranks = [process(*words, "--out", cut, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    while not any(line["samples"] == [1, 3] and line["level"] == levels[len(levels) // 2] for line in lines(cut)):
        assert ranks[1].poll() is None
        time.sleep(0.01)
    ranks[1].kill()
    assert ranks[0].wait(timeout=300) == 0
    left = Run.open(cut)
    last = levels[-1]
    assert left.count(last, [0, 2]) == left.total(last) and left.count(last, [1, 3]) < left.total(last)
    assert main(["resume", str(cut)]) == 0
    assert finished(Run.open(cut)) and same(made, Run.open(cut))
