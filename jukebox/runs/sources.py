"""Sources of given codes: a recording, a codes.npz, or a sample of another run. A source is a pair (path, row).

A request needs the lengths of its sources before heavy imports. The walk later reads the codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_prep.errors import UserError
from jukebox.model.code_file import Codes
from jukebox.model.info import ModelInfo, check_weights
from jukebox.runs.run import Run

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


def find_sources(path: str | Path) -> list[tuple[str, int]]:
    """Return the sources (path, row) of a prompt: every sample of a run folder, or one file of audio or codes."""
    rows = range(len(Run.open(path).song()["samples"])) if Path(path).is_dir() else [0]
    return [(str(Path(path).resolve()), row) for row in rows]


def length_of(info: ModelInfo, path: str, row: int, levels: Sequence[int], seconds: float) -> int:
    """Number of coarsest frames of a source that are complete at all `levels`.

    Of a recording, at most the first `seconds` (0: all) are read.
    """
    if Path(path).is_dir():
        run = Run.open(path)
        check_weights(run.request, info)
        return min(run.count(level, [row]) * info.hops[level] // info.spec.unit for level in levels)
    if path.endswith(".npz"):
        codes = read_codes(info, path)
        if missing := [level for level in levels if info.stream(level).name not in codes.streams]:
            raise UserError(f"{path} has no codes of level {', '.join(map(str, missing))}; encode all levels, or give --levels")
        return codes.samples // info.spec.unit
    return read_sound(info, path, seconds).shape[1] // info.spec.unit


def read_sound(info: ModelInfo, path: str, seconds: float) -> Float[np.ndarray, "c t"]:
    """Read the first `seconds` (0: all) of a recording at the codec's rate and channels, (C, T)."""
    from data_prep.audio import audio

    most = seconds + 1 / info.sample_rate if seconds else None
    return audio.read(path, sample_rate=info.sample_rate, channels=info.channels, seconds=most)[0]


def read_codes(info: ModelInfo, path: str | Path) -> Codes:
    """Read a file of codes; raise UserError if another codec wrote the file."""
    codes = Codes.load(Path(path))
    if not codes.is_of(info):
        raise UserError(f"{path} was written by another codec than that of {info.folder}; give the model that encoded it")
    for stream, values in codes.streams.items():
        info.spec.stream(stream).check(values, str(path))
    return codes


def fetch(model: ModelFolder, path: str, row: int, counts: Mapping[int, int], device: str) -> dict[int, Int[np.ndarray, " t"]]:
    """Return the first codes of a source; `counts` maps each level to the number of codes.

    A recording is encoded on `device`. Raise UserError if the source has too few codes.
    """
    if Path(path).is_dir():
        run = Run.open(path)
        codes = {level: run.codes(level, [row], stop=count)[0] for level, count in counts.items()}
    elif path.endswith(".npz"):
        streams = Codes.load(Path(path)).streams
        codes = {level: streams.get(model.info.stream(level).name, np.zeros(0)) for level in counts}
    else:
        codes = _encode(model, path, counts, device)
    if short := [level for level, count in counts.items() if len(codes.get(level, ())) < count]:
        raise UserError(f"{path} has not the codes of level {short[0]} that this run begins with; was it changed since?")
    return {level: codes[level][:count] for level, count in counts.items()}


def _encode(model: ModelFolder, path: str, counts: Mapping[int, int], device: str) -> dict[int, Int[np.ndarray, " t"]]:
    import torch

    from data_prep.audio.blocks import print_beyond

    samples = max(count * model.hops[level] for level, count in counts.items())
    sound = read_sound(model.info, path, samples / model.sample_rate)[:, :samples]
    print_beyond(path, int((np.abs(sound) > 1).sum()), float(np.abs(sound).max(initial=0.0)), sound.size)
    names, audio, codes = model.info.names(counts), torch.from_numpy(sound)[None].to(device), {}
    for mine in ([name for name in entry.config.spec.names if name in names] for entry in model.info.codecs):
        codes |= model.codec(mine).to(device).encode_long(audio, mine) if mine else {}
    return {level: codes[name][0].cpu().numpy() for level, name in zip(counts, names, strict=True)}
