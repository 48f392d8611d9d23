"""The steps of a demo as commands, and the parallel processes that run the commands."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import UserError
from launch.training.defaults import kind_of
from vqvae.spectral.config import TOKENS

if TYPE_CHECKING:
    from jukebox.model.presets import Preset

LENGTHS = (20.0, 90.0)  # seconds of the shortest and the longest song of the corpus
LEVELS_SHARE = 1 / 3  # factor on the recipes of the three levels, because the spectral route determines the demo's time
RECOGNISER = "recogniser.safetensors"
Command = list[str]


@dataclass(frozen=True)
class Parts:
    """The commands of a demo in the folder `out`; `scale` multiplies the steps and the minutes of every recipe."""

    out: Path
    preset: Preset
    name: str
    scale: float
    seed: int

    @property
    def data(self) -> str:
        return str(self.out / "data")

    @property
    def model(self) -> str:
        return str(self.out / "model")

    def prepare(self, songs: int) -> list[Command]:
        """Return the command that writes the manifest of a corpus of `songs` songs; none if the manifest exists."""
        if (self.out / "data" / "manifest.parquet").is_file():
            return []
        share = max(0.04, 8 / songs)  # about 16 songs for measurements
        return [["prepare", str(self.out / "corpus" / "songs.jsonl"), "--out", self.data, "--test_share", f"{share:.4f}"]]

    def recogniser(self) -> Command:
        """Return the command that trains the recogniser of artist, genre and sung characters.

        The command runs before anything is sampled.
        """
        rate = ["--sample_rate", str(self.preset.codec.spec.sample_rate), "--seed", str(self.seed)]
        return ["recogniser", self.data, "--out", str(self.out / RECOGNISER), *rate]

    def train(self, what: str, part: str, *flags: str, share: float = 1.0) -> Command:
        if not (recipe := self.preset.parts(kind_of(what, self.preset)).get(part)):
            raise UserError(f"--preset {self.name} has no {part}, which a demo trains; choose demo")
        steps, minutes = recipe.steps * self.scale * share, recipe.max_minutes * self.scale * share
        limits = ["--steps", str(max(1, round(steps))), "--max_minutes", f"{minutes:.2f}"]
        return ["train", what, self.data, *flags, *limits, "--preset", self.name, "--out", self.model, "--seed", str(self.seed),
                "--threads", "1"]  # fmt: skip

    def spectral(self) -> list[Command]:
        """Return the commands for the spectral codec, its tokens of all songs, and the prior of the tokens."""
        encode = ["encode", self.data, self.model, "--levels", TOKENS, "--threads", "1"]
        return [self.train("spectral", TOKENS), encode, self.train("tokens", TOKENS)]

    def levels(self) -> list[Command]:
        """Return the commands for the codecs of the three levels, coarsest first, and their priors.

        Each trains for LEVELS_SHARE of the time of its recipe.
        """
        encode = ["encode", self.data, self.model, "--split", "train", "--threads", "1"]
        return [
            *(self.train("vqvae", f"vq.{level}", "--levels", str(level), share=LEVELS_SHARE) for level in (2, 1, 0)),
            [*encode, "--levels", "2", "--songs", "96"], [*encode, "--levels", "1,0", "--songs", "24"],
            *(self.train("prior", f"prior_{level}", "--level", str(level), share=LEVELS_SHARE) for level in (2, 1, 0)),
        ]  # fmt: skip

    def song(self, name: str, artist: str, genre: str, seconds: float, takes: int, route: str = "spectral") -> Command:
        """Return the command that samples or resumes a new song in the folder `name`."""
        words = ["--artist", artist, "--genre", genre, "--lyrics", str(self.out / "lyrics.txt"), "--seconds", f"{seconds:g}"]
        return self._sampled(name, ["sample", self.model, *words, "--route", route], takes, route)

    def continuation(self, name: str, artist: str, genre: str, takes: int, route: str = "spectral") -> Command:
        """Return the command that continues the recording in the folder `name`, or resumes the run."""
        recording = self.out / "recording.mp3"
        words = ["--artist", artist, "--genre", genre, "--lyrics", str(recording.with_suffix(".txt"))]
        verb = ["continue", self.model, str(recording), "--prompt_seconds", "6", "--seconds", "14", *words, "--route", route]
        return self._sampled(name, verb, takes, route)

    def _sampled(self, name: str, verb: Command, takes: int, route: str) -> Command:
        folder = self.out / name
        if (folder / "run.json").is_file():
            return ["resume", str(folder)]
        # small priors of raw audio spread their probability over too many codes: a temperature below 1 sounds better
        # (docs/log.md)
        colder = ["--temperature_lower", "0.5"] if route == "jukebox" else []
        return [*verb, "--out", str(folder), "--seed", str(self.seed), "--threads", "1", "--takes", str(takes), *colder]


class Clock:
    """Prints the name of each step when it begins, and measures its time."""

    def __init__(self):
        self.rows: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"\n--- {name}", flush=True)
        began = time.perf_counter()
        yield
        self.rows.append((name, time.perf_counter() - began))

    def table(self) -> str:
        from jukebox.evaluation.metrics import table

        total = sum(took for _, took in self.rows)
        return table([["step", "seconds"], *[[name, round(took, 1)] for name, took in self.rows], ["all", round(total, 1)]])


def run_lanes(out: Path, lanes: Sequence[Sequence[Command]], names: Sequence[str] = ()) -> None:
    """Run lanes of commands in parallel, and the commands of a lane in sequence; the first failure ends all lanes.

    `names` are names of the lanes, with which the names of their log files then begin.
    """
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting = [list(lane) for lane in lanes]
    running: list[tuple[subprocess.Popen, Path] | None] = [None] * len(lanes)
    shown, last = 0.0, ""
    try:
        while any(running) or any(waiting):
            for i, current in enumerate(running):
                if current and current[0].poll() is not None:
                    process, log = current
                    if process.returncode:
                        raise UserError(f"{log.stem} failed: {_last_line(log)} (its output: {log})")
                    running[i] = None
                if running[i] is None and waiting[i]:
                    running[i] = _start(waiting[i].pop(0), logs, 1 if len(lanes) > 1 else 0, names[i] if names else "")
            every = 1.0 if sys.stderr.isatty() else 15.0
            if time.monotonic() - shown > every:
                now = " | ".join(_last_line(log) for current in running if current for _, log in [current])
                if now and now != last:
                    print(now, file=sys.stderr, flush=True)
                shown, last = time.monotonic(), now
            time.sleep(0.1)
    finally:
        for current in running:
            if current and current[0].poll() is None:
                current[0].terminate()
                current[0].wait()


def _start(command: Command, logs: Path, threads: int, lane: str) -> tuple[subprocess.Popen, Path]:
    number = "".join(f"_{value}" for flag, value in itertools.pairwise(command) if flag in ("--level", "--levels"))
    what = command[1] if command[0] == "train" else ""
    log = logs / f"{'_'.join(filter(None, [lane, command[0], what]))}{number.replace(',', '_')}.log"
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | {"PYTHONUNBUFFERED": "1"}
    call = [sys.executable, "-m", "launch.demo", *command]
    with open(log, "ab") as file:
        return subprocess.Popen(call, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment), log


def _last_line(log: Path) -> str:
    """Return the last line of a log; progress bars overwrite their line with carriage returns."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
