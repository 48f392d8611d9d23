"""Copy an audio file and replace some of its samples; all other samples stay bit-identical.

Samples are copied in the type of the file, integers as integers, so that nothing is rounded outside the replaced regions. The
copy has the same rate, channels, container and sample format. Lossy formats (mp3, ogg, m4a, ..) cannot be written again without
loss. Their decoded samples are written as a wav file of 32-bit floats, except if the suffix of the target is .ogg, .opus, .mp3
or .flac. The copy is made in blocks, in constant memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import mix
from data_prep.audio.decoders import BLOCK, SoundFileDecoder, decoded, open_source
from data_prep.audio.writers import FORMATS, format_of, writing
from data_prep.errors import BadAudio, UserError

BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
FLOATS = {"FLOAT": "float32", "DOUBLE": "float64"}
LOSSLESS = {".wav": "WAV", ".flac": "FLAC", ".aif": "AIFF", ".aiff": "AIFF", ".w64": "W64", ".rf64": "RF64"}


@dataclass(frozen=True)
class Piece:
    """New audio for the samples [start, end) of a file, with a crossfade over `fade` samples inside both ends.

    A piece that ends at sample 0 or before, or begins after the last sample, extends the file. `audio` yields (c, n) blocks
    that together have at least as many samples as the piece. If their number of channels differs from the file, they are mixed
    or repeated.
    """

    start: int
    end: int
    fade: int
    audio: Iterable[Float[np.ndarray, "c n"]]


class Original:
    """An open audio file with samples in its own type.

    `blocks()` yields (n, c) of int32 (left-justified), float32 or float64.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.source, self.exact = path, open_source(path), False
        self.subtype, self.format = "FLOAT", "WAV"
        if isinstance(self.source, SoundFileDecoder) and self.source.subtype in {**BITS, **FLOATS}:
            self.subtype, self.format, self.exact = self.source.subtype, self.source.format, True
        self.sample_rate, self.channels = self.source.sample_rate, self.source.channels

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all samples from the first on."""
        dtype = FLOATS.get(self.subtype, "int32")
        yield from (block.T for block in decoded(self.path, self.source, dtype=dtype))

    def to_float(self, block: np.ndarray) -> Float[np.ndarray, "n c"]:
        """Convert samples of the file to floats in [-1, 1]."""
        return block / 2.0**31 if block.dtype == np.int32 else block.astype(np.float64)

    def from_float(self, audio: Float[np.ndarray, "n c"]) -> np.ndarray:
        """Convert floats to samples of the file, rounded and clipped to its bits."""
        if self.subtype in FLOATS:
            return audio.astype(FLOATS[self.subtype])
        bits = BITS[self.subtype]
        whole = np.clip(np.rint(audio * 2.0 ** (bits - 1)), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
        return (whole.astype(np.int64) << (32 - bits)).astype(np.int32)

    def fits(self, container: str) -> bool:
        """Return whether files of the format `container` can store samples of this format unchanged."""
        import soundfile

        return soundfile.check_format(container, self.subtype) and not (container == "FLAC" and self.channels > 8)

    def close(self) -> None:
        self.source.close()


def suffix_of(path: Path) -> str:
    """Return the suffix for a copy of this file: its own suffix if the copy is lossless, else .wav."""
    with closing(Original(path)) as original:
        return path.suffix.lower() if original.exact and path.suffix else ".wav"


def copy_excerpt(source: Path, stem: Path, frames: int | None = None) -> Path:
    """Copy the first `frames` samples (None: all) of a file unchanged; return the path of the copy.

    The copy is `stem`.flac, or `stem`.wav if FLAC cannot hold the samples.
    """
    with closing(Original(source)) as original:
        suffix, container = (".flac", "FLAC") if original.fits("FLAC") else (".wav", "WAV")
        target = stem.with_name(stem.name + suffix)
        with writing(target, original.channels, original.sample_rate, (container, original.subtype)) as file:
            left = frames
            for block in original.blocks():
                file.write_native(block if left is None else block[:left])
                left = None if left is None else left - len(block)
                if left is not None and left <= 0:
                    break
    return target


def form_of(path: Path) -> tuple[str, str]:
    """Return container and sample format of a lossless copy of a file, as libsndfile names them."""
    with closing(Original(path)) as original:
        return original.format, original.subtype


def target_form(source: Path, target: Path) -> tuple[str, str]:
    """Return container and sample format of a copy of `source` for the suffix of `target`; raise UserError for an unknown suffix.

    A lossless copy has the form of the source. Files for .ogg, .opus and .mp3 are encoded again, and decoded floats are rounded
    to 24 bits for flac.
    """

    suffix = target.suffix.lower()
    with closing(Original(source)) as original:
        if original.exact and suffix == original.path.suffix.lower():
            return original.format, original.subtype
        if suffix in FORMATS and (suffix not in LOSSLESS or not (original.exact or original.fits(LOSSLESS[suffix]))):
            return format_of(target, original.channels)
        if suffix not in LOSSLESS:
            raise UserError(f"{target} cannot be written; expected a name that ends in {', '.join({**FORMATS, **LOSSLESS})}")
        if not original.fits(LOSSLESS[suffix]):
            held = f"the samples of {source} ({original.subtype}, {original.channels} channels)"
            raise UserError(f"{target} cannot hold {held} as they are; name it {target.with_suffix('.wav').name}")
        return LOSSLESS[suffix], original.subtype


def splice(
    source: Path, target: Path, pieces: Sequence[Piece], frames: int, form: tuple[str, str] | None = None,
    then: Callable[[Path], object] | None = None,
) -> None:  # fmt: skip
    """Copy `source`, which has `frames` samples, to `target` with `pieces` replaced, atomically. Pieces must not overlap.

    `form` is the container and sample format of the target (default: `target_form`). `then` is called with the path of the
    finished file before it is renamed. Raises BadAudio if the source cannot be decoded, and UserError if the format of the
    target cannot hold the samples.
    """
    import soundfile

    pieces = sorted(pieces, key=lambda piece: piece.start)
    form = form or target_form(source, target)
    if not soundfile.check_format(*form):
        raise UserError(
            f"{target} cannot be written: there are no files of the form {' '.join(map(str, form))}; name another one"
        )
    with closing(Original(source)) as original:
        with writing(target, original.channels, original.sample_rate, form, then) as file:
            for block in _spliced(original, pieces, frames):
                file.write_native(block)


def share_of_old(at: np.ndarray, piece: Piece, frames: int) -> Float[np.ndarray, " n"]:
    """Return the weight of the old audio at samples `at` of a piece: a raised cosine from 1 to 0 and back to 1.

    The weights of old and new audio sum to 1 everywhere. There is no fade at the start or end of the file.
    """
    fade = min(piece.fade, (piece.end - piece.start) // 2)
    if not fade:
        return np.zeros(len(at))
    left = (at - piece.start + 0.5) / fade if piece.start > 0 else np.ones(len(at))
    right = (piece.end - at - 0.5) / fade if piece.end < frames else np.ones(len(at))
    return 0.5 + 0.5 * np.cos(math.pi * np.clip(np.minimum(left, right), 0.0, 1.0))


def _spliced(original: Original, pieces: Sequence[Piece], frames: int) -> Iterator[np.ndarray]:
    """Yield the blocks (n, c) of the copy in the sample type of the file."""
    streams = [_Stream(piece.audio, original.channels) for piece in pieces]
    for piece, stream in zip(pieces, streams):
        if piece.end <= 0:
            yield from (original.from_float(new) for new in stream.blocks(piece.end - piece.start))
    at = 0
    for block in original.blocks():
        block = block.copy()
        for piece, stream in zip(pieces, streams):
            low, high = max(at, piece.start), min(at + len(block), piece.end)
            if low < high:
                new = stream.take(high - low)
                old = original.to_float(block[low - at : high - at])
                share = share_of_old(np.arange(low, high), piece, frames)[:, None]
                block[low - at : high - at] = original.from_float(new + share * (old - new))
        at += len(block)
        yield block
    if at != frames:
        raise BadAudio(original.path, "truncated", f"it had {frames} samples a moment ago and now has {at}")
    for piece, stream in zip(pieces, streams):
        if piece.start >= frames:
            yield from (original.from_float(new) for new in stream.blocks(piece.end - piece.start))


class _Stream:
    """Reads requested numbers of samples, (n, channels), from blocks (c, n)."""

    def __init__(self, audio: Iterable[np.ndarray], channels: int) -> None:
        self.audio, self.channels, self.held = iter(audio), channels, np.zeros((0, channels))

    def take(self, count: int) -> Float[np.ndarray, "n c"]:
        parts = [self.held]
        while (have := sum(map(len, parts))) < count:
            block = next(self.audio, None)
            if block is None:
                raise ValueError(f"a piece gave {have} samples where {count} were to be replaced")
            parts.append(mix(np.asarray(block, np.float64), self.channels).T)
        joined = np.concatenate(parts)
        self.held = joined[count:]
        return joined[:count]

    def blocks(self, count: int) -> Iterator[np.ndarray]:
        for done in range(0, count, BLOCK):
            yield self.take(min(BLOCK, count - done))
