"""Sound of any length in constant memory: a file read, resampled and mixed in blocks, and a wav file written in blocks.

The blocks end to end are the samples that `read` gives and the bytes that `write_wav` writes, however long the song. Only
an mp3 is held whole, as the file that it is.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import mix, open_source, to_pcm
from data_prep.errors import BadAudio


def resampled(blocks: Iterable[Float[np.ndarray, "c n"]], rate: int, target: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """The blocks at another rate, as many and one more, which is the end that the filter held back."""
    import soxr

    stream, channels = None, 0
    for block in blocks:
        if stream is None:
            channels = len(block)
            stream = soxr.ResampleStream(rate, target, channels, "float32", "HQ")
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    if stream is not None:
        yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T


class BlockReader:
    """An open sound file; iterating gives float32 (channels, n), end to end the whole file as `read` gives it.

    `source_channels` and `source_rate` are those of the file; `samples` counts what has been given so far. Raises
    BadAudio where nothing can be decoded; what a cut file still holds is read.
    """

    def __init__(self, path: str | Path, *, sample_rate: int | None = None, channels: int | None = None) -> None:
        self.path = Path(path)
        self.source = open_source(self.path)
        self.source_channels, self.source_rate = self.source.channels, self.source.sample_rate
        self.channels, self.sample_rate = channels or self.source_channels, sample_rate or self.source_rate
        self.samples = 0

    def __iter__(self) -> Iterator[Float[np.ndarray, "c n"]]:
        resampled = self.sample_rate != self.source_rate
        for block in self._resampled() if resampled else self._decoded():
            block = np.ascontiguousarray(mix(block, self.channels))
            self.samples += block.shape[1]
            yield block

    def _decoded(self) -> Iterator[np.ndarray]:
        some = False
        try:
            for block in self.source.blocks(0):
                some = True
                yield block
        except Exception as error:
            if not some:
                raise BadAudio(self.path, "unreadable", f"decoding failed: {error}") from error

    def _resampled(self) -> Iterator[np.ndarray]:
        decoded = given = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal decoded
            for block in self._decoded():
                decoded += block.shape[1]
                yield block

        rest = np.zeros((self.source_channels, 0), np.float32)
        for made in resampled(counted(), self.source_rate, self.sample_rate):
            given += rest.shape[1]
            yield rest
            rest = made
        count = round(decoded * self.sample_rate / self.source_rate) - given  # what the whole would be cut or filled to
        yield np.pad(rest[:, : max(0, count)], ((0, 0), (0, max(0, count - rest.shape[1]))))

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()


class BlockWriter:
    """A wav file that grows by blocks: `write` them in a `with`; it stands under its name once that ends without error."""

    def __init__(self, path: str | Path, channels: int, sample_rate: int) -> None:
        self.path, self.channels, self.sample_rate, self.samples = Path(path), channels, sample_rate, 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self.file = wave.open(str(self.part), "wb")  # noqa: SIM115
        self.file.setnchannels(channels)
        self.file.setsampwidth(2)
        self.file.setframerate(sample_rate)

    def write(self, block: Float[np.ndarray, "c n"]) -> None:
        """Append samples, clipped to 16 bits; ValueError if one is not finite."""
        self.file.writeframesraw(to_pcm(block, self.path).T.tobytes())
        self.samples += block.shape[1]

    def fill(self, samples: int) -> None:
        """Append silence until there are `samples` samples."""
        if samples > self.samples:
            self.write(np.zeros((self.channels, samples - self.samples), np.float32))

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self.file.close()
            if kind is None:
                self.part.replace(self.path)
        finally:
            self.part.unlink(missing_ok=True)


def declared_seconds(path: str | Path) -> float:
    """The length that a file's header tells, for a progress bar and nothing else; 0 where it tells none."""
    import soundfile

    try:
        return float(soundfile.info(str(path)).duration)
    except (RuntimeError, OSError):
        return 0.0
