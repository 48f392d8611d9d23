"""A wav file that grows with its codes: each window's audio is appended, and no code is decoded twice.

The wav file is a pure function of the codes. The decoder regroups the codes into blocks of fixed size, so that the bytes equal
those of one decoding of all codes. The header has the current length and is written after the samples, so that the file is
always valid. The decoder's state is not saved. A resumed run decodes an unfinished level from its beginning.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from data_prep.audio.audio import to_pcm
from data_prep.files import write_bytes
from jukebox.runs.run import Run
from jukebox.sampling.output_checks import OutputCheck
from jukebox.sampling.writer_thread import WriterThread
from vqvae.codec import Codec, as_tensor

HEADER = 44  # bytes


def header(frames: int, channels: int, sample_rate: int) -> bytes:
    """Return the header of a wav file of 16-bit PCM with `frames` samples per channel, as the standard library writes it."""
    size = frames * channels * 2
    form = struct.pack("<4sLHHLLHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * channels * 2, channels * 2, 16)
    return struct.pack("<4sL4s", b"RIFF", size + 36, b"WAVE") + form + struct.pack("<4sL", b"data", size)


class WavWriter:
    """Writes the wav file of one sample at one level. The codec decodes on its device, and a thread writes the samples."""

    def __init__(self, run: Run, codec: Codec, level: int, sample: int, device: str, writer: WriterThread):
        self.run, self.level, self.sample, self.device, self.writer = run, level, sample, device, writer
        self.decoder, self.decoded, self.samples = codec.decoder_stream(run.stream(level).name), 0, 0
        self.channels, self.sample_rate = codec.spec.channels, codec.spec.sample_rate
        self.check = OutputCheck(self.sample_rate, self.sample_rate / run.stream(level).hop)  # used by the running thread only
        self.path = run.audio_path(level, sample)
        self.path.parent.mkdir(exist_ok=True)

    def is_whole(self) -> bool:
        """Whether the wav file has the audio of all frames of the level."""
        frames = self.run.total(self.level) * self.run.request["hops"][self.level]
        if not self.path.is_file() or self.path.stat().st_size != HEADER + frames * self.channels * 2:
            return False
        with open(self.path, "rb") as file:
            return file.read(HEADER) == header(frames, self.channels, self.sample_rate)

    def grow(self) -> None:
        """Decode the codes that were written since the last call, and let the thread write their audio."""
        codes = self.run.codes(self.level, [self.sample], self.decoded)[0]
        if not len(codes):
            return
        self.decoded += len(codes)
        values = as_tensor(codes).to(self.device)
        audio = [piece.cpu() for piece in self.decoder.push(values, last=self.decoded == self.run.total(self.level))]
        self.writer.add(lambda: self._write(codes, audio))

    def _write(self, codes: Shaped[np.ndarray, "t *frame"], audio: Sequence[Tensor]) -> None:
        self.check.push_codes(codes)
        pcm = b"".join(to_pcm(self.check.push(piece.numpy()), self.path).T.tobytes() for piece in audio)
        if not pcm:
            return
        began, self.samples = self.samples > 0, self.samples + len(pcm) // (2 * self.channels)
        head = header(self.samples, self.channels, self.sample_rate)
        if not began:  # the file of an earlier process is replaced at the first write
            write_bytes(self.path, head + pcm)
            return
        with open(self.path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(pcm)
            file.flush()
            file.seek(0)
            file.write(head)
