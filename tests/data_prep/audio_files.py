"""Small audio files with one fault or peculiarity each, as users have them; made from a tone of three seconds."""

from __future__ import annotations

import io
import re
import resource
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

RATE, FRAMES = 22050, 66150
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(FRAMES) / RATE)).astype(np.float32)
PCM = (TONE * 32767).astype("<i2").tobytes()


def encoded(form: str, subtype: str | None = None, *, audio: np.ndarray = TONE, rate: int = RATE) -> bytes:
    """The tone, or other audio (n, channels), as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def one_of(channels: int, sounding: int) -> np.ndarray:
    """The tone in one channel of several."""
    audio = np.zeros((FRAMES, channels), np.float32)
    audio[:, sounding] = TONE
    return audio


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """A chunk of a wav file; `size` is stated in place of the true one."""
    return name + struct.pack("<I", len(body) if size is None else size) + body


def wav(
    *, rate: int = RATE, before: bytes = b"", data_size: int | None = None, after: bytes = b"", form: bytes = b"RIFF"
) -> bytes:
    """A wav file of the tone with chunks before and after its samples."""
    header = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, 2 * RATE, 2, 16))
    body = b"WAVE" + before + header + chunk(b"data", PCM, data_size) + after
    return form + struct.pack("<I", len(body) if form == b"RIFF" else 0xFFFFFFFF) + body


def rf64(form: bytes = b"RF64") -> bytes:
    """A file of the tone whose sizes are 64 bits long, as broadcasters write them."""
    sizes = chunk(b"ds64", struct.pack("<QQQI", 36 + 36 + len(PCM), len(PCM), FRAMES, 0))
    return wav(before=sizes, data_size=0xFFFFFFFF, form=form)


def stated(data: bytes, name: bytes, size: bytes, skip: int = 0) -> bytes:
    """A file with another size after the name of a chunk, `skip` bytes of the name later."""
    at = data.index(name) + len(name) + skip
    return data[:at] + size + data[at + len(size) :]


def marked_early(data: bytes, page: int) -> bytes:
    """An ogg file with an end mark also in an earlier page, as streams have whose parts were joined by hand."""
    at = [match.start() for match in re.finditer(b"OggS", data)]
    changed, start, stop, crc = bytearray(data), at[page], at[page + 1], 0
    changed[start + 5] |= 4
    changed[start + 22 : start + 26] = bytes(4)
    for byte in changed[start:stop]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    changed[start + 22 : start + 26] = struct.pack("<I", crc)
    return bytes(changed)


def flac(total: int) -> bytes:
    """A flac file of the tone whose header states `total` samples."""
    data = bytearray(encoded("FLAC"))
    bits = int.from_bytes(data[18:26], "big")
    data[18:26] = (bits >> 36 << 36 | total).to_bytes(8, "big")
    return bytes(data)


def adpcm(samples: int) -> bytes:
    """A compressed wav file whose fact chunk states `samples`."""
    data = bytearray(encoded("WAV", "IMA_ADPCM"))
    at = data.index(b"fact") + 8
    data[at : at + 4] = struct.pack("<I", samples)
    return bytes(data)


def with_tracks(
    path: Path, codec: str, tones: Sequence[float], *, default: int = 0, rate: int = 48000, layout: str = "mono"
) -> Path:
    """Write a file by PyAV with one audio track for each frequency; 0 Hz is silence, `default` the track to be played."""
    import av

    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=rate) for _ in tones]
        for number, stream in enumerate(streams):
            stream.layout = layout
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for stream, hertz in zip(streams, tones):
            tone = (0.3 * np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.repeat(tone[None], stream.channels, 0), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
            for piece in resampler.resample(frame) + resampler.resample(None):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
    return path


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit on the size of each file that is written, as a full disk has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
