"""A recording laid out in columns: its sound to codes around an edit, and codes back to sound at its own rate.

    columns     0 .. before | those of the file ...................... | .. columns        of the model, `hop` of its samples each
    samples                 0 .................................. frames                    of the file, at its own rate

A recording is a sound file, or a sample of a run folder, whose codes are stored. Only the columns that are asked for are encoded
and decoded, with MARGIN on both sides, which is more than any level of the published codec hears; so memory and time grow with the
edit, not with the song.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from data_prep.audio.audio import AudioInfo, probe
from data_prep.audio.blocks import BlockReader, resampled
from data_prep.errors import UserError
from jukebox.model.info import ModelInfo, check_weights
from jukebox.sampling.run import Run

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from vqvae.codec import Codec

MARGIN = 1.5  # seconds of codes or sound beside what is wanted
RESAMPLED = 0.1  # seconds beside it at the other rate
Codes = dict[str, Shaped[np.ndarray, "t *frame"]]  # stream -> frames


@dataclass(frozen=True)
class Recording:
    """What is edited: the file whose samples stay, what it holds, and the run and row that its codes are stored in."""

    sound: Path
    info: AudioInfo
    run: Run | None = None
    row: int = 0

    @staticmethod
    def open(info: ModelInfo, song: str | Path, sample: int = 1) -> Recording:
        """A sound file, or sample number `sample` (from 1) of a run folder that has been drawn to its finest level."""
        path = Path(song)
        if not path.is_dir():
            return Recording(path, probe(path))
        run = Run.open(path)
        check_weights(run.request, info)
        if not 1 <= sample <= run.n_samples:
            raise UserError(f"there is no sample {sample} in {path}; it has 1 to {run.n_samples}")
        missing = [level for level in range(len(info.hops)) if run.count(level, [sample - 1]) < run.total(level)]
        sound = run.audio_path(0, sample - 1)
        if missing or not sound.is_file():
            raise UserError(f"{path} is not drawn down to level 0; finish it with `jukebox upsample {path}` first")
        return Recording(sound, probe(sound), run, sample - 1)


@dataclass(frozen=True)
class Layout:
    """Where the samples of a file lie among the columns of a model; `after` samples are to come behind its end."""

    frames: int
    rate: int
    model_rate: int
    hop: int
    before: int = 0  # columns in front of the file
    after: int = 0  # samples of the file's rate behind it

    @property
    def columns(self) -> int:
        """Of all there will be; the last may be partly filled."""
        return self.before + self._column(self.frames + self.after, math.ceil)

    @property
    def ended(self) -> int:
        """The column in which the file ends: the first that it does not fill."""
        return self.before + self._column(self.frames, math.floor)

    @property
    def per_second(self) -> float:
        """Columns a second."""
        return self.model_rate / self.hop

    def touched(self, start: int, end: int) -> tuple[int, int]:
        """The columns [first, stop) that samples [start, end) of the file lie in."""
        first, stop = self.before + self._column(start, math.floor), self.before + self._column(end, math.ceil)
        return max(0, first), min(self.columns, stop)

    def _column(self, sample: int, rounding) -> int:
        whole, rest = divmod(sample * self.model_rate, self.rate * self.hop)  # in integers: no rounding
        return whole + (1 if rest and rounding is math.ceil else 0)


def read_codes(model: ModelFolder, recording: Recording, layout: Layout, first: int, stop: int) -> Codes:
    """The codes of all levels in columns [first, stop), zeros where the file has none."""
    streams = model.spec.streams
    ratios = {stream.name: layout.hop // stream.hop for stream in streams}
    codes = {s.name: np.zeros(((stop - first) * ratios[s.name], *s.frame_shape), s.dtype) for s in streams}
    low = max(0, first - layout.before)  # of the file's own columns
    high = min(stop, layout.touched(0, layout.frames)[1]) - layout.before
    if low >= high:
        return codes
    found = _stored(recording, ratios, low, high) if recording.run else _encode(model, recording, layout, ratios, low, high)
    lead = low + layout.before - first
    for stream, ratio in ratios.items():
        codes[stream][lead * ratio : lead * ratio + len(found[stream])] = found[stream]
    return codes


def render(
    codec: Codec, codes: Shaped[np.ndarray, "t *frame"], stream: str, first: int, layout: Layout, start: int, end: int
) -> Iterator[Float[np.ndarray, "c n"]]:
    """The samples [start, end) of the file's rate, as the frames of `stream` from column `first` on are decoded; in blocks."""
    common = math.gcd(layout.rate, layout.model_rate)
    of_file, of_model = layout.rate // common, layout.model_rate // common  # last equally long
    margin = 0 if of_file == of_model else round(RESAMPLED * layout.rate)
    turn = (start - margin) // of_file  # the last moment before it at which both rates have a sample
    skip = turn * of_model - (first - layout.before) * layout.hop
    at = turn * of_file
    sound = _from(_decode(codec, codes, stream), skip)
    for block in sound if of_file == of_model else resampled(sound, layout.model_rate, layout.rate):
        piece = block[:, max(0, start - at) : max(0, end - at)]
        at += block.shape[1]
        if piece.shape[1]:
            yield piece
        if at >= end:
            return
    yield np.zeros((codec.spec.channels, end - max(at, start)), np.float32)  # the end of the last column, rounded


