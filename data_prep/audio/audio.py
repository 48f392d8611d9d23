"""Read any audio file, resampled and mixed as asked; measure its true length; write audio files.

`decoders.py` opens files by libsndfile or PyAV. The length of a file is what its decoder yields, whatever its header states. Wav,
flac and ogg vorbis are read at any place at once; all others are decoded from their beginning, at some hundreds of times
real time: libsndfile's seeking in mp3 gives wrong samples, and in some compressed formats there is none.
"""

from __future__ import annotations

import math
import wave
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.audio.decoders import BLOCK, AudioDecoder, AvDecoder, decoded, open_source, open_to_write
from data_prep.errors import BadAudio, UserError
from data_prep.files import replacing

SURROUND = {
    3: "LRC",
    4: "LRLR",
    5: "LRCLR",
    6: "LRC-LR",
    7: "LRC-CLR",
    8: "LRC-LRLR",
}  # channels by side, in the order of wav files
MARGIN = 0.1  # seconds read on both sides of a resampled piece, so that it equals a piece of the whole


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, by decoding all of it; `peak` is the largest |sample|, nan where one is not finite."""

    seconds: float
    sample_rate: int
    channels: int
    frames: int
    peak: float
    tracks: int = 1  # with audio; the default one is read


def probe(path: str | Path) -> AudioInfo:
    """Decode the whole file and return what it holds; BadAudio ("unreadable" or "truncated") where that fails."""
    path, frames, peak = Path(path), 0, np.float32(0)
    with closing(open_source(path)) as source:
        for block in decoded(path, source):
            frames += block.shape[1]
            peak = np.maximum(peak, np.abs(block).max())  # nan and inf stay
    if not frames and isinstance(source, AvDecoder):  # ffmpeg takes many a file for audio
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
    """Return (float32 (channels, samples), sample rate) of a file, or of `seconds` of it from `start`.

    A piece is the same samples as that piece of the whole, also when resampled (within the filter's accuracy, 1e-4). It
    is shorter where the file ends. Raises BadAudio where not all of it can be decoded.
    """
    path = Path(path)
    with closing(open_source(path)) as source:
        rate, target = source.sample_rate, sample_rate or source.sample_rate
        common = math.gcd(rate, target)
        down, up = rate // common, target // common  # `down` samples of the file last as long as `up` of the result
        begin = round(start * target)
        count = None if seconds is None else round(seconds * target)
        margin = 0 if rate == target else math.ceil(MARGIN * target)
        step = max(0, begin - margin) // up  # where both rates have a sample at the same moment
        need = None if count is None else math.ceil((begin + count + margin) * down / up) - step * down
        audio = _collect(path, source, step * down, need)
    if rate != target:
        audio = _resample(audio, rate, target, round(audio.shape[1] * up / down))
    skip = begin - step * up
    audio = audio[:, skip : None if count is None else skip + count]
    return np.ascontiguousarray(mix(audio, channels or len(audio))), target


def mix(audio: np.ndarray, channels: int) -> np.ndarray:
    """Turn (c, t) into (channels, t): one is the mean, more repeat a mono sound; surround sound becomes two by its layout."""
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
    """One side of surround sound: its front channel, and at -3 dB the middle and its other channels."""
    mixed = audio[side]
    others = [c for c, place in enumerate(layout) if c > 1 and place in "C" + "LR"[side]]
    for channel in others:
        mixed = mixed + audio[channel] * 0.7071
    return mixed / (1 + 0.7071 * len(others))


def write_wav(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write float (channels, samples) in [-1, 1] as 16-bit PCM, clipped, at once or not at all.

    The bytes are a pure function of the samples; reading them back gives the samples rounded to 1/32768. Raises
    ValueError for another shape and for values that are not finite.
    """
    path = Path(path)
    samples = to_pcm(audio, path)
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setparams((len(samples), 2, sample_rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.T.tobytes())


def to_pcm(audio: np.ndarray, path: object) -> np.ndarray:
    """Float samples (channels, t) as 16-bit ones, rounded and clipped; ValueError, naming `path`, if they are none."""
    audio = np.asarray(audio)
    if audio.ndim != 2 or not np.isfinite(audio).all():
        raise ValueError(f"{path}: expected finite samples (channels, samples), got shape {audio.shape}")
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2")


def write_mp3(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write float (channels, samples) as mp3, at once or not at all."""
    samples = np.asarray(audio).T
    with replacing(Path(path)) as temporary, open_to_write(temporary, sample_rate, samples.shape[1], format="MP3") as file:
        file.write(samples)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int, subtype: str = "") -> None:
    """Write float (channels, samples) as the suffix names, at once or not at all: .wav and .aiff (16 bits), .flac (24), .mp3, .ogg.

    `subtype` is another sample format, as libsndfile names it. UserError for a suffix that cannot be written.
    """
    path = Path(path)
    forms = {
        ".wav": ("WAV", "PCM_16"),
        ".aiff": ("AIFF", "PCM_16"),
        ".flac": ("FLAC", "PCM_24"),
        ".mp3": ("MP3", ""),
        ".ogg": ("OGG", ""),
    }
    if path.suffix.lower() not in forms:
        raise UserError(f"{path} cannot be written; expected a name that ends in {', '.join(forms)}")
    container, usual = forms[path.suffix.lower()]
    samples = np.asarray(audio).T
    with replacing(path) as temporary:
        form = {"subtype": subtype or usual or None, "format": container}
        with open_to_write(temporary, sample_rate, samples.shape[1], **form) as file:
            for at in range(0, len(samples), BLOCK):  # libsndfile dies of half a minute of ogg at once
                file.write(samples[at : at + BLOCK])


def _collect(path: Path, source: AudioDecoder, start: int, count: int | None) -> np.ndarray:
    """Join the blocks from sample `start` until there are `count` samples or no more; (channels, samples)."""
    blocks, have = [np.zeros((source.channels, 0), np.float32)], 0
    for block in decoded(path, source, start):
        blocks.append(block)
        have += block.shape[1]
        if count is not None and have >= count:
            break
    return np.concatenate(blocks, axis=1)[:, :count]


def _resample(audio: np.ndarray, rate: int, target: int, count: int) -> np.ndarray:
    """Resample (channels, t) to exactly `count` samples a channel."""
    import soxr  # what librosa resamples with; librosa itself takes seconds to import

    result = soxr.resample(audio.T, rate, target, quality="HQ").T if audio.size else audio
    return np.pad(result[:, :count], ((0, 0), (0, max(0, count - result.shape[1]))))
