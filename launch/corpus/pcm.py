"""Training audio of codecs: every song is decoded, resampled and mixed once, into one memory-mapped file.

`DATA/pcm/<key>.i16` holds the 16-bit samples (time, channels) of all songs in sequence. `<key>.json` holds the lengths.
Training reads crops at memory speed, whereas an mp3 can only be decoded from its beginning. Several processes share one copy,
and a resumed run starts immediately. One hour takes 160 MB at 22.05 kHz mono. The key is a hash of songs, sample rate and
channels.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from data_prep.audio.audio import read
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.manifest import SongRow, audio_path
from data_prep.pool import usable_cores
from launch.cli.progress import progress


def in_order(function: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """Yield function(item) in the order of the items. Threads compute up to 2 * `threads` results ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Pcm:
    """The samples of songs in a memory-mapped file. `lengths` has the samples per song, and `key` identifies the songs."""

    def __init__(self, path: Path, lengths: Sequence[int], channels: int) -> None:
        self.key = path.stem
        self.lengths = np.asarray(lengths, np.int64)
        self.starts = np.concatenate([[0], self.lengths.cumsum()])
        self.samples = np.memmap(path, "<i2", "r", shape=(int(self.starts[-1]), channels))

    def crop(self, song: int, start: int, length: int) -> Float[np.ndarray, "c t"]:
        """Return `length` samples of a song from sample `start` on, in [-1, 1], with zeros after the end of the song."""
        begin = self.starts[song] + start
        piece = self.samples[begin : min(begin + length, self.starts[song + 1])].astype(np.float32).T / 32768.0
        return np.pad(piece, ((0, 0), (0, length - piece.shape[1])))

    def draw(self, seed: Sequence[int], count: int, length: int) -> list[tuple[int, int]]:
        """Sample `count` crops of `length` samples as pairs (song, start), uniformly over the corpus.

        The result is a pure function of the seed.
        """
        rng = np.random.default_rng(list(seed))
        places = np.maximum(self.lengths - length + 1, 1).cumsum()
        drawn = rng.integers(0, places[-1], count)
        songs = np.searchsorted(places, drawn, side="right")
        before = np.concatenate([[0], places])[songs]
        return [(int(song), int(place)) for song, place in zip(songs, drawn - before)]


def open_pcm(data: Path, rows: Sequence[SongRow], sample_rate: int, channels: int, cache: Path | None = None) -> Pcm:
    """Open the samples of the songs of `rows`. If there is no file, decode the songs into `cache` (None: `data`).

    Other processes wait at a lock. Raises UserError if the folder is not writable.
    """
    from filelock import FileLock

    named = json.dumps([sample_rate, channels, *([row.song, row.hash] for row in rows)])
    folder, key = (cache or data) / "pcm", hashlib.sha256(named.encode()).hexdigest()[:12]
    path, index = folder / f"{key}.i16", folder / f"{key}.json"
    if not index.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".lock").touch()
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}); give --cache, a folder for the decoded audio of {data}"
            ) from error
        with FileLock(path.with_suffix(".lock")):
            if not index.exists():
                lengths = _decode(data, rows, sample_rate, channels, path)
                write_json(index, {"sample_rate": sample_rate, "channels": channels, "lengths": lengths})
    return Pcm(path, json.loads(index.read_text())["lengths"], channels)


def _decode(data: Path, rows: Sequence[SongRow], sample_rate: int, channels: int, path: Path) -> list[int]:
    def samples(row: SongRow) -> Int16[np.ndarray, "t c"]:
        audio, _ = read(audio_path(data, row), sample_rate=sample_rate, channels=channels)
        return np.clip(np.rint(audio.T * 32768.0), -32768, 32767).astype("<i2")

    lengths = []
    bar = progress(round(sum(row.seconds for row in rows)), "reading songs", unit="s")
    with path.open("wb") as file, bar:
        for row, piece in zip(rows, in_order(samples, rows, threads=min(8, usable_cores()))):
            lengths.append(len(piece))
            file.write(piece.tobytes())
            bar.update(round(row.seconds))
    return lengths
