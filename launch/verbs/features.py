"""`jukebox features`: write the hidden states of a prior for a song as npz."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from data_prep.files import replacing
from jukebox.device import choose_device

Pool = Literal["mean", "none"]


def features(
    song: str, *, model: str, out: str, layer: int, level: int = -1, pool: Pool = "mean", threads: int = 0, device: str = "auto"
) -> None:
    """Write the hidden states of a layer of a prior for a recording, for music research (docs/features.md).

    song: the recording
    model: folder of a trained model
    out: the npz file to write: states (steps, width), seconds (steps), level, layer, hop, sample_rate
    layer: number of blocks before the states, 0 (the inputs) to the prior's depth
    level: the prior's level, 0 the finest (-1: the coarsest with its own prior)
    pool: mean (one row, the mean over the song) or none (one row per code)
    threads: CPU threads; 0: all cores
    device: cpu, cuda, or auto: a GPU if there is one
    """
    import numpy as np
    import torch

    from jukebox.evaluation.features import hidden_states
    from jukebox.model.folder import ModelFolder

    if threads:
        torch.set_num_threads(threads)
    began, opened, path = time.perf_counter(), ModelFolder.from_pretrained(model), Path(out)
    level = max(opened.info.levels_with_prior, default=0) if level < 0 else level
    found = hidden_states(opened, song, level, layer, pool=pool, device=choose_device(device))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file, states=found.states, seconds=found.seconds, level=level, layer=layer, hop=opened.hops[level],
            sample_rate=opened.sample_rate,
        )  # fmt: skip
    rows, width = found.states.shape
    print(f"{out}: {rows} x {width} of layer {layer}, level {level}, in {time.perf_counter() - began:.1f} s")
