"""Codes made while they are read: `jukebox train prior --from_audio`, for a corpus whose codes are not to be stored.

The interface is that of `data_prep.codes.CodesReader`. The audio is that of `launch/corpus/pcm.py`, on which the codec
was trained: decoded once, memory-mapped. A window is encoded together with the receptive field on both of its sides.
Its codes are therefore those that `jukebox encode` writes (but for ties within rounding), at any position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data_prep.manifest import SongRow
from jukebox.model.folder import Jukebox
from jukebox.planning import sizes
from launch.corpus.encode import encode_sound
from launch.corpus.pcm import open_pcm


class SoundingCodes:
    """Codes of the songs of `rows` at `levels`, encoded on `device` when they are read."""

    def __init__(
        self, model: Jukebox, data: Path, rows: Mapping[str, SongRow], levels: Sequence[int], device: torch.device
    ) -> None:
        config = model.codec_config
        self.codec, self.hops = model.codec(levels).to(device), config.hops
        self.pcm = open_pcm(data, list(rows.values()), config.sample_rate, config.channels)
        self.places = {song: number for number, song in enumerate(rows)}
        stored = asdict(config)
        # the dilations of a level's stacks, each at its own rate, and its other convolutions
        self.reach = {level: sizes.codec_reach(stored, level) // self.hops[level] + 8 for level in levels}

    def songs_with(self, levels: Sequence[int]) -> list[str]:
        """All songs, sorted: there is nothing that would have to be encoded before."""
        return sorted(self.places)

    def length(self, song: str, level: int) -> int:
        """How many codes a song has at a level."""
        return int(self.pcm.lengths[self.places[song]]) // self.hops[level]

    @torch.no_grad()
    def read(self, song: str, level: int, start: int, stop: int) -> np.ndarray:
        """Codes start..stop of a song, uint16 (t,)."""
        hop, end = self.hops[level], self.length(song, level)
        first, last = max(0, start - self.reach[level]), min(end, stop + self.reach[level])
        sound = self.pcm.crop(self.places[song], first * hop, (last - first) * hop)
        return encode_sound(self.codec, sound, [level])[level][start - first : stop - first]
