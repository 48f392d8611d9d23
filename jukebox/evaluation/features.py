"""Features of a song for music research: hidden states of a prior. Few examples suffice to learn tags, keys or emotions.

The song is encoded, and the prior reads the codes in adjacent windows of n_ctx. The last window ends with the song and adds
only the missing steps. Row i is the residual stream after `layer` blocks at step i. The row is conditioned on the codes before
step i and on timing, but not on artist, genre or lyrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio import audio as sound
from data_prep.errors import UserError
from jukebox.evaluation.held_out import encoder
from jukebox.model.folder import ModelFolder
from jukebox.song import PreparedSong, Song, window_conditions
from priors.prior import HasHiddenStates


@dataclass(frozen=True)
class Features:
    """Hidden states (t w), and the middle of each step in seconds (t). Pooled features have one row and no times."""

    states: Float[np.ndarray, "t w"]
    seconds: Float[np.ndarray, " t"]


def feature_windows(total: int, n_ctx: int) -> list[tuple[int, int]]:
    """Return windows that cover each of `total` steps once: (start of the window, first step that the window contributes)."""
    starts = [(start, start) for start in range(0, total - n_ctx + 1, n_ctx)]
    given = starts[-1][0] + n_ctx if starts else 0
    return starts + ([(max(0, total - n_ctx), given)] if given < total else [])


@torch.no_grad()
def hidden_states(
    model: ModelFolder, path: str | Path, level: int, layer: int, *, pool: str = "mean", device: str = "cpu"
) -> Features:
    """Compute the hidden states of the prior of `level` for a recording.

    layer: blocks before the states; 0 takes the inputs of the prior
    pool: "mean" averages the states over the recording, "none" keeps all steps

    Raise UserError if the model has no such prior, the prior has no hidden states, or the recording is too short.
    """
    levels = model.info.levels_with_prior
    entry = model.info.writer(model.info.stream(level).name) if level in levels else None
    if entry is None:
        raise UserError(f"{model.folder} has no prior of level {level}; it has {levels or 'none'}")
    config, spec, unit = entry.config, entry.config.spec, model.spec.unit
    if not 0 <= layer <= config.depth:
        raise UserError(f"layer {layer} of a prior of {config.depth} layers; expected 0 (its inputs) to {config.depth}")
    prior = model.prior(entry.name).to(device)
    if not isinstance(prior, HasHiddenStates):
        raise UserError(f"the prior {entry.name} of {model.folder} ({prior.kind}) has no hidden states")
    wave, _ = sound.read(path, sample_rate=model.sample_rate, channels=model.spec.channels)
    wave = wave[:, : wave.shape[1] // unit * unit]
    if not wave.shape[1]:
        raise UserError(f"{path} is shorter than one code, {unit} samples")
    codes = encoder(model, {*spec.writes, *spec.reads})(torch.from_numpy(wave))
    total = len(codes[spec.writes[-1]])
    whole = Song(seconds=wave.shape[1] / model.sample_rate)
    song = PreparedSong.of(whole, model.labels_of(entry.name), model.vocabulary, model.sample_rate)
    parts = []
    for start, given in feature_windows(total, config.n_ctx):
        above = None
        if spec.reads:
            need = config.n_ctx // config.ratio
            start = start // config.ratio * config.ratio  # align the window with the frames of the stream above
            coarse = codes[spec.reads[0]][start // config.ratio :][:need].numpy()
            above = np.pad(coarse, (0, need - len(coarse)), mode="edge")
        cond = window_conditions(song, config, start, above).to(torch.device(device))
        window = {stream: codes[stream][None, start : start + config.n_ctx].to(device) for stream in spec.writes}
        states = prior.hidden_states(window, cond, layer)[0]
        parts.append(states[given - start :].float().cpu().numpy())
    rows = np.concatenate(parts)[:total]
    if pool == "mean":
        return Features(rows.mean(axis=0, keepdims=True), np.zeros(0, np.float32))
    return Features(rows, ((np.arange(total) + 0.5) * config.hop / model.sample_rate).astype(np.float32))