def _stored(recording: Recording, ratios: dict[str, int], low: int, high: int) -> Codes:
    """Codes of the file's columns [low, high), as the run has them."""
    run, rows = recording.run, [recording.row]
    assert run is not None
    return {stream: run.codes(level, rows, low * r, high * r)[0] for level, (stream, r) in enumerate(ratios.items())}


def _encode(model: ModelFolder, recording: Recording, layout: Layout, ratios: dict[str, int], low: int, high: int) -> Codes:
    """Codes of the file's columns [low, high); a column that it does not fill is filled with silence."""
    import torch

    margin = math.ceil(MARGIN * layout.per_second)
    begin, end = max(0, low - margin), high + margin
    names = model.spec.names
    parts: dict[str, list[np.ndarray]] = {stream: [] for stream in names}
    blocks = (torch.from_numpy(block) for block in _sound(model, recording, begin * layout.hop, end * layout.hop))
    for piece in model.codec(names).encoder_stream(blocks, names):
        for stream, codes in piece.items():
            parts[stream].append(codes.numpy().astype(model.spec.stream(stream).dtype))
    return {stream: np.concatenate(parts[stream])[(low - begin) * r : (high - begin) * r] for stream, r in ratios.items()}


def _sound(model: ModelFolder, recording: Recording, begin: int, end: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """The samples [begin, end) of a recording at the model's rate and channels, to whole columns with silence; in blocks."""
    at, hop, channels = 0, model.spec.unit, model.spec.channels
    with BlockReader(recording.sound, sample_rate=model.sample_rate, channels=channels) as reader:
        for block in reader:
            piece = block[:, max(0, begin - at) : max(0, end - at)]
            at += block.shape[1]
            if piece.shape[1]:
                yield np.ascontiguousarray(piece)
            if at >= end:
                return
    if at % hop:
        yield np.zeros((channels, -at % hop), np.float32)


def _decode(codec: Codec, codes: Shaped[np.ndarray, "t *frame"], stream: str) -> Iterator[Float[np.ndarray, "c n"]]:
    from vqvae.codec import as_tensor

    size = 2**14
    pieces = (as_tensor(codes[i : i + size]).to(codec.device) for i in range(0, len(codes), size))
    for audio in codec.decode_blocks(pieces, stream):
        yield audio.cpu().numpy()


def _from(blocks: Iterator[Float[np.ndarray, "c n"]], skip: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """The blocks without their first `skip` samples, or behind so much silence."""
    for block in blocks:
        if skip < 0:
            yield np.zeros((len(block), -skip), np.float32)
            skip = 0
        if skip < block.shape[1]:
            yield block[:, skip:]
        skip = max(0, skip - block.shape[1])
