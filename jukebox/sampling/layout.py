"""Mapping between samples of a recording and columns of codes, and decoding of codes at the recording's sample rate.

    columns     0 .. before | columns of the file .................... | .. columns        `hop` samples at the model's rate
    samples                 0 .................................. samples                   samples at the file's rate

A column is a frame of the coarsest hop with all finer frames of the same time. New audio is joined to a recording without a
discontinuity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from data_prep.audio.audio import mix
from data_prep.audio.blocks import resampled

if TYPE_CHECKING:
    from vqvae.codec import Codec

MARGIN = 1.5  # seconds of codes or audio as context, more than the receptive field of the published codec
RESAMPLED = 0.1  # seconds of audio as context of the resampling


@dataclass(frozen=True)
class Layout:
    """Position of the samples of a file in the columns of a model."""

    samples: int
    rate: int
    model_rate: int
    hop: int
    before: int = 0  # columns before the file
    after: int = 0  # samples after the end of the file, at the file's rate

    @property
    def columns(self) -> int:
        """Number of all columns; the last column may be partly filled."""
        return self.before + self._column(self.samples + self.after, math.ceil)

    @property
    def ended(self) -> int:
        """First column that the file does not fill completely."""
        return self.before + self._column(self.samples, math.floor)

    @property
    def per_second(self) -> float:
        """Columns per second."""
        return self.model_rate / self.hop

    def touched(self, start: int, end: int) -> tuple[int, int]:
        """Columns [first, stop) that contain the samples [start, end) of the file."""
        first, stop = self.before + self._column(start, math.floor), self.before + self._column(end, math.ceil)
        return max(0, first), min(self.columns, stop)

    def _column(self, sample: int, rounding) -> int:
        whole, rest = divmod(sample * self.model_rate, self.rate * self.hop)  # integers avoid rounding
        return whole + (1 if rest and rounding is math.ceil else 0)


def render(
    codec: Codec, codes: Shaped[np.ndarray, "t *frame"], stream: str, first: int, layout: Layout, start: int, end: int
) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield, in blocks, the samples [start, end) of a recording at the recording's own rate.

    `codes` are the frames of `stream` from column `first` on. The decoded audio is resampled if the two rates differ.
    """
    common = math.gcd(layout.rate, layout.model_rate)
    of_file, of_model = layout.rate // common, layout.model_rate // common  # sample counts of equal duration
    margin = 0 if of_file == of_model else round(RESAMPLED * layout.rate)
    turn = (start - margin) // of_file  # index of the last time before `start` at which both rates have a sample
    skip = turn * of_model - (first - layout.before) * layout.hop
    at = turn * of_file
    sound = _from(_decode(codec, codes, stream), skip)
    for block in sound if of_file == of_model else resampled(sound, layout.model_rate, layout.rate):
        piece = block[:, max(0, start - at) : max(0, end - at)]
        at += block.shape[1]
        if piece.shape[1]:
            yield piece
        if at >= end:
            return
    yield np.zeros((codec.spec.channels, end - max(at, start)), np.float32)  # the rounded end of the last column


def _decode(codec: Codec, codes: Shaped[np.ndarray, "t *frame"], stream: str) -> Iterator[Float[np.ndarray, "c n"]]:
    from vqvae.codec import as_tensor

    size = 2**14
    pieces = (as_tensor(codes[i : i + size]).to(codec.device) for i in range(0, len(codes), size))
    for audio in codec.decode_blocks(pieces, stream):
        yield audio.cpu().numpy()


def _from(blocks: Iterator[Float[np.ndarray, "c n"]], skip: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield the blocks without their first `skip` samples; a negative `skip` adds silence before the blocks."""
    for block in blocks:
        if skip < 0:
            yield np.zeros((len(block), -skip), np.float32)
            skip = 0
        if skip < block.shape[1]:
            yield block[:, skip:]
        skip = max(0, skip - block.shape[1])


# ---- joins to a recording


def after_recording(
    blocks: Iterable[Float[np.ndarray, "c n"]], old: Float[np.ndarray, "c fade"]
) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield new audio that joins the end of a recording without a discontinuity.

    `old` are the last samples of the recording, and `blocks` begin with the codec's version of these samples. After the end no
    old audio exists for a cross-fade. So the difference between `old` and the codec's version is mirrored at the boundary,
    faded out, and added to the new audio.
    """
    fade = old.shape[1]
    held, rest = _split(blocks, 2 * fade)
    held = mix(held, len(old)).copy()
    new = held[:, fade:]
    new += ((old - held[:, :fade])[:, ::-1] * _share(fade))[:, : new.shape[1]]
    yield new
    for block in rest:
        yield mix(block, len(old))


def before_recording(
    blocks: Iterable[Float[np.ndarray, "c n"]], old: Float[np.ndarray, "c fade"]
) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield new audio that joins the beginning of a recording without a discontinuity, as in `after_recording`.

    `old` are the first samples of the recording, and `blocks` end with the codec's version of these samples.
    """
    fade, held = old.shape[1], np.zeros((len(old), 0))
    for block in blocks:
        held = np.concatenate([held, mix(block, len(old))], axis=1)
        ready = held.shape[1] - 2 * fade
        if ready > 0:
            yield held[:, :ready]
            held = held[:, ready:]
    new = held[:, : held.shape[1] - fade].copy()
    difference = ((old - held[:, held.shape[1] - fade :]) * _share(fade))[:, ::-1]
    new[:, new.shape[1] - fade :] += difference
    yield new


def _share(fade: int) -> Float[np.ndarray, " fade"]:
    return 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))


def _split(
    blocks: Iterable[Float[np.ndarray, "c n"]], count: int
) -> tuple[Float[np.ndarray, "c n"], Iterator[Float[np.ndarray, "c n"]]]:
    """Return the first `count` samples, and an iterator of blocks of all other samples."""
    source, parts, have = iter(blocks), [], 0
    while have < count and (block := next(source, None)) is not None:
        parts.append(block)
        have += block.shape[1]
    joined = np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)

    def rest() -> Iterator[Float[np.ndarray, "c n"]]:
        yield joined[:, count:]
        yield from source

    return joined[:, :count], rest()
