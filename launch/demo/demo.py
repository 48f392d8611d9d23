"""The verb demo: a song from nothing. Every step is a verb that a person could type; two processes train side by side.

    made songs -> prepare -> train the codec -> encode -> train the priors -> sample, continue, evaluate -> pages and a table

Two processes of one thread each learn half as fast again as one of two threads, so levels are trained in pairs. A demo that was
interrupted goes on where it was: every step skips what is there.
"""

from __future__ import annotations

import itertools
import json
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
from data_prep.files import write_json
from vqvae.spectral.config import TOKENS

if TYPE_CHECKING:
    from jukebox.model.presets import Preset

LENGTHS = (20.0, 90.0)  # shortest and longest song of the corpus, seconds
LEVELS_SECONDS = 8.0  # of the song by the three levels, which are slow
RUNS = {"Song": "song", "Recording, continued": "continued", "Song by the three levels of raw audio": "song_levels"}
RECORDING = 1_000_003  # seeds of the recording that is continued and of the text that is sung: of no song of the corpus
Command = list[str]


def demo(
    *, out: str = "demo", songs: int = 400, seconds: float = 20.0, seed: int = 0, scale: float = 1.0, samples: int = 1,
    preset: str = "demo", evidence: bool = False, threads: int = 2,
) -> None:  # fmt: skip
    """Make songs, train every level on them, sing a new song, continue a recording, and show what was learned.

    out: folder for corpus, data, model, song and continued
    songs: synthetic songs, of 20 to 90 seconds
    seconds: length of the new song, in seconds
    seed: number that all chance follows from
    scale: training steps as a multiple of the preset's
    samples: new songs to sing side by side
    preset: sizes and training steps
    evidence: repeat everything with three seeds and longer training, and show the spread
    threads: CPU threads of the steps that do not run in pairs
    """
    if evidence:
        from launch.demo.evidence import gather

        for s in range(seed, seed + 3):
            print(f"\n=== seed {s} ===", flush=True)
            make(Path(out) / f"seed_{s}", songs, seconds, s, scale * 1.7, max(samples, 2), preset, threads)
        gather(Path(out), {s: Path(out) / f"seed_{s}" for s in range(seed, seed + 3)})
    else:
        make(Path(out), songs, seconds, seed, scale, samples, preset, threads)


def make(out: Path, songs: int, seconds: float, seed: int, scale: float, samples: int, preset: str, threads: int) -> None:
    """One whole demo in the folder `out`."""
    from jukebox.model.presets import find

    if songs < 16:
        raise UserError(f"--songs {songs}: expected at least 16, so that some can be held out")
    clock, parts = Clock(), Parts(out, find(preset), preset, scale, seed)
    with clock.step("synthetic songs"):
        artist, genre = write_corpus(out, songs, seconds, seed)
    with clock.step("prepare"):
        if not (out / "data" / "manifest.parquet").is_file():
            share = max(0.04, 8 / songs)  # some 16 songs are measured on
            run_lanes(
                out, [[["prepare", str(out / "corpus" / "songs.jsonl"), "--out", parts.data, "--test_share", f"{share:.4f}"]]]
            )
    with clock.step("codecs and priors: spectral beside three levels"):
        run_lanes(out, [parts.spectral(), parts.levels()])
    with clock.step("songs, continuations"):
        run_lanes(out, [
            [parts.song("song", artist, genre, seconds, samples), parts.continuation("continued", artist, genre, samples)],
            [parts.song("song_levels", artist, genre, min(seconds, LEVELS_SECONDS), samples, "jukebox")],
        ])  # fmt: skip
    with clock.step("figures"):
        run_lanes(out, [[["evaluate", parts.model, parts.data, "--threads", str(threads), "--windows", "24", "--songs", "6",
                          "--out", str(out / "evaluation.json")]]])  # fmt: skip
        figures = summarise(out)
    print("\n" + figures)
    print("\n" + clock.table())
    print(f"\nto listen open {out / 'index.html'}")


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

    def train(self, what: str, part: str, *flags: str) -> Command:
        recipe = {**self.preset.codec_recipes, **self.preset.prior_recipes}[part]
        limits = ["--steps", str(round(recipe.steps * self.scale)), "--max_minutes", f"{recipe.max_minutes * self.scale:.2f}"]
        return ["train", what, self.data, *flags, *limits, "--preset", self.name, "--out", self.model, "--seed", str(self.seed),
                "--threads", "1"]  # fmt: skip

    def spectral(self) -> list[Command]:
        """The spectral codec, its tokens, and their prior."""
        encode = ["encode", self.data, self.model, "--levels", TOKENS, "--threads", "1"]
        return [self.train("spectral", TOKENS), encode, self.train("tokens", TOKENS)]

    def levels(self) -> list[Command]:
        """The three levels, coarsest first, and their priors."""
        encode = ["encode", self.data, self.model, "--split", "train", "--threads", "1"]
        return [
            *(self.train("vqvae", f"vq.{level}", "--levels", str(level)) for level in (2, 1, 0)),
            [*encode, "--levels", "2", "--songs", "128"], [*encode, "--levels", "1,0", "--songs", "32"],
            *(self.train("prior", f"prior_{level}", "--level", str(level)) for level in (2, 1, 0)),
        ]  # fmt: skip

    def song(self, name: str, artist: str, genre: str, seconds: float, takes: int, route: str = "spectral") -> Command:
        """A new song in the folder `name`, or the rest of it."""
        words = ["--artist", artist, "--genre", genre, "--lyrics", str(self.out / "lyrics.txt"), "--seconds", f"{seconds:g}"]
        return self._sampled(name, ["sample", self.model, *words, "--route", route], takes, route)

    def continuation(self, name: str, artist: str, genre: str, takes: int, route: str = "spectral") -> Command:
        """The recording continued in the folder `name`, or the rest of it."""
        recording = self.out / "recording.mp3"
        words = ["--artist", artist, "--genre", genre, "--lyrics", str(recording.with_suffix(".txt"))]
        verb = ["continue", self.model, str(recording), "--prompt_seconds", "6", "--seconds", "14", *words, "--route", route]
        return self._sampled(name, verb, takes, route)

    def _sampled(self, name: str, verb: Command, takes: int, route: str) -> Command:
        folder = self.out / name
        if (folder / "run.json").is_file():
            return ["resume", str(folder)]
        # small priors of raw audio spread their probability over too many codes: colder than 1 sounds better (docs/log.md)
        colder = ["--temperature_lower", "0.5"] if route == "jukebox" else []
        return [*verb, "--out", str(folder), "--seed", str(self.seed), "--threads", "1", "--takes", str(takes), *colder]


