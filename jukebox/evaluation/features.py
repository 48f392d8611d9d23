"""What a prior has made of a song: its hidden states, for music research (tags, keys, emotions, from few examples).

The song is encoded, and the prior reads its codes in windows of n_ctx side by side; the last window ends with the song
and gives only the steps that no other has given. Row i is the stream behind `layer` blocks at step i: it has heard the
codes before i, and what is said of the song (its length and where the window lies; no artist, genre or lyrics).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio import audio as sound
from data_prep.errors import UserError
from jukebox.model.folder import Jukebox
from jukebox.song import PreparedSong, Song, window_conditions
from vqvae.jukebox.stream import encode_long


@dataclass(frozen=True)
class Features:
    """Hidden states (t w) and the middle of each step in seconds (t); pooled, one row and no seconds."""

    states: Float[np.ndarray, "t w"]
    seconds: Float[np.ndarray, " t"]


def feature_windows(total: int, n_ctx: int) -> list[tuple[int, int]]:
    """(start of the window, first step that it gives) for windows that give every step of `total` once."""
    starts = [(start, start) for start in range(0, total - n_ctx + 1, n_ctx)]
    given = starts[-1][0] + n_ctx if starts else 0
    return starts + ([(max(0, total - n_ctx), given)] if given < total else [])


@torch.no_grad()
def hidden_states(
    model: Jukebox, path: str | Path, level: int, layer: int, *, pool: str = "mean", device: str = "cpu"
) -> Features:
    """The states of the prior of `level` behind `layer` blocks (0: its inputs) over a recording; pool "mean" or "none"."""
    if level not in model.prior_configs:
        raise UserError(f"{model.folder} has no prior of level {level}; it has {sorted(model.prior_configs) or 'none'}")
    config = model.prior_configs[level]
    if not 0 <= layer <= config.trunk.depth:
        raise UserError(
            f"layer {layer} of a prior of {config.trunk.depth} layers; expected 0 (its inputs) to {config.trunk.depth}"
        )
    wave, _ = sound.read(path, sample_rate=model.sample_rate, channels=model.codec_config.channels)
    wave = wave[:, : wave.shape[1] // model.hops[-1] * model.hops[-1]]
    if not wave.shape[1]:
        raise UserError(f"{path} is shorter than one code, {model.hops[-1]} samples")
    levels = (level, level + 1) if config.above else (level,)
    codes = encode_long(model.codec(levels), torch.from_numpy(wave)[None], levels)
    prior, total = model.prior(level).to(device), codes[level].shape[1]
    whole = Song(seconds=wave.shape[1] / model.sample_rate)
    song = PreparedSong.of(whole, model.labels_of(level), model.vocabulary, model.sample_rate)
    parts = []
    for start, given in feature_windows(total, config.n_ctx):
        above = None
        if config.above:
            ratio, need = config.above.ratio, config.n_ctx // config.above.ratio
            start = start // ratio * ratio  # the window begins with a code above
            coarse = codes[level + 1][0, start // ratio :][:need].numpy()
            above = np.pad(coarse, (0, need - len(coarse)), mode="edge")
        cond = window_conditions(song, config, start, above).to(torch.device(device))
        window = codes[level][:, start : start + config.n_ctx].to(device)
        conditioning = prior.encode_conditions(cond, 1)
        x = prior.embed(prior.tokens(window, conditioning)[:, :-1], conditioning)
        distance = None if conditioning.distance is None else conditioning.distance[:, : x.shape[1]]
        states = prior.trunk.hidden(x, layer, conditioning.encoded, distance)[0, prior.lyric_prefix :]
        parts.append(states[given - start :].float().cpu().numpy())
    rows = np.concatenate(parts)[:total]
    if pool == "mean":
        return Features(rows.mean(axis=0, keepdims=True), np.zeros(0, np.float32))
    return Features(rows, ((np.arange(total) + 0.5) * config.hop / model.sample_rate).astype(np.float32))
