"""Read, resample and mix audio of any length in blocks, in constant memory.

The concatenated blocks are equal to the result of `read`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import mix
from data_prep.audio.decoders import decoded, open_source
from data_prep.errors import BadAudio

# Clipping is audible if CLIPPED samples are beyond full scale, and their share or the peak (1 dB) exceeds its limit.
CLIPPED, SHARE, OVERSHOOT = 10, 1e-3, 1.12


def resampled(blocks: Iterable[Float[np.ndarray, "c n"]], rate: int, target: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield the blocks at another sample rate, and one more block with the samples that the filter still holds."""
    import soxr

    stream, channels = None, 0
    for block in blocks:
        if stream is None:
            channels = len(block)
            stream = soxr.ResampleStream(rate, target, channels, "float32", "HQ")
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    if stream is not None:
        yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T


class BlockReader(AbstractContextManager["BlockReader"]):
    """An open audio file; iteration yields blocks, float32 (channels, n), whose concatenation equals `read` of the file.

    `source_channels` and `source_rate` are the properties of the file before mixing and resampling. `samples` counts the
    samples so far, `beyond` counts the samples beyond full scale, and `peak` is the largest |sample|. Iteration raises BadAudio
    if the samples cannot all be decoded.
    """

    def __init__(self, path: str | Path, *, sample_rate: int | None = None, channels: int | None = None) -> None:
        self.path = Path(path)
        self.source = open_source(self.path)
        self.source_channels, self.source_rate = self.source.channels, self.source.sample_rate
        self.channels, self.sample_rate = channels or self.source_channels, sample_rate or self.source_rate
        self.samples, self.beyond, self.peak = 0, 0, 0.0

    def __iter__(self) -> Iterator[Float[np.ndarray, "c n"]]:
        same_rate = self.sample_rate == self.source_rate
        for block in decoded(self.path, self.source) if same_rate else self._resampled():
            block = np.ascontiguousarray(mix(block, self.channels))
            self.samples += block.shape[1]
            peak = float(max(block.max(initial=0.0), -block.min(initial=0.0)))
            if peak > 1:
                self.beyond += int((np.abs(block) > 1).sum())
            self.peak = max(self.peak, peak)
            yield block

    def print_beyond(self) -> None:
        """Print a warning on stderr if samples are beyond full scale, as in a file of floats."""
        print_beyond(self.path, self.beyond, self.peak, self.samples)

    def _resampled(self) -> Iterator[np.ndarray]:
        taken = given = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal taken
            for block in decoded(self.path, self.source):
                taken += block.shape[1]
                yield block

        rest = np.zeros((self.source_channels, 0), np.float32)
        for made in resampled(counted(), self.source_rate, self.sample_rate):
            given += rest.shape[1]
            yield rest
            rest = made
        count = round(taken * self.sample_rate / self.source_rate) - given  # `read` cuts or pads to this length
        yield np.pad(rest[:, : max(0, count)], ((0, 0), (0, max(0, count - rest.shape[1]))))

    def __exit__(self, *error: object) -> None:
        self.source.close()


def is_clipped(beyond: int, peak: float, samples: int) -> bool:
    """Return whether `beyond` of `samples` samples beyond full scale, the largest at `peak`, are audible as clipping."""
    return beyond >= CLIPPED and (peak > OVERSHOOT or beyond > SHARE * samples)


def print_beyond(path: str | Path, beyond: int, peak: float, samples: int) -> None:
    """Print a warning on stderr if a recording is audibly beyond full scale: integer formats clip it."""
    if is_clipped(beyond, peak, samples):
        loudest = f"peak {peak:.2f}, {20 * math.log10(peak):+.1f} dBFS"
        print(
            f"{path}: {beyond:,} samples are beyond full scale and may be clipped ({loudest}); make it quieter", file=sys.stderr
        )


def declared_seconds(path: str | Path) -> float:
    """Return the length that the header of a file states, for progress bars only; 0 if there is none."""
    try:
        with closing(open_source(Path(path))) as source:
            return source.expected / source.sample_rate
    except BadAudio:
        return 0.0
