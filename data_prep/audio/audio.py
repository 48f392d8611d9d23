"""Read any audio file, resampled and mixed on request; measure its true length; write a wav file.

`decoders.py` opens files with libsndfile or PyAV. The length of a file is the number of decoded samples, because headers may be
wrong. Wav, flac and ogg vorbis support random access. All other formats are decoded from their beginning, at some hundreds of
times real time: libsndfile returns wrong samples after a seek in mp3, and some compressed formats have no seek.
"""

from __future__ import annotations

import math
import wave
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio.decoders import AudioDecoder, AvDecoder, decoded, open_source
from data_prep.errors import BadAudio
from data_prep.files import replacing

SURROUND = {
    3: "LRC",
    4: "LRLR",
    5: "LRCLR",
    6: "LRC-LR",
    7: "LRC-CLR",
    8: "LRC-LRLR",
}  # channels -> side of each channel (left, right, centre), in the order of wav files; "-" is the subwoofer
MARGIN = 0.1  # seconds read on both sides of an excerpt, so that it is resampled like the whole file


@dataclass(frozen=True)
class AudioInfo:
    """Content of a file after decoding all of it; `peak` is the largest |sample|, nan if a sample is not finite."""

    seconds: float
    sample_rate: int
    channels: int
    frames: int
    peak: float
    tracks: int = 1  # tracks with audio; the default one is read


def probe(path: str | Path) -> AudioInfo:
    """Decode the whole file and return its content; BadAudio ("unreadable" or "truncated") if the decoding fails."""
    path, frames, peak = Path(path), 0, np.float32(0)
    with closing(open_source(path)) as source:
        for block in decoded(path, source):
            frames += block.shape[1]
            peak = np.maximum(peak, np.abs(block).max())  # keeps nan and inf
    if not frames and isinstance(source, AvDecoder):  # ffmpeg accepts many files that are not audio
        raise BadAudio(path, "unreadable", "there is no audio in it")
    peak = float(peak) if np.isfinite(peak) else math.nan
    return AudioInfo(frames / source.sample_rate, source.sample_rate, source.channels, frames, peak, source.tracks)


def read(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> tuple[np.ndarray, int]:
    """Return (float32 (channels, samples), sample rate) of a file, or of an excerpt of `seconds` that begins at `start`.

    An excerpt has the same samples as the whole file. After resampling they are equal within the accuracy of the filter, 1e-4.
    An excerpt is shorter if the file ends before. Raises BadAudio if the samples cannot all be decoded.
    """
    path = Path(path)
    with closing(open_source(path)) as source:
        rate, target = source.sample_rate, sample_rate or source.sample_rate
        common = math.gcd(rate, target)
        # `down` samples of the file have the duration of `up` samples of the result
        down, up = rate // common, target // common
        begin = round(start * target)
        count = None if seconds is None else round(seconds * target)
        margin = 0 if rate == target else math.ceil(MARGIN * target)
        step = max(0, begin - margin) // up  # both rates have a sample at this time
        need = None if count is None else math.ceil((begin + count + margin) * down / up) - step * down
        audio = _collect(path, source, step * down, need)
    if rate != target:
        audio = _resample(audio, rate, target, round(audio.shape[1] * up / down))
    skip = begin - step * up
    audio = audio[:, skip : None if count is None else skip + count]
    return np.ascontiguousarray(mix(audio, channels or len(audio))), target


def mix(audio: np.ndarray, channels: int) -> np.ndarray:
    """Convert (c, t) to (channels, t).

    One channel is the mean of all channels. Surround sound is mixed to two channels by its layout. In all other cases each
    channel is a copy of the mean.
    """
    if len(audio) == channels:
        return audio
    if channels == 1:
        return audio.mean(axis=0, keepdims=True)
    if channels == 2 and len(audio) in SURROUND:
        return np.stack([_weighted(audio, SURROUND[len(audio)], side) for side in (0, 1)])
    if channels == 2 and len(audio) > 2:
        return np.stack([audio[0::2].mean(axis=0), audio[1::2].mean(axis=0)])
    return np.repeat(audio.mean(axis=0, keepdims=True), channels, axis=0)


def _weighted(audio: np.ndarray, layout: str, side: int) -> np.ndarray:
    """Mix one side of surround sound: its front channel, plus the centre and the other channels of this side at -3 dB."""
    mixed = audio[side]
    others = [c for c, place in enumerate(layout) if c > 1 and place in "C" + "LR"[side]]
    for channel in others:
        mixed = mixed + audio[channel] * 0.7071
    return mixed / (1 + 0.7071 * len(others))


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write float (channels, samples) in [-1, 1] as clipped 16-bit PCM, atomically.

    The bytes are a pure function of the samples. Reading the file returns the samples rounded to 1/32768. Raises ValueError for
    another shape or for values that are not finite.
    """
    path = Path(path)
    samples = to_pcm(audio, path)
    # the file is opened here, because the destructor of wave fails after a failed open
    with replacing(path) as temporary, temporary.open("wb") as raw, wave.open(raw, "wb") as file:
        file.setparams((len(samples), 2, sample_rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.T.tobytes())


def to_pcm(audio: np.ndarray, path: object) -> np.ndarray:
    """Convert float samples (channels, t) to 16 bits, rounded and clipped; ValueError with `path` for other input."""
    audio = np.asarray(audio)
    if audio.ndim != 2 or not np.isfinite(audio).all():
        raise ValueError(f"{path}: expected finite samples (channels, samples), got shape {audio.shape}")
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2")


def _collect(path: Path, source: AudioDecoder, start: int, count: int | None) -> np.ndarray:
    """Join the blocks from sample `start` on, at most `count` samples; (channels, samples)."""
    blocks, have = [np.zeros((source.channels, 0), np.float32)], 0
    for block in decoded(path, source, start):
        blocks.append(block)
        have += block.shape[1]
        if count is not None and have >= count:
            break
    return np.concatenate(blocks, axis=1)[:, :count]


def _resample(audio: np.ndarray, rate: int, target: int, count: int) -> np.ndarray:
    """Resample (channels, t) to exactly `count` samples per channel."""
    import soxr  # librosa uses it too, but takes seconds to import

    result = soxr.resample(audio.T, rate, target, quality="HQ").T if audio.size else audio
    return np.pad(result[:, :count], ((0, 0), (0, max(0, count - result.shape[1]))))