def write_corpus(out: Path, songs: int, seconds: float, seed: int) -> tuple[str, str]:
    """The corpus, the text of the new song and a recording to continue, none of which is in the corpus; artist and genre of both."""
    from data_prep.audio.audio import write_mp3
    from data_prep.synthetic.songs import make_corpus, make_song

    words, recording = out / "lyrics.txt", out / "recording.mp3"
    if not (out / "corpus" / "songs.jsonl").is_file():
        make_corpus(out / "corpus", songs, seed=seed, seconds=LENGTHS)
    other = make_song(RECORDING + seed, seconds=14.0)
    if not recording.is_file():
        recording.with_suffix(".txt").write_text(other.lyrics + "\n", encoding="utf-8")
        write_mp3(recording, other.audio, other.sample_rate)
    if not words.is_file():
        text = make_song(RECORDING + seed + 1, seconds=seconds, artist=other.artist, genre=other.genre)
        words.write_text(text.lyrics + "\n", encoding="utf-8")
    return other.artist, other.genre


def summarise(out: Path) -> str:
    """Tables of the evaluation and of the sound of songs and continuation beside the corpus's own; evaluation.json and index.html."""
    from jukebox.evaluation.figures import sound_figures, sound_table, tables
    from jukebox.model.folder import ModelFolder
    from launch.demo.page import write_page

    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    runs = {title: out / name for title, name in RUNS.items()}
    figures["sound"] = sound_figures(ModelFolder.from_pretrained(out / "model"), out / "data", list(runs.values()))
    write_json(out / "evaluation.json", figures)
    write_page(out / "index.html", runs, figures["sound"])
    return tables(figures) + "\n\n" + sound_table(figures["sound"])


# ---- steps and processes


class Clock:
    """Names and times steps; the names stand on the screen as they begin."""

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


def run_lanes(out: Path, lanes: Sequence[Sequence[Command]]) -> None:
    """Run lanes of verbs beside each other, the verbs of a lane one after the other; the first that fails ends all."""
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
                        raise UserError(f"{log.stem} failed: {_last_line(log)} (all it said: {log})")
                    running[i] = None
                if running[i] is None and waiting[i]:
                    running[i] = _start(waiting[i].pop(0), logs, threads=1 if len(lanes) > 1 else 0)
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


def _start(command: Command, logs: Path, threads: int) -> tuple[subprocess.Popen, Path]:
    number = "".join(f"_{value}" for flag, value in itertools.pairwise(command) if flag in ("--level", "--levels"))
    what = command[1] if command[0] == "train" else ""
    log = logs / f"{'_'.join(filter(None, [command[0], what]))}{number.replace(',', '_')}.log"
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | {"PYTHONUNBUFFERED": "1"}
    call = [sys.executable, "-c", "import sys; from launch.cli import main; sys.exit(main())", *command]
    with open(log, "ab") as file:
        return subprocess.Popen(call, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment), log


def _last_line(log: Path) -> str:
    """The newest thing a process said; progress bars overwrite themselves with carriage returns."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
