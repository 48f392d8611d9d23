"""Frame-wise controls of a prior, measured on the songs of a data folder: tempo and note density.

Songs are measured once. `controls.json` stores the tempo (0 without clear beats) and the times of the onsets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float

from data_prep.beats import find_beats, find_onsets
from data_prep.files import write_json
from data_prep.manifest import SongRow, audio_path
from data_prep.pool import usable_cores
from launch.cli.progress import progress
from launch.corpus.pcm import in_order

FILE = "controls.json"
WIDTH = 1.0  # standard deviation of the smoothing kernel of onsets, seconds
Measured = dict[str, dict[str, Any]]  # hash of a song -> tempo and onsets


def measured_controls(data: Path, rows: Sequence[SongRow], cache: Path | None = None) -> Measured:
    """Return tempo and onsets of songs. Missing values are measured now, while other processes wait at a lock."""

    def measure(row: SongRow) -> dict[str, Any]:
        pulse = find_beats(path := audio_path(data, row))
        return {"tempo": pulse.tempo if pulse.is_clear else 0.0, "onsets": np.round(find_onsets(path), 3).tolist()}

    path = (cache or data) / FILE
    with FileLock(path.with_suffix(".lock")):
        known: Measured = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if missing := [row for row in rows if row.hash not in known]:
            bar = progress(round(sum(row.seconds for row in missing)), "tempo and onsets", unit="s")
            with bar:
                for row, found in zip(missing, in_order(measure, missing, threads=min(8, usable_cores()))):
                    known[row.hash] = found
                    bar.update(round(row.seconds))
            write_json(path, known)
    return known


def note_density(onsets: Sequence[float], frames: int, frame_seconds: float) -> Float[np.ndarray, " n"]:
    """Onsets per second in each frame, smoothed by a Gaussian kernel that is normalised inside the song."""
    counts, _ = np.histogram(onsets, bins=frames, range=(0, frames * frame_seconds))
    reach = min(int(4 * WIDTH / frame_seconds), max(0, (frames - 1) // 2))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * frame_seconds / WIDTH) ** 2)
    sums = (np.convolve(each, kernel, mode="same") for each in (counts, np.ones(frames)))
    return (next(sums) / next(sums) / frame_seconds).astype(np.float32)
