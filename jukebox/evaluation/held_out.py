"""Held-out songs as windows of a prior: their sequences, their conditions, and for each window another song as control."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.audio import audio as sound
from data_prep.errors import UserError
from data_prep.manifest import SongRow, audio_path, load_manifest
from data_prep.progress import ProgressBar
from jukebox.model.folder import ModelFolder
from jukebox.song import PreparedSong, window_conditions
from priors.conditioning.conditions import Conditions
from priors.prior import Sequences
from priors.spec import PriorConfig
from vqvae.codec import as_tensor


@dataclass
class HeldOut:
    """Held-out songs with their audio (C, T) and the frames of every trained stream."""

    rows: list[SongRow]
    waves: list[Tensor]
    codes: list[dict[str, np.ndarray]]


def encoder(model: ModelFolder, streams: Collection[str]) -> Callable[[Float[Tensor, "c t"]], dict[str, Tensor]]:
    """What encodes audio to the frames of `streams`, whichever codecs have them; UserError where none is trained."""
    groups = [[name for name in entry.config.spec.names if name in streams] for entry in model.info.codecs]
    codecs = [(model.codec(names), names) for names in groups if names] or [(model.codec(()), [])]

    def encode(wave: Float[Tensor, "c t"]) -> dict[str, Tensor]:
        return {name: z[0] for codec, names in codecs for name, z in codec.encode_long(wave[None], names).items()}

    return encode


def hold_out(model: ModelFolder, data: Path, songs: int, seconds: float = 60.0) -> HeldOut:
    """The first `songs` songs of the split "test" (at most `seconds` of each), encoded."""
    rows = [row for row in load_manifest(data) if row.split == "test"][: songs or None]
    if not rows:
        raise UserError(f"{data} has no songs of the split test; prepare it with a larger --test_share")
    encode, waves, codes = encoder(model, model.trained_streams()), [], []
    for row in ProgressBar(rows, desc="held-out songs", unit="song"):
        path = audio_path(data, row)
        wave, _ = sound.read(path, sample_rate=model.sample_rate, channels=model.spec.channels, seconds=seconds)
        wave = torch.from_numpy(wave[:, : wave.shape[1] // model.spec.unit * model.spec.unit])
        waves.append(wave)
        codes.append({name: frames.numpy() for name, frames in encode(wave).items()})
    return HeldOut(rows, waves, codes)


@dataclass
class HeldOutWindow:
    """A window of a held-out song, and another song that plays the false one."""

    song: int
    other: int
    start: int


def draw_windows(lengths: Sequence[int], n_ctx: int, ratio: int, count: int, seed: int) -> list[HeldOutWindow]:
    """`count` windows spread over the songs that are long enough, each with another such song."""
    rng = np.random.default_rng(seed)
    fitting = [i for i, length in enumerate(lengths) if length >= n_ctx]
    if len(fitting) < 2:
        raise UserError(
            f"{len(fitting)} held-out songs are as long as a window of {n_ctx} codes; expected 2 or more: prepare more songs"
        )
    windows = []
    for k in range(count):
        song = fitting[k % len(fitting)]
        other = int(rng.choice([i for i in fitting if i != song]))
        last = min(lengths[song], lengths[other]) - n_ctx  # the false codes above must reach as far
        windows.append(HeldOutWindow(song, other, int(rng.integers(last // ratio + 1)) * ratio))
    return windows


@dataclass(frozen=True)
class PriorWindows:
    """Windows of held-out songs for a prior, whose songs are prepared by its labels."""

    config: PriorConfig
    held: HeldOut
    songs: Sequence[PreparedSong]
    windows: list[HeldOutWindow]

    @staticmethod
    def draw(config: PriorConfig, held: HeldOut, songs: Sequence[PreparedSong], count: int, seed: int) -> PriorWindows:
        lengths = [len(codes[config.spec.writes[-1]]) for codes in held.codes]
        return PriorWindows(config, held, songs, draw_windows(lengths, config.n_ctx, config.ratio, count, seed))

    def sequences(self, song: Callable[[HeldOutWindow], int] = lambda w: w.song) -> Sequences:
        """The streams that the prior writes, in every window (n, frames, ...)."""
        return {stream: self._cut(stream, self.config.frames(stream), song) for stream in self.config.spec.writes}

    def _cut(self, stream: str, frames: int, song: Callable[[HeldOutWindow], int]) -> Tensor:
        starts = [window.start * frames // self.config.n_ctx for window in self.windows]
        cut = [self.held.codes[song(w)][stream][at : at + frames] for w, at in zip(self.windows, starts, strict=True)]
        return as_tensor(np.stack(cut))

    def conditions(
        self, song: Callable[[HeldOutWindow], PreparedSong], above: Callable[[HeldOutWindow], int] = lambda w: w.song
    ) -> list[Conditions]:
        """Conditions of every window by a prepared song, and by the stream above of a held-out one."""
        spec, frames = self.config.spec, self.config.n_ctx // self.config.ratio
        read = [stream for stream in spec.reads if stream not in spec.writes]
        upper = self._cut(read[0], frames, above).numpy() if read else [None] * len(self.windows)
        return [window_conditions(song(w), self.config, w.start, x) for w, x in zip(self.windows, upper, strict=True)]
