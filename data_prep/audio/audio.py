"""Read any sound file, resampled and mixed as asked; measure its true length; write 16-bit wav files.

libsndfile (soundfile) reads wav, flac, ogg, opus, mp3 and aiff; PyAV, where it is installed, reads m4a, aac, wma and
the sound of videos. The length of a file is what comes out of its decoder, never what its header says. Wav, flac and
ogg are read at any place at once; mp3 and PyAV's formats are decoded from their beginning, at some hundreds of times
real time: libsndfile's seeking in mp3 gives wrong samples.
"""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.audio.containers import Mp3Frames, find_cut
from data_prep.errors import BadAudio, UserError
from data_prep.files import replacing

SOUNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
PYAV_SUFFIXES = frozenset({".m4a", ".m4b", ".aac", ".wma", ".mka", ".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi"})
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | PYAV_SUFFIXES
BLOCK = 1 << 14  # samples decoded at a time
MARGIN = 0.1  # seconds read on both sides of a resampled piece, so that it equals a piece of the whole


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, by decoding all of it; `peak` is the largest |sample|, nan where one is not finite."""

    seconds: float
    sample_rate: int
    channels: int
    frames: int
    peak: float


class AudioDecoder(Protocol):
    """An open file: `blocks(start)` yields float32 (channels, n) from sample `start` to the end."""

    sample_rate: int
    channels: int
    declared: int | None  # samples the container promises, where it can be trusted to know
    slack: int  # samples by which it may promise too much

    def blocks(self, start: int) -> Iterator[np.ndarray]: ...
    def close(self) -> None: ...


class _SoundFile:
    """A file that libsndfile reads."""

    library, slack = "libsndfile", 0

    def __init__(self, path: Path) -> None:
        import soundfile

        class Sequential(soundfile.SoundFile):
            """Soundfile seeks after each read, to where it is: harmless but in mp3, where it gives wrong samples."""

            def seekable(self) -> bool:
                return False

        self.file = soundfile.SoundFile(str(path))
        self.seeks = not self.file.subtype.startswith("MPEG")
        if not self.seeks:
            self.file.close()
            frames = Mp3Frames(path.read_bytes())
            self.file = Sequential(io.BytesIO(frames.honest()) if frames.count else str(path))
        self.sample_rate, self.channels = self.file.samplerate, self.file.channels
        self.declared = self.file.frames if self.file.format == "FLAC" and self.file.frames < 1 << 36 else None

    def blocks(self, start: int) -> Iterator[np.ndarray]:
        if self.seeks:
            self.file.seek(min(start, self.file.frames))
            start = 0
        while len(block := self.file.read(BLOCK, dtype="float32", always_2d=True)):
            if start < len(block):
                yield block[start:].T
            start = max(0, start - len(block))

    def close(self) -> None:
        self.file.close()


class _Av:
    """A file that PyAV (ffmpeg) reads; of a video, its first sound."""

    library, slack = "PyAV", 8192  # some mp4 files count the encoder's delay

    def __init__(self, path: Path) -> None:
        import av

        self.container: Any = av.open(str(path))
        streams = [stream for stream in self.container.streams.audio if stream.rate and stream.channels]
        if not streams:
            self.container.close()
            raise BadAudio(path, "unreadable", "there is no sound in it")
        self.stream = streams[0]
        self.sample_rate, self.channels = self.stream.rate, self.stream.channels
        # mp4 counts its time in samples (the last block of aac is padded); others know their length roughly or not at all
        is_per_sample = self.stream.time_base == Fraction(1, self.sample_rate)
        self.declared = (self.stream.duration or None) if is_per_sample else None

    def blocks(self, start: int) -> Iterator[np.ndarray]:
        import av

        resampler = av.AudioResampler(format="fltp", layout=self.stream.layout, rate=self.sample_rate)
        left = self.declared if self.declared is not None else 1 << 62
        for packet in self.container.decode(self.stream):
            for frame in resampler.resample(packet):
                block = frame.to_ndarray()[:, :left]
                left -= block.shape[1]
                if start < block.shape[1]:
                    yield block[:, start:]
                start = max(0, start - block.shape[1])

    def close(self) -> None:
        self.container.close()


def probe(path: str | Path) -> AudioInfo:
    """Decode the whole file and return what it holds; BadAudio ("unreadable" or "truncated") where that fails."""
    path, frames, peak, declared = Path(path), 0, np.float32(0), 0
    cut = find_cut(path) if path.is_file() else None
    try:
        with closing(open_source(path)) as source:
            declared = (source.declared or 0) - source.slack
            for block in source.blocks(0):
                frames += block.shape[1]
                peak = np.maximum(peak, np.abs(block).max())  # nan and inf stay
    except BadAudio as error:
        raise (BadAudio(path, "truncated", cut) if cut else error) from error
    except Exception as error:  # every decoder has its own kinds
        reason = "truncated" if cut or frames or declared > 0 else "unreadable"
        raise BadAudio(path, reason, cut or f"decoding failed after {frames} samples: {error}") from error
    if not cut and frames < declared:
        cut = f"it should have {source.declared} samples and has {frames}"
    if cut:
        raise BadAudio(path, "truncated", cut)
    if not frames and isinstance(source, _Av):  # ffmpeg takes many a file for sound
        raise BadAudio(path, "unreadable", "there is no sound in it")
    peak = float(peak) if np.isfinite(peak) else math.nan
    return AudioInfo(frames / source.sample_rate, source.sample_rate, source.channels, frames, peak)


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
    is shorter where the file ends. Raises BadAudio where nothing can be decoded; what a cut file still holds is read.
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
    """Turn (c, t) into (channels, t): one is the mean, more repeat a mono sound; of surround sound two are mixed."""
    if len(audio) == channels:
        return audio
    if channels == 1:
        return audio.mean(axis=0, keepdims=True)
    if channels == 2 and len(audio) == 6:  # front left, right, centre, low, back left, right
        centre = audio[2] * 0.7071
        return np.stack([audio[side] + centre + audio[4 + side] * 0.7071 for side in (0, 1)]) / 2.4142
    if channels == 2 and len(audio) > 2:
        return np.stack([audio[0::2].mean(axis=0), audio[1::2].mean(axis=0)])
    return np.repeat(audio.mean(axis=0, keepdims=True), channels, axis=0)


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
    import soundfile

    with replacing(Path(path)) as temporary:
        soundfile.write(temporary, np.asarray(audio).T, sample_rate, format="MP3")


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int, subtype: str = "") -> None:
    """Write float (channels, samples) as the suffix names, at once or not at all: .wav and .aiff (16 bits), .flac (24), .mp3, .ogg.

    `subtype` is another sample format, as libsndfile names it. UserError for a suffix that cannot be written.
    """
    import soundfile

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
    with replacing(path) as temporary:
        soundfile.write(temporary, np.asarray(audio).T, sample_rate, format=container, subtype=subtype or usual or None)


def open_source(path: Path) -> AudioDecoder:
    """Open with libsndfile or PyAV, by suffix first, then with the other: suffixes lie. Raises BadAudio."""
    if not path.is_file():
        raise BadAudio(path, "unreadable", "there is no such file")
    if path.stat().st_size == 0:
        raise BadAudio(path, "unreadable", "the file is empty")
    order = (_Av, _SoundFile) if path.suffix.lower() in PYAV_SUFFIXES else (_SoundFile, _Av)
    reasons = []
    for kind in order:
        try:
            return kind(path)
        except ModuleNotFoundError as error:
            reasons.append(f"{error.name} is not installed (pip install {error.name})")
        except BadAudio as error:
            reasons.append(error.detail)
        except Exception:  # soundfile.LibsndfileError, av.FFmpegError, ...: their texts mislead about such files
            reasons.append(f"{kind.library} cannot read it")
    raise BadAudio(path, "unreadable", "; ".join(reasons))


def decoded(path: Path, source: AudioDecoder, start: int = 0) -> Iterator[np.ndarray]:
    """The blocks from sample `start` as far as they can be decoded; BadAudio where not even the first can."""
    some = False
    try:
        for block in source.blocks(start):
            some = True
            yield block
    except Exception as error:
        if not some:
            raise BadAudio(path, "unreadable", f"decoding failed: {error}") from error


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
