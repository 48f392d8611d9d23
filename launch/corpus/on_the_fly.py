"""Encoding on the fly: `jukebox train prior --from_audio`, for a corpus without stored codes.

The interface equals that of `data_prep.codes.CodesReader`. The audio comes from `launch/corpus/pcm.py`: it is decoded once and
memory-mapped, as in the training of the codec. A window is encoded with the receptive field on both sides. So at any position
its codes equal those that `jukebox encode` writes, except for ties within rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from data_prep.manifest import SongRow
from jukebox.model.folder import ModelFolder
from launch.corpus.encode import encode_sound
from launch.corpus.pcm import open_pcm


class OnTheFlyCodes:
    """A reader of the streams of songs. Codes are encoded on `device` when they are read."""

    def __init__(
        self, model: ModelFolder, data: Path, rows: Mapping[str, SongRow], streams: Sequence[str], device: torch.device,
        cache: Path | None = None,
    ) -> None:  # fmt: skip
        self.codec = model.codec(streams).to(device)
        spec, config = self.codec.spec, self.codec.config
        self.hops = {stream: spec.stream(stream).hop for stream in streams}
        self.pcm = open_pcm(data, list(rows.values()), spec.sample_rate, spec.channels, cache)
        self.places = {song: number for number, song in enumerate(rows)}
        # the receptive field, and some more frames, because the receptive field of a codec does not count all convolutions
        self.reach = {stream: config.receptive_field(stream) // hop + 8 for stream, hop in self.hops.items()}

    def songs_with(self, streams: Sequence[str]) -> list[str]:
        """Return the names of all songs, sorted. No song has to be encoded before."""
        return sorted(self.places)

    def length(self, song: str, stream: str) -> int:
        """Return the number of frames of `stream` in a song."""
        return int(self.pcm.lengths[self.places[song]]) // self.hops[stream]

    @torch.no_grad()
    def read(self, song: str, stream: str, start: int, stop: int) -> np.ndarray:
        """Encode the frames start..stop of a song. Return them as (stop - start, ...) in the dtype of files."""
        hop, end = self.hops[stream], self.length(song, stream)
        first, last = max(0, start - self.reach[stream]), min(end, stop + self.reach[stream])
        sound = self.pcm.crop(self.places[song], first * hop, (last - first) * hop)
        return encode_sound(self.codec, sound, [stream])[stream][start - first : stop - first]
