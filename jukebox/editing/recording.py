"""A recording as columns of codes, encoded only around an edit (`jukebox/sampling/layout.py` defines columns).

A recording is an audio file, or a sample of a run folder with stored codes. Only the requested columns are encoded, with MARGIN
seconds of context on both sides. So memory and time grow with the length of the edit, not with the length of the song.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from data_prep.audio.audio import AudioInfo, probe
from data_prep.audio.blocks import BlockReader
from data_prep.errors import UserError
from jukebox.model.info import ModelInfo, check_weights
from jukebox.runs.run import Run
from jukebox.sampling.layout import MARGIN, Layout

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

TAGS = "tags.json"  # metadata of the recording
LONGEST_FADE = 60.0  # seconds
Span = tuple[int, int]  # samples [start, end) of the recording that get new audio
FramesByStream = dict[str, Shaped[np.ndarray, "t *frame"]]  # stream name -> frames


@dataclass(frozen=True)
class Recording:
    """The recording of an edit: the audio file, its properties, and the run and sample (from 0) that contain its codes."""

    sound: Path
    info: AudioInfo
    run: Run | None = None
    row: int = 0

    @staticmethod
    def open(info: ModelInfo, song: str | Path, sample: int = 1) -> Recording:
        """Open an audio file, or sample number `sample` (from 1) of a run folder.

        Raise UserError if the run is an edit, or if the finest level of its route is not finished.
        """
        path = Path(song)
        if not path.is_dir():
            return Recording(path, probe(path))
        run = Run.open(path)
        if run.request.get("inpaints"):
            raise UserError(f"{path} is an edit of a recording; give its result, {run.request['outputs'][0]}")
        check_weights(run.request, info)
        if not 1 <= sample <= run.n_samples:
            raise UserError(f"there is no sample {sample} in {path}; it has 1 to {run.n_samples}")
        finest = info.spec.names.index(list(info.route(run.request["route"]).priors)[-1])
        missing = finest not in run.request["levels"] or run.count(finest, [sample - 1]) < run.total(finest)
        sound = run.audio_path(finest, sample - 1)
        if missing or not sound.is_file():
            raise UserError(f"{path} is not sampled down to level {finest}; finish it with `jukebox upsample {path}` first")
        return Recording(sound, probe(sound), run, sample - 1)


def read_codes(
    model: ModelFolder, recording: Recording, layout: Layout, first: int, stop: int, names: Sequence[str] = (), device: str = "cpu"
) -> FramesByStream:  # fmt: skip
    """Return the frames of streams `names` (default: all) in columns [first, stop).

    The frames are read from the recording's run or encoded on `device`. Columns outside the file have zeros.
    """
    streams = [model.spec.stream(name) for name in names or model.spec.names]
    ratios = {stream.name: layout.hop // stream.hop for stream in streams}
    codes = {s.name: np.zeros(((stop - first) * ratios[s.name], *s.frame_shape), s.dtype) for s in streams}
    low = max(0, first - layout.before)  # index among the columns of the file
    high = min(stop, layout.touched(0, layout.samples)[1]) - layout.before
    if low >= high:
        return codes
    stored = _has_stored(recording, list(ratios))
    found = _stored(recording, ratios, low, high) if stored else _encode(model, recording, layout, ratios, low, high, device)
    lead = low + layout.before - first
    for stream, ratio in ratios.items():
        codes[stream][lead * ratio : lead * ratio + len(found[stream])] = found[stream]
    return codes


def _has_stored(recording: Recording, names: Sequence[str]) -> bool:
    """Whether the recording is a sample of a run that has all frames of these streams."""
    if recording.run is None:
        return False
    run, rows = recording.run, [recording.row]
    levels = [level for level in run.request["levels"] if run.count(level, rows) == run.total(level)]
    return set(names) <= {run.stream(level).name for level in levels}


def _stored(recording: Recording, ratios: dict[str, int], low: int, high: int) -> FramesByStream:
    """Read the frames of the file's columns [low, high) from the run."""
    run, rows = recording.run, [recording.row]
    assert run is not None
    level = {run.stream(i).name: i for i in range(len(run.request["hops"]))}
    return {stream: run.codes(level[stream], rows, low * r, high * r)[0] for stream, r in ratios.items()}


def _encode(
    model: ModelFolder, recording: Recording, layout: Layout, ratios: dict[str, int], low: int, high: int, device: str
) -> FramesByStream:
    """Encode the file's columns [low, high); a partly filled last column is padded with silence."""
    import torch

    margin = math.ceil(MARGIN * layout.per_second)
    begin, end = max(0, low - margin), high + margin
    parts: dict[str, list[np.ndarray]] = {stream: [] for stream in ratios}
    for names in ([name for name in entry.config.spec.names if name in ratios] for entry in model.info.codecs):
        if not names:
            continue
        codec, sound = model.codec(names).to(device), _sound(model, recording, begin * layout.hop, end * layout.hop)
        blocks = (torch.from_numpy(block).to(device) for block in sound)
        for piece in codec.encoder_stream(blocks, names):
            for stream, codes in piece.items():
                parts[stream].append(codes.cpu().numpy().astype(model.spec.stream(stream).dtype))
    return {stream: np.concatenate(parts[stream])[(low - begin) * r : (high - begin) * r] for stream, r in ratios.items()}


def _sound(model: ModelFolder, recording: Recording, begin: int, end: int) -> Iterator[Float[np.ndarray, "c n"]]:
    """Yield the samples [begin, end) of a recording at the model's rate and channels in blocks, padded to whole columns."""
    at, hop, channels = 0, model.spec.unit, model.spec.channels
    with BlockReader(recording.sound, sample_rate=model.sample_rate, channels=channels) as reader:
        for block in reader:
            piece = block[:, max(0, begin - at) : max(0, end - at)]
            at += block.shape[1]
            if piece.shape[1]:
                yield np.ascontiguousarray(piece)
            if at >= end:
                break
        reader.print_beyond()
    if at % hop:
        yield np.zeros((channels, -at % hop), np.float32)
