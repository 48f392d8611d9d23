"""Decode a file that `jukebox compress` wrote: the priors of an edit sample the missing codes, as in `compress`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import UserError
from jukebox.editing.job import edit_route
from jukebox.model.packed_codes import PackedCodes
from jukebox.params import MachineOptions, SamplingOptions
from jukebox.runs.request import RunSettings, StartPoint, dtype_of, new_request
from jukebox.runs.run import KNOWN, Run
from jukebox.sampling.walk import resume
from jukebox.song import Song

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


def sample_missing(model: ModelFolder, packed: PackedCodes, path: Path, device: str) -> dict[str, np.ndarray]:
    """Return all frames of the streams of a packed file; missing frames are sampled on `device`.

    Raise UserError if the file is of another codec.
    """
    info, route, columns = model.info, edit_route(model.info), check(model, packed, path)
    settings = SamplingOptions(seed=int(packed.about.get("seed", 0)), total_seconds=float(packed.about.get("total_seconds", 0)))
    song = Song(packed.about.get("artist"), tuple(packed.about.get("genres", ())))
    levels = [info.spec.names.index(stream) for stream in route.priors]
    start = StartPoint("compress", levels, more={"inpaints": True, "pieces": [[0, 0, columns]], "outputs": []})
    run = RunSettings(settings, None, MachineOptions(device=device))
    request = new_request(info, [song], columns * info.spec.unit / info.sample_rate, run, start, route)
    request["dtype"] = dtype_of(request)
    params = packed.about.get("params", {})
    if {level: set(each) for level, each in params.items()} == {level: set(each) for level, each in request["params"].items()}:
        request["params"] = params
    with tempfile.TemporaryDirectory() as folder:
        masks = {f"{name}.mask": mask for name, mask in packed.keep.items()}
        np.savez(Path(folder) / KNOWN, **packed.streams, **masks)  # type: ignore[arg-type]
        made = resume(Run.create(folder, request), model)
        return {made.stream(level).name: made.codes(level, [0])[0] for level in levels}


def check(model: ModelFolder, packed: PackedCodes, path: Path) -> int:
    """Return the number of columns in a packed file; raise UserError if the streams of the file do not match the model."""
    spec, columns = model.spec, 0
    if known := packed.sample_rate == spec.sample_rate and set(packed.streams) == set(edit_route(model.info).priors):
        counts = {len(x) * spec.stream(name).hop for name, x in packed.streams.items()}
        columns, rest = divmod(max(counts), spec.unit)
        known = len(counts) == 1 and not rest and 0 <= packed.skip and 0 < packed.samples <= max(counts) - packed.skip
    for name, frames in packed.streams.items() if known else ():
        stream = spec.stream(name)
        known &= packed.bins[name] == stream.bins and frames.shape[1:] == stream.frame_shape and frames.dtype == stream.dtype
    if not known:
        raise UserError(f"{path} is not of the streams of {model.info.folder}; give the --model that compressed it")
    return columns
