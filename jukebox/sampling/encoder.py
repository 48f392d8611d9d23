"""LevelEncoder: encodes a run's audio into a stream that no prior of the route samples.

So a song of tokens also has codes of the three levels for branches, upsampling and edits. A song of latents also has tokens,
which another route can continue. If the codec can convert one stream to the other without audio, this conversion is used.
Otherwise the audio of the finest sampled level is decoded again, without the rounding of a wav file, and encoded. So the frames
are a pure function of the codes. An interrupted encoding starts again, and frames on disk stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jukebox.runs.run import Run
from jukebox.sampling.sampler import Written, written_now
from vqvae.codec import as_tensor

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

BLOCK = 2**10  # frames that are read and decoded per block


@dataclass
class LevelEncoder:
    """Encodes one level of a run in one process."""

    run: Run
    level: int
    model: ModelFolder
    device: str

    def __post_init__(self) -> None:
        self.source, self.stream = self.run.stream(self.run.finest).name, self.run.stream(self.level).name
        names = self.source, self.stream
        together = self.stream in self.model.info.codec_of(self.source).config.spec.names
        self.decoder = self.model.codec(names if together else names[:1]).to(self.device)
        self.encoder = self.decoder if together else self.model.codec(names[1:]).to(self.device)

    def fill(self, samples: Sequence[int]) -> Iterator[Written]:
        """Write the missing frames of each sample, and yield updates."""
        for sample in samples:
            if self.run.count(self.level, [sample]) < self.run.total(self.level):
                yield from self._encode(sample)

    @torch.no_grad()
    def _encode(self, sample: int) -> Iterator[Written]:
        first, began = 0, time.perf_counter()
        direct = self.encoder.translated(self._frames(sample), self.source, self.stream)
        encoded = (pieces[self.stream] for pieces in self.encoder.encoder_stream(self._audio(sample), [self.stream]))
        for frames in encoded if direct is None else direct:
            there = self.run.count(self.level, [sample])
            new = frames[max(0, there - first) :]
            if len(new):
                took = time.perf_counter() - began
                self.run.append(self.level, [sample], first, new[None].cpu().numpy(), took)
                yield written_now(self.run, self.level, [sample], len(new), took)
                began = time.perf_counter()
            first += len(frames)

    def _frames(self, sample: int) -> Iterator[Tensor]:
        total = self.run.total(self.run.finest)
        codes = (self.run.codes(self.run.finest, [sample], at, at + BLOCK)[0] for at in range(0, total, BLOCK))
        return (as_tensor(part).to(self.device) for part in codes)

    def _audio(self, sample: int) -> Iterator[Float[Tensor, "c t"]]:
        return self.decoder.decode_blocks(self._frames(sample), self.source)
