"""Write audio files in blocks, atomically; the suffix of the name selects the format.

libsndfile writes the files. Its errors have no reason ("System error"), and errors at the close of a file are lost. So a few
more bytes are written to find the reason, for example a full disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import to_pcm
from data_prep.audio.decoders import AUDIO_SUFFIXES, BLOCK, VORBIS_ORDER
from data_prep.errors import UserError
from data_prep.files import replacing

FORMATS = {  # suffix -> (container, sample format) as libsndfile names them
    ".wav": ("WAV", "PCM_16"), ".aif": ("AIFF", "PCM_16"), ".aiff": ("AIFF", "PCM_16"), ".flac": ("FLAC", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip
RATES = {  # sample format -> the rates that it supports; audio is resampled to the next higher rate
    "OPUS": (8000, 12000, 16000, 24000, 48000),
    "MPEG_LAYER_III": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
MOST_CHANNELS = {"MP3": 2, "FLAC": 8}
SPARE = 1 << 13  # bytes, more than a disk block
ADD_PEAK_CHUNK = 0x1050  # SFC_SET_ADD_PEAK_CHUNK of libsndfile, which soundfile does not name


def with_suffix(path: Path, usual: str = ".wav") -> Path:
    """Return the path, with the usual suffix appended if it has none; "v1.2" and "01. Intro" have no suffix."""
    has_suffix = path.suffix.lower() in AUDIO_SUFFIXES or re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{1,3}", path.suffix)
    return path if has_suffix else path.with_name(path.name + usual)


def format_of(path: Path, channels: int) -> tuple[str, str]:
    """Return container and sample format for the suffix of a path; UserError if the file cannot be written."""
    if path.suffix.lower() not in FORMATS:
        *names, last = FORMATS
        raise UserError(f"{path} cannot be written; expected a name that ends in {', '.join(names)} or {last}")
    container, subtype = FORMATS[path.suffix.lower()]
    if channels > (most := MOST_CHANNELS.get(container, 255)):
        raise UserError(f"{path} cannot hold {channels} channels, {container} has {most} at most; name it {path.stem}.wav")
    return container, subtype


class AudioWriter:
    """An audio file that is written in blocks; `samples` counts input samples."""

    def __init__(self, file: Any, path: Path, sample_rate: int) -> None:
        self.file, self.path, self.samples, self.resampler = file, path, 0, None
        self.order = np.argsort(VORBIS_ORDER[file.channels]) if file.format == "OGG" and file.channels in VORBIS_ORDER else None
        if file.samplerate != sample_rate:
            import soxr

            self.resampler = soxr.ResampleStream(sample_rate, file.samplerate, file.channels, "float32", "HQ")

    def write(self, block: Float[np.ndarray, "c n"]) -> None:
        """Append float samples in [-1, 1]; raise ValueError if a sample is not finite (except in a file of floats)."""
        pcm = None if self.file.subtype in ("FLOAT", "DOUBLE") else to_pcm(block, self.path).T
        self.write_native(pcm if pcm is not None and self.file.subtype == "PCM_16" else np.asarray(block).T)

    def write_native(self, block: np.ndarray) -> None:
        """Append samples (n, c) of any type that libsndfile accepts: left-justified integers, or floats in [-1, 1]."""
        self.samples += len(block)
        if self.resampler is not None:
            whole = {"int16": 2.0**15, "int32": 2.0**31}.get(block.dtype.name, 1.0)
            block = self.resampler.resample_chunk(np.ascontiguousarray(block / whole, np.float32))
        self._append(block)

    def fill(self, samples: int) -> None:
        """Append silence until there are `samples` samples."""
        while (missing := min(samples - self.samples, BLOCK)) > 0:
            self.write(np.zeros((self.file.channels, missing), np.float32))

    def flush(self) -> None:
        """Append the samples that the resampler still holds."""
        if self.resampler is not None:
            self._append(self.resampler.resample_chunk(np.zeros((0, self.file.channels), np.float32), last=True))

    def _append(self, block: np.ndarray) -> None:
        block = np.ascontiguousarray(block if self.order is None else block[:, self.order])
        for at in range(0, len(block), BLOCK):  # libsndfile crashes on half a minute of ogg in one call
            self.file.write(block[at : at + BLOCK])


@contextmanager
def writing(
    path: Path, channels: int, sample_rate: int, form: tuple[str, str] | None = None, then: Callable[[Path], object] | None = None
) -> Iterator[AudioWriter]:  # fmt: skip
    """Open an audio file for writing; it is renamed into place when the block ends without error.

    `form` overrides the format of the suffix. `then` is called with the path of the finished file before it is renamed. Equal
    samples result in equal bytes: the PEAK chunk is switched off, because libsndfile would write the time of day into it.
    """
    import soundfile

    container, subtype = form or format_of(path, channels)
    rates = RATES.get(subtype, (sample_rate,))
    rate = min((each for each in rates if each >= sample_rate), default=rates[-1])
    with replacing(path) as temporary:
        temporary.touch()  # an OSError of this call has a reason
        name: Any = os.fsencode(temporary)  # the name may not be UTF-8
        try:
            with soundfile.SoundFile(name, "w", rate, channels, subtype, format=container) as file:
                soundfile._snd.sf_command(file._file, ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
                writer = AudioWriter(file, path, sample_rate)
                yield writer
                writer.flush()
            if then:
                then(temporary)
        finally:
            size = temporary.stat().st_size
            with temporary.open("ab") as end:
                end.write(bytes(SPARE))  # raises the OSError that a library has hidden, such as a full disk
            os.truncate(temporary, size)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int, subtype: str = "") -> None:
    """Write float (channels, samples) in the format of the suffix (FORMATS), atomically; UserError for an unknown suffix.

    `subtype` selects another sample format by its libsndfile name.
    """
    path, audio = Path(path), np.asarray(audio)
    container, usual = format_of(path, len(audio))
    with writing(path, len(audio), sample_rate, (container, subtype or usual)) as writer:
        writer.write(audio)
