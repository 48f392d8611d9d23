"""Renderers of tokens to audio: the phase decoder, Griffin-Lim, priors that read tokens, and other codecs after re-encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.runs.windows import plan_windows
from jukebox.song import PreparedSong, Song, window_conditions
from priors.noise import WindowNoise
from priors.prior import Known, Prior, Window, sample_window
from vqvae.spectral.config import PHASES, TOKENS

Audio = Float[Tensor, "c t"]
Renderer = Callable[[], Audio]


@dataclass(frozen=True)
class TokenSource:
    """Tokens to render, and the song to which they belong."""

    tokens: Int[np.ndarray, "t books"]
    song: Song


def renderers(model: ModelFolder, source: TokenSource, params: Any, seed: int = 0) -> dict[str, Renderer]:
    """Return the renderers that the parts of a model allow: name -> function that renders the tokens.

    `params` are the sampling parameters of priors that read tokens. UserError if the model has no trained codec of tokens.
    """
    info, trained = model.info, model.trained_streams()
    if TOKENS not in trained:
        raise UserError(
            f"{model.folder} has no trained codec of {TOKENS}; train it with `jukebox train spectral DATA --out {model.folder}`"
        )
    made: dict[str, Renderer] = {f"phases {name}": lambda name=name: by_phases(model, source, name) for name in PHASES}
    for name, entry in info.priors.items():
        (stream, *others) = entry.config.spec.writes
        if entry.config.spec.reads == (TOKENS,) and stream != TOKENS and not others and stream in trained:
            made[name] = lambda name=name: by_prior(model, name, source, params, seed)
    for codec in info.codecs:
        finest = codec.config.spec.names[0]
        if TOKENS not in codec.config.spec.names and finest in trained:
            made[f"{finest} after encoding"] = lambda stream=finest: encoded_again(model, source, stream)
    return made


def by_phases(model: ModelFolder, source: TokenSource, phases: str) -> Audio:
    """Decode the tokens by their codec. `phases` is one of `PHASES`."""
    codec: Any = model.codec([TOKENS])
    codec.config = replace(codec.config, phases=phases)
    return codec.decode_long(torch.from_numpy(source.tokens.astype(np.int64))[None], TOKENS)[0]


def by_prior(model: ModelFolder, name: str, source: TokenSource, params: Any, seed: int) -> Audio:
    """Sample latents from the tokens by a prior, and decode them."""
    prior = model.prior(name)
    song = PreparedSong.of(source.song, model.labels_of(name), model.vocabulary, model.sample_rate)
    stream = prior.spec.writes[0]
    return model.codec([stream]).decode_long(sampled_from(prior, source.tokens, song, params, seed), stream)[0]


def sampled_from(
    prior: Prior, tokens: Int[np.ndarray, "t books"], song: PreparedSong, params: Any, seed: int
) -> Float[Tensor, "1 n e"]:
    """Sample latents from tokens of any length by a prior, window by window as in a run."""
    config, stream = prior.config, prior.spec.writes[0]
    total, need = len(tokens) * config.ratio, config.n_ctx // config.ratio
    made = torch.zeros(1, total, config.latent, device=next(prior.parameters()).device)
    for start, begin, end in plan_windows({"parallel": False, "hop_fractions": [0.5]}, 0, config, stream).segments(total, 0):
        above = tokens[start // config.ratio :][:need]
        above = np.pad(above, [(0, need - len(above)), (0, 0)], mode="edge")
        known = Known.prefix(stream, made[:, start:begin], end - start)
        cond = window_conditions(song, config, start, above).to(made.device)
        noise = WindowNoise(seed, stream, {stream: stream}, [(0, begin)])
        window = sample_window(prior, Window(start, end - start, total), known, cond, noise, {stream: params})
        made[:, begin:end] = window[stream][:, begin - start :]
    return made


def encoded_again(model: ModelFolder, source: TokenSource, stream: str) -> Audio:
    """Re-encode the audio of the phase decoder by another codec, and decode it."""
    codec, audio = model.codec([stream]), by_phases(model, source, PHASES[0])[None]
    return codec.decode_long(codec.encode_long(audio, [stream])[stream], stream, audio.shape[-1])[0]


def names_of(rendered: Mapping[str, object]) -> dict[str, str]:
    """Return the mapping from the names of renderers to the names of their files."""
    return {name: f"{name.replace(' ', '_')}.wav" for name in rendered}
