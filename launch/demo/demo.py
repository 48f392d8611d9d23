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
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import write_json

RECORDING = 1_000_003  # seeds of the recording that is continued and of the text that is sung: of no song of the corpus
Command = list[str]


def demo(
    *, out: str = "demo", songs: int = 384, seconds: float = 14.0, seed: int = 0, scale: float = 1.0, samples: int = 1,
    preset: str = "demo", evidence: bool = False, threads: int = 2,
) -> None:  # fmt: skip
    """Make songs, train every level on them, sing a new song, continue a recording, and show what was learned.

    out: folder for corpus, data, model, song and continued
    songs: songs to make, of 20 seconds each
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
    chosen, clock = find(preset), Clock()
    data, model = str(out / "data"), str(out / "model")
    corpus, words, recording = out / "corpus", out / "lyrics.txt", out / "recording.mp3"

    def train(what: str, level: int) -> Command:
        stream, prior = chosen.codec.spec.names[level], f"prior_{level}"
        recipe = chosen.codec_recipes[stream] if what == "vqvae" else chosen.prior_recipes[prior]
        where, steps = "--levels" if what == "vqvae" else "--level", round(recipe.steps * scale)
        minutes = recipe.max_minutes * scale
        return ["train", what, data, where, str(level), "--steps", str(steps), "--max_minutes", f"{minutes:.2f}", "--preset", preset,
                "--out", model, "--seed", str(seed), "--threads", "1"]  # fmt: skip

    with clock.step("made songs"):
        artist, genre = write_corpus(corpus, words, recording, songs, seconds, seed)
    with clock.step("prepare"):
        if not (out / "data" / "manifest.parquet").is_file():
            share = max(0.06, 8 / songs)  # some 16 songs are measured on
            run_lanes(out, [[["prepare", str(corpus / "songs.jsonl"), "--out", data, "--test_share", f"{share:.4f}"]]])
    with clock.step("codec"):
        run_lanes(out, [[train("vqvae", 2)], [train("vqvae", 1), train("vqvae", 0)]])
    with clock.step("encode"):
        encode = ["encode", data, model, "--threads", str(threads)]
        run_lanes(out, [[[*encode, "--levels", "2"], [*encode, "--levels", "1,0", "--split", "train", "--songs", "64"]]])
    with clock.step("priors"):
        run_lanes(out, [[train("prior", 2)], [train("prior", 1), train("prior", 0)]])
    with clock.step("song, continuation, figures"):
        # small models spread their doubts over too many codes: colder than 1 sounds better (docs/log.md)
        sampling_flags = ["--temperature", "0.98", "--temperature_lower", "0.5"]
        common = ["--seed", str(seed), "--threads", "1", "--takes", str(samples), *sampling_flags]
        song = ["sample", model, "--artist", artist, "--genre", genre, "--lyrics", str(words), "--seconds", f"{seconds:g}",
                "--out", str(out / "song"), *common]  # fmt: skip
        rest = ["continue", model, str(recording), "--prompt_seconds", "6", "--seconds", "12",
                "--lyrics", str(recording.with_suffix(".txt")), "--artist", artist, "--genre", genre,
                "--out", str(out / "continued"), *common]  # fmt: skip
        runs = [
            c if not (out / name / "run.json").is_file() else ["resume", str(out / name)]
            for c, name in ((song, "song"), (rest, "continued"))
        ]
        run_lanes(out, [[["evaluate", model, data, "--threads", "1", "--out", str(out / "evaluation.json")]], runs])
    with clock.step("sound"):
        figures = summarise(out)
    print("\n" + figures)
    print("\n" + clock.table())
    print(f"\nto hear it open {out / 'song' / 'index.html'} and {out / 'continued' / 'index.html'}")


def write_corpus(corpus: Path, words: Path, recording: Path, songs: int, seconds: float, seed: int) -> tuple[str, str]:
    """The corpus, the text of the new song and a recording to continue, none of which is in the corpus; artist and genre of both."""
    from data_prep.audio.audio import write_mp3
    from data_prep.synthetic.annotation import annotate_song
    from data_prep.synthetic.songs import make_corpus, make_song

    if not (corpus / "songs.jsonl").is_file():
        make_corpus(corpus, songs, seed=seed)
    other = make_song(RECORDING + seed, seconds=12.0)
    if not recording.is_file():
        recording.with_suffix(".txt").write_text(other.lyrics + "\n", encoding="utf-8")
        write_mp3(recording, other.audio, other.sample_rate)
    if not words.is_file():
        text = annotate_song(RECORDING + seed + 1, seconds=seconds, artist=other.artist, genre=other.genre)
        words.write_text(text.lyrics + "\n", encoding="utf-8")
    return other.artist, other.genre


def summarise(out: Path) -> str:
    """Tables of the evaluation and of the sound of song and continuation beside the corpus's own; also into evaluation.json."""
    from jukebox.evaluation.figures import sound_figures, sound_table, tables
    from jukebox.model.folder import ModelFolder

    figures = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    figures["sound"] = sound_figures(
        ModelFolder.from_pretrained(out / "model"), out / "data", [out / "song", out / "continued"]
    )
    write_json(out / "evaluation.json", figures)
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
