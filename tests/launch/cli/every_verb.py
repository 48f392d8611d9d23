"""Every verb of the command line on hostile ground, in one process: `python -m tests.launch.cli.every_verb FOLDER [VERB ..]`.

Each verb works in a folder whose name contains dots, spaces, quotes, percent signs, a line feed and bytes that are not UTF-8.
The situations: it succeeds; its output is below a file; the disk is full; Ctrl-C interrupts it, and the same command is given
again. One json line per verb and situation: exit code, what was printed on stderr, seconds, files that were there before and
changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from launch.cli.commands import VERBS, main

ODD = "v1.0 of 'my' \"best\" 100%s {x}\nsongs é"
BYTES = os.fsdecode(b"\xff")  # of no character
FOLDERS = (
    "prepare",
    "encode",
    "train",
    "export",
    "lyrics",
    "import",
    "demo",
    "learn",
    "ablate",
)  # of models and data: names are UTF-8
SONG = f"song {BYTES}.wav"
NAMES = ("01. Mr. Blue", 'say "100%" {now}', "it's\na line", "%s", "..dots..", "`$HOME`")


@dataclass(frozen=True)
class Case:
    """The words of a verb; `out` is where its output goes, and `writes` whether it writes there."""

    words: Callable[[Path, Path], list[Any]]
    writes: bool = True
    again: Callable[[Path, Path], list[Any]] | None = None  # what finishes an interrupted one; else the same words
    slow: bool = False  # it takes many seconds: it is interrupted early, and not repeated
    suffix: str = ""  # of its output


def _sampled(verb: str) -> Callable[[Path, Path], list[Any]]:
    return lambda world, out: [verb, world / "run", "--out", out]


EDIT = ("--passes", "3,3,3")
CASES: dict[str, Case] = {
    "prepare": Case(lambda world, out: ["prepare", world / "music", "--out", out, "--workers", 1]),
    "learn": Case(
        lambda world, out: ["learn", world / "data", "--out", out, "--preset", "test_spectral", "--hours", 0.01], slow=True
    ),
    "train": Case(
        lambda world, out: ["train", "vqvae", world / "data", "--preset", "test", "--steps", 40, "--level", 2, "--out", out]
    ),
    "encode": Case(lambda world, out: ["encode", world / "data", world / "model", "--cache", out, "--levels", 2]),
    "export": Case(lambda world, out: ["export", world / "trained" / "training" / "vqvae_2", "--out", out]),
    "sample": Case(
        lambda world, out: ["sample", world / "model", "--seconds", 1, "--out", out], again=lambda _, out: ["resume", out]
    ),
    "live": Case(lambda world, out: ["live", world / "endless", "--seconds", 6, "--threads", 1, "--out", out], suffix=".wav"),
    "continue": Case(
        lambda world, out: [
            "continue",
            world / "model",
            world / SONG,
            "--prompt_seconds",
            1,
            "--seconds",
            2,
            "--levels",
            2,
            "--out",
            out,
        ],
        again=lambda _, out: ["resume", out],
    ),
    "branch": Case(
        lambda world, out: [*_sampled("branch")(world, out), "--keep_seconds", 0.5], again=lambda _, out: ["resume", out]
    ),
    "upsample": Case(
        lambda world, out: [*_sampled("upsample")(world, out), "--level", 2], again=lambda _, out: ["resume", out]
    ),
    "resume": Case(lambda world, out: ["resume", _copied(world / "begun", out)]),
    "replay": Case(_sampled("replay"), again=lambda _, out: ["resume", out]),
    "edit": Case(
        lambda world, out: ["edit", world / "model", world / SONG, "--start", 0.2, "--end", 1.6, *EDIT, "--out", out],
        suffix=".wav",
    ),
    "vary": Case(
        lambda world, out: ["vary", world / "model", world / SONG, "--periodic", 4, *EDIT, "--out", out], suffix=".wav"
    ),
    "extend": Case(
        lambda world, out: ["extend", world / "model", world / SONG, "--after", 1, *EDIT, "--out", out], suffix=".wav"
    ),
    "compress": Case(
        lambda world, out: ["compress", world / "model", world / SONG, "--kbps", 1, *EDIT, "--out", out], suffix=".wav"
    ),
    "morph": Case(
        lambda world, out: [
            "morph",
            world / "latents",
            world / SONG,
            world / "run" / "audio" / "level_0_sample_0.wav",
            "--alpha",
            "0.5",
            "--threads",
            1,
            "--out",
            out,
        ]
    ),
    "stretch": Case(
        lambda world, out: ["stretch", world / "latents", world / "short.wav", "--threads", 1, "--out", out], suffix=".wav"
    ),
    "align": Case(
        lambda world, out: ["align", world / "model", world / SONG, "--lyrics", world / f"{SONG}.lrc", "--out", out],
        suffix=".lrc",
    ),
    "plan": Case(lambda world, _: ["plan", "sample", world / "model", "--bandwidth", 10], writes=False),
    "import": Case(lambda world, out: ["import", "vqvae", "--files", world / "published.pth.tar", "--out", out]),
    "lyrics": Case(lambda world, out: ["lyrics", "train", world / "data", "--vocabulary", 300, "--out", out]),
    "features": Case(
        lambda world, out: ["features", world / SONG, "--model", world / "model", "--layer", 1, "--out", out], suffix=".npz"
    ),
    "codec": Case(
        lambda world, out: ["codec", "encode", world / SONG, "--model", world / "model", "--out", out], suffix=".npz"
    ),
    "report": Case(lambda world, out: ["report", "train", world / "trained", "--out", out], suffix=".html"),
    "compare": Case(
        lambda world, out: ["compare", world / "endless", world / SONG, "--seconds", 1, "--threads", 1, "--out", out]
    ),
    "save": Case(lambda world, out: ["save", world / "run", "--out", out], suffix=".wav"),
    "serve": Case(lambda world, out: ["serve", world / "model", "--runs", out, "--port", 0, "--device", "cpu"], slow=True),
    "evaluate": Case(
        lambda world, out: ["evaluate", world / "model", world / "data", "--windows", 2, "--songs", 2, "--out", out],
        suffix=".json",
    ),
    "ablate": Case(
        lambda world, out: ["ablate", "codec", world / "data", "--seeds", 1, "--steps", 12, "--songs", 1, "--out", out],
        slow=True,
    ),
    "launch": Case(
        lambda world, out: ["launch", "--logs", out, "--", "plan", "sample", str(world / "model"), "--bandwidth", "10"]
    ),
    "gpu-check": Case(lambda _, out: ["gpu-check", "--device", "cpu", "--tiny", "--out", out], slow=True, suffix=".jsonl"),
    "bench": Case(lambda world, out: ["bench", "sample", world / "model", "--seconds", 0.2, "--out", out], suffix=".json"),
    "demo": Case(
        lambda _, out: ["demo", "--songs", 16, "--seconds", 1, "--scale", 0.001, "--preset", "test_both", "--out", out],
        slow=True,
    ),
    "data": Case(lambda world, _: ["data", world / "data"], writes=False),
    "labels": Case(lambda world, _: ["labels", world / "model"], writes=False),
}


def _copied(folder: Path, out: Path) -> Path:
    """A copy of a folder, made once."""
    if not out.exists() and out.parent.is_dir():
        with contextlib.suppress(OSError):
            shutil.copytree(folder, out)
    return out


def run(words: list[Any]) -> dict[str, Any]:
    """Exit code of a command ("traceback" where it raises), its stderr without progress bars, and its seconds."""
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = "traceback"
            traceback.print_exc(file=err)
    lines = [line.rpartition("\r")[2] for line in err.getvalue().split("\n")]
    lines = [line for line in lines if line.strip() and not re.search(r"\d\d:\d\d[<,]", line)]
    return {"code": code, "err": lines, "out": out.getvalue().splitlines()[-1:], "took": time.monotonic() - began}


def make_world(world: Path) -> None:
    """Music, data, a model, a training and runs, all by the verbs."""
    from jukebox.model.presets import find
    from launch.bench.live import random_model
    from tests.jukebox.editing.edits import with_masked
    from tests.jukebox.editing.nsynth import make_nsynth
    from tests.launch.verbs.test_import import checkpoint

    (world / "music").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        at = np.arange(4 * 22050) / 22050
        sound = 0.3 * np.sin(2 * np.pi * (220 + 60 * number) * at) * (1 + at / 9)
        soundfile.write(os.fsencode(world / "music" / f"{name}.wav"), sound, 22050)
        (world / "music" / f"{name}.lrc").write_text("[00:00.20]late sun goes\n[00:01.00]down and down\n")
    shutil.copy(world / "music" / f"{NAMES[0]}.wav", world / SONG)
    shutil.copy(world / "music" / f"{NAMES[0]}.lrc", world / f"{SONG}.lrc")
    (world / "a file").write_text("")
    checkpoint(world / "published.pth.tar")
    with_masked(world / "model")
    random_model(world / "endless", find("test_musika"), 0)
    make_nsynth(world / "latents")
    soundfile.write(world / "short.wav", np.zeros(5000), 22050)
    for words in (
        ["prepare", world / "music", "--out", world / "data", "--workers", 1, "--test_share", 0.6],
        ["encode", world / "data", world / "model"],
        ["train", "vqvae", world / "data", "--preset", "test", "--steps", 2, "--level", 2, "--out", world / "trained"],
        ["sample", world / "model", "--seconds", 1, "--out", world / "run"],
        ["sample", world / "model", "--seconds", 1, "--out", world / "begun"],
    ):  # fmt: skip
        if (done := run(words))["code"] != 0:
            raise RuntimeError(f"{words}: {done}")
    shutil.rmtree(world / "begun" / "codes")  # as after a kill before the first codes
    for path in ((world / "begun" / "progress.jsonl"), *(world / "begun" / "audio").glob("*")):
        path.unlink()


def state(folder: Path) -> dict[str, str]:
    """Hashes of all files but locks, and logs of what was tried."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".lock" not in str(path))
    return {ascii(str(path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A folder on a disk of a few kilobytes, or where none can be mounted, files that may not grow."""
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder], capture_output=True, check=False).returncode
        == 0
    )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def interrupted(words: list[Any], seconds: float) -> dict[str, Any]:
    """The command, with Ctrl-C after some seconds; `reached` is whether it was in time."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `launch` and others set their own
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        done = run(words)
    except KeyboardInterrupt:
        return {"code": "escaped", "err": [], "took": 0.0}
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    return done | {"reached": not left}


def situations(verb: str, case: Case, world: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a verb did in each situation."""
    mark = "" if verb in FOLDERS else BYTES
    out, seconds = world / f"out. {mark}{verb}{case.suffix}", 2.0
    if not case.slow:
        yield "plain", (plain := run(case.words(world, out)))
        seconds = max(0.02, 0.5 * plain["took"])
    if not case.writes:
        return
    yield "below a file", run(case.words(world, world / "a file" / f"out{case.suffix}"))
    with full_disk(world / f"full {verb}"):
        if not case.slow:
            yield "full disk", run(case.words(world, world / f"full {verb}" / f"out{case.suffix}"))
    stopped = world / f"stopped {mark}{verb}{case.suffix}"
    yield "interrupted", interrupted(case.words(world, stopped), seconds)
    if not case.slow:
        made = case.again and (stopped / "run.json").exists()
        yield "again", run((case.again if made else case.words)(world, stopped))  # type: ignore[misc]


def report(folder: Path, verbs: list[str]) -> None:
    world = folder / ODD
    make_world(world)
    os.chdir(folder)
    before = state(world)
    for verb in verbs or [verb for verb in CASES if verb in VERBS]:
        for situation, done in situations(verb, CASES[verb], world):
            now = state(world)
            changed = [path for path, digest in before.items() if now.get(path) != digest]
            print(json.dumps({"verb": verb, "situation": situation, **done, "changed": changed}), flush=True)
            before = {path: now.get(path, "") for path in before}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report(Path(sys.argv[1]), sys.argv[2:])
