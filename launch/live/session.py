"""Measure live music as a client gets it: played in real time from a pipe, while lines change tempo and note density.

The player has a buffer of one second. Sound is lost (an underrun) if the buffer is empty when a sample is due. The audio is
measured in the 12 s before and after each change. The control is music with the same seed at the same places without changes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio.audio import write_wav
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.progress import ProgressBar
from jukebox.evaluation import metrics
from jukebox.evaluation.sound import tempo
from jukebox.model.folder import ModelFolder
from jukebox.sampling.live import LiveMusic
from jukebox.song import Song

BUFFER, TICK = 1.0, 0.05  # seconds of audio in the player's buffer, and per read from the buffer
PIPE = 4096  # additional bytes that wait in the pipe, on systems that allow a choice
SPAN = 12.0  # seconds of audio that are measured before and after a change
VALUES = {"density": (2.5, 4.5), "tempo": (88.0, 126.0)}  # within the range of the synthetic songs
ANSWER = re.compile(r"(\w+) (\S+) from second ([\d.]+) on")
Wave = Float[np.ndarray, "c n"]


class ControlChange(NamedTuple):
    """A control, its new value, and the second of the music at which the change takes effect."""

    name: str
    value: float
    second: float


def lines_of(switches: int) -> list[tuple[str, float]]:
    """Return `switches` changes: the controls alternate, and each control alternates between its low and its high value."""
    names = list(VALUES)
    return [(names[i % 2], VALUES[names[i % 2]][i // 2 % 2]) for i in range(switches)]


class Listener:
    """A player that takes 16-bit samples from a pipe in real time.

    `underruns` counts the reads for which the buffer held too little.
    """

    def __init__(self, pipe: IO[bytes], bytes_per_second: int) -> None:
        self.pipe, self.rate = pipe, bytes_per_second
        self.data, self.taken, self.ended, self.underruns = bytearray(), 0, False, 0
        self.changed = threading.Condition()
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        while block := self.pipe.read(2048):
            with self.changed:
                self.changed.wait_for(lambda: len(self.data) - self.taken < BUFFER * self.rate)
                self.data += block
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, size: int) -> None:
        """Wait until the buffer holds `size` bytes, or the music has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or len(self.data) - self.taken >= size)

    def take(self, size: int) -> bool:
        """Play `size` bytes; count an underrun if the buffer holds fewer. Return False at the end of the music."""
        with self.changed:
            if len(self.data) - self.taken < size and not self.ended:
                self.underruns += 1
        self.wait(size)
        with self.changed:
            self.taken = min(len(self.data), self.taken + size)
            self.changed.notify_all()
            return not (self.ended and self.taken == len(self.data))


def play(model: Path, seconds: float, switches: int, seed: int, info: LiveMusic) -> tuple[Wave, list[ControlChange], int]:
    """Run `jukebox live` in real time; return its music, its changes, and the number of underruns."""
    command = [sys.executable, "-m", "launch.cli", "live", str(model), "--out", "-", "--form", "raw"]
    command += ["--seconds", f"{seconds:g}", "--seed", str(seed)]
    channels, lines, found = info.codec.spec.channels, lines_of(switches), []
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "pipesize": PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin and process.stdout and process.stderr
        errors: list[str] = []
        reader = threading.Thread(target=lambda pipe: errors.extend(line.decode() for line in pipe), args=(process.stderr,))
        reader.start()
        listener = Listener(process.stdout, 2 * channels * info.sample_rate)
        size = round(TICK * info.sample_rate) * 2 * channels
        listener.wait(round(BUFFER * listener.rate))
        began, bar = time.perf_counter(), ProgressBar(total=round(seconds), desc="live", unit="s")
        for tick in range(1, round(seconds / TICK) + 2):
            if len(lines) and tick * TICK > seconds * (switches - len(lines) + 1) / (switches + 1):
                name, value = lines.pop(0)
                process.stdin.write(f"{name} {value:g}\n".encode())
                process.stdin.flush()
            if not listener.take(size):
                break
            bar.update(round(tick * TICK) - bar.n)
            time.sleep(max(0.0, began + tick * TICK - time.perf_counter()))
        bar.close()
        reader.join()
    if process.returncode:
        raise UserError(f"jukebox live ended with code {process.returncode}: {' '.join(errors[-1:]).strip()}")
    for line in errors:
        if match := ANSWER.search(line):
            found.append(ControlChange(match[1], float(match[2]), float(match[3])))
    samples = np.frombuffer(bytes(listener.data), "<i2").reshape(-1, channels).T
    return samples.astype(np.float32) / 2**15, found, listener.underruns


