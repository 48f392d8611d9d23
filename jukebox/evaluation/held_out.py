"""Windows of held-out songs for the evaluation of a prior: sequences, conditions and, as control, another song per window."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.audio import audio as sound
from data_prep.errors import UserError
from data_prep.labels import Labels
from data_prep.manifest import SongRow, audio_path, load_manifest
from data_prep.progress import ProgressBar
from jukebox.model.folder import ModelFolder
from jukebox.song import PreparedSong, prepare_all, song_of, window_conditions
from priors.conditioning.conditions import Conditions
from priors.prior import Sequences
from priors.spec import PriorConfig
from vqvae.codec import as_tensor
from vqvae.streams import CodecSpec


@dataclass
class HeldOut:
    """Held-out songs with their audio (C, T) and their frames (codes or latents) of every trained stream."""

    rows: list[SongRow]
    waves: list[Tensor]
    codes: list[dict[str, np.ndarray]]


def encoder(model: ModelFolder, streams: Collection[str]) -> Callable[[Float[Tensor, "c t"]], dict[str, Tensor]]:
    """Return a function that encodes audio to the frames of `streams`, which may belong to several codecs.

    Raise UserError if a stream is not trained, or if `streams` is empty.
    """
    groups = [[name for name in entry.config.spec.names if name in streams] for entry in model.info.codecs]
    codecs = [(model.codec(names), names) for names in groups if names] or [(model.codec(()), [])]

    def encode(wave: Float[Tensor, "c t"]) -> dict[str, Tensor]:
        return {name: z[0] for codec, names in codecs for name, z in codec.encode_long(wave[None], names).items()}

    return encode


def split_rows(data: Path, split: str, songs: int = 0) -> list[SongRow]:
    """Return the first `songs` songs (0: all) of the split "train" or "test"; raise UserError if the split is empty."""
    rows = [row for row in load_manifest(data) if row.split == split][: songs or None]
    if not rows:
        share = "larger" if split == "test" else "smaller"
        raise UserError(f"{data} has no songs of the split {split}; prepare it with a {share} --test_share")
    return rows


def read_wave(data: Path, row: SongRow, spec: CodecSpec, seconds: float) -> Float[Tensor, "c t"]:
    """Read at most `seconds` of a song, cut to whole frames of all streams."""
    path = audio_path(data, row)
    wave, _ = sound.read(path, sample_rate=spec.sample_rate, channels=spec.channels, seconds=seconds)
    return torch.from_numpy(wave[:, : wave.shape[1] // spec.unit * spec.unit])


def hold_out(model: ModelFolder, data: Path, songs: int, seconds: float = 60.0) -> HeldOut:
    """Read and encode the first `songs` songs (0: all) of the split "test", at most `seconds` of each."""
    rows, waves, codes = split_rows(data, "test", songs), [], []
    encode = encoder(model, model.trained_streams())
    for row in ProgressBar(rows, desc="held-out songs", unit="song"):
        waves.append(read_wave(data, row, model.spec, seconds))
        codes.append({name: frames.numpy() for name, frames in encode(waves[-1]).items()})
    return HeldOut(rows, waves, codes)


@dataclass
class HeldOutWindow:
    """A window of a held-out song, and another song for its controls. Songs are indices."""

    song: int
    other: int
    start: int  # in frames of the prior


def draw_windows(lengths: Sequence[int], n_ctx: int, ratio: int, count: int, seed: int) -> list[HeldOutWindow]:
    """Choose `count` windows in turn from the songs with at least `n_ctx` frames.

    Each window has a random start, a multiple of `ratio`, and another of these songs. UserError for fewer than two such songs.
    """
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
        last = min(lengths[song], lengths[other]) - n_ctx  # the other song must have codes at the same place
        windows.append(HeldOutWindow(song, other, int(rng.integers(last // ratio + 1)) * ratio))
    return windows


@dataclass(frozen=True)
class PriorWindows:
    """Windows of held-out songs for a prior. The songs are prepared with the prior's labels."""

    model: ModelFolder
    config: PriorConfig
    labels: Labels
    held: HeldOut
    songs: Sequence[PreparedSong]
    windows: list[HeldOutWindow]

    @staticmethod
    def draw(
        model: ModelFolder, config: PriorConfig, held: HeldOut, count: int, seed: int, labels: Labels | None = None
    ) -> PriorWindows:
        """Choose `count` windows of the songs. `labels` are the labels of the prior; None takes the labels of the model."""
        labels, lengths = labels or model.labels, [len(codes[config.spec.writes[-1]]) for codes in held.codes]
        songs = prepare_all([song_of(row) for row in held.rows], labels, model.vocabulary, model.sample_rate)
        windows = draw_windows(lengths, config.n_ctx, config.ratio, count, seed)
        return PriorWindows(model, config, labels, held, songs, windows)

    def placed(self) -> list[PreparedSong]:
        """Prepare the songs with lyrics that are placed in time by line and beat instead of by word times."""
        songs = [replace(song_of(row), word_times=()).placed(self.labels) for row in self.held.rows]
        return prepare_all(songs, self.labels, self.model.vocabulary, self.model.sample_rate)

    def sequences(self, song: Callable[[HeldOutWindow], int] = lambda w: w.song) -> Sequences:
        """Return the streams that the prior writes in every window, (n, frames, ...). `song` chooses the song of a window."""
        return {stream: self._cut(stream, self.config.frames(stream), song) for stream in self.config.spec.writes}

    def _cut(self, stream: str, frames: int, song: Callable[[HeldOutWindow], int]) -> Tensor:
        starts = [window.start * frames // self.config.n_ctx for window in self.windows]
        cut = [self.held.codes[song(w)][stream][at : at + frames] for w, at in zip(self.windows, starts, strict=True)]
        return as_tensor(np.stack(cut))

    def conditions(
        self,
        song: Callable[[HeldOutWindow], PreparedSong] | None = None,
        above: Callable[[HeldOutWindow], int] = lambda w: w.song,
    ) -> list[Conditions]:
        """Return the conditions of every window.

        song: chooses the prepared song of a window; None takes the song of the window
        above: chooses the held-out song whose stream above the prior reads
        """
        song = song or (lambda w: self.songs[w.song])
        spec, frames = self.config.spec, self.config.n_ctx // self.config.ratio
        read = [stream for stream in spec.reads if stream not in spec.writes]
        upper = self._cut(read[0], frames, above).numpy() if read else [None] * len(self.windows)
        return [window_conditions(song(w), self.config, w.start, x) for w, x in zip(self.windows, upper, strict=True)]
