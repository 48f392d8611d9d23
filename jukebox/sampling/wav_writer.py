"""A wav file that grows with its codes: it is extended after every window, and nothing is decoded twice.

The wav is a pure function of the codes. Its decoder regroups them into blocks of fixed size, so that the bytes equal those of
decoding all codes together. Its header has the current length and is written after the samples, so that the file is valid at
any moment. The decoder's state is not saved; a resumed run decodes the level again.
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
    """The head of a wav file of 16-bit PCM, as the standard library writes it."""
    size = frames * channels * 2
    form = struct.pack("<4sLHHLLHH", b"fmt ", 16, 1, channels, sample_rate, sample_rate * channels * 2, channels * 2, 16)
    return struct.pack("<4sL4s", b"RIFF", size + 36, b"WAVE") + form + struct.pack("<4sL", b"data", size)


class WavWriter:
    """The wav file of one sample at one level, decoded on the device of the codec and written by a thread."""

    def __init__(self, run: Run, codec: Codec, level: int, sample: int, device: str, writer: WriterThread):
        self.run, self.level, self.sample, self.device, self.writer = run, level, sample, device, writer
        self.decoder, self.decoded, self.samples = codec.decoder_stream(run.stream(level).name), 0, 0
        self.channels, self.sample_rate = codec.spec.channels, codec.spec.sample_rate
        self.check = OutputCheck(self.sample_rate, self.sample_rate / run.stream(level).hop)  # the thread's, as long as it runs
        self.path = run.audio_path(level, sample)
        self.path.parent.mkdir(exist_ok=True)

    def is_whole(self) -> bool:
        """Whether the level is completely decoded."""
        frames = self.run.total(self.level) * self.run.request["hops"][self.level]
        if not self.path.is_file() or self.path.stat().st_size != HEADER + frames * self.channels * 2:
            return False
        with open(self.path, "rb") as file:
            return file.read(HEADER) == header(frames, self.channels, self.sample_rate)

    def grow(self) -> None:
        """Decode the codes since the last call; the thread then writes their audio."""
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
        if not began:  # the audio of an earlier process stays until there is as much again
            write_bytes(self.path, head + pcm)
            return
        with open(self.path, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(pcm)
            file.flush()
            file.seek(0)
            file.write(head)