def session(model: str, *, out: str, seconds: float = 600.0, switches: int = 20, seed: int = 0) -> None:
    """Play live music in real time while lines change its controls, and write what was measured: OUT/session.json and two wav files.

    model: model folder with a latent GAN
    out: folder to write
    seconds: length of the music
    switches: changes of note density and of tempo by turns
    seed: seed of the music
    """
    folder = Path(out)
    if (folder / "session.json").is_file():
        print(f"{folder}/session.json is there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    live = LiveMusic(ModelFolder.from_pretrained(model), Song(), seed=seed)
    made, changes, underruns = play(Path(model), seconds, switches, seed, live)
    steady = np.concatenate(list(live.blocks(seconds=seconds)), axis=1)
    for name, wave in (("played", made), ("unchanged", steady)):
        write_wav(folder / f"{name}.wav", wave, live.sample_rate)
    rows = [change_figures(change, made, steady, live.sample_rate) for change in changes]
    figures = {
        "seconds": made.shape[1] / live.sample_rate, "buffer_seconds": BUFFER, "underruns": underruns,
        "patch_seconds": live.patch_seconds, "changes": rows, **summary(rows),
    }  # fmt: skip
    write_json(folder / "session.json", figures)
    print(metrics.table([["live music", "figure"], *[[name, x] for name, x in figures.items() if name != "changes"]]))


def change_figures(change: ControlChange, made: Wave, steady: Wave, rate: int) -> dict[str, Any]:
    """Measure the 12 s before and after a change, in the music with changes and in the music without."""
    at, span = round(change.second * rate), round(SPAN * rate)
    found: dict[str, Any] = {"name": change.name, "value": change.value, "second": change.second}
    for title, wave in (("", made), ("control_", steady)):
        mono = torch.from_numpy(wave).mean(0)
        for when, part in (("before", mono[max(0, at - span) : at]), ("after", mono[at : at + span])):
            enough = len(part) >= span // 2
            measure = metrics.onset_rate if change.name == "density" else tempo
            found[title + when] = float(measure(part, rate)) if enough else None
    return found


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Summarise the changes: the mean rise in onsets per second for density, and the mean distance in octaves for tempo.

    A rise is positive in the direction of the new density. The distance is to the new tempo, folded into one octave.
    """
    whole = [row for row in rows if None not in row.values()]
    found: dict[str, float] = {}
    for title in ("", "control_"):
        signs = [(1 if row["value"] == max(VALUES["density"]) else -1, row) for row in whole if row["name"] == "density"]
        rises = [sign * (row[title + "after"] - row[title + "before"]) for sign, row in signs]
        off = [abs(folded(row[title + "after"], row["value"])) for row in whole if row["name"] == "tempo"]
        for name, values in (("density_rise", rises), ("tempo_octaves", off)):
            if values:
                found[title + name], error = metrics.mean_and_error(values)
                found |= {f"{title}{name}_se": error} if len(values) > 1 else {}
    return found


def folded(found: float, asked: float) -> float:
    """Return the distance of two tempos in octaves, modulo one octave: -0.5 to 0.5."""
    octaves = np.log2(found / asked)
    return float(octaves - np.round(octaves))
