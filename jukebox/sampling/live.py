"""LiveMusic: music of unbounded length, patch by patch, in constant memory. Sampling parameters may change at each patch.

A patch depends only on its position, the seed and the parameters. So live music equals the music of a run with the same seed,
for any lengths. The phases of the decoder depend on all earlier audio. So a start in the middle decodes and drops all earlier
audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.runs.params import Params, params_by_level
from jukebox.song import PreparedSong, Song, window_conditions
from priors.noise import WindowNoise
from priors.prior import Known, Window, sample_window
from priors.registry import PRIOR_PARAMS

Changes = Callable[[float], Mapping[str, Any]]  # second at which a patch begins -> parameters that change there


class LiveMusic:
    """Generates music by the model's route of unbounded length; `params` are the initial sampling parameters."""

    def __init__(
        self, model: ModelFolder, song: Song, params: Params | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        info = model.info
        route = info.live_route()
        stream, name = list(route.priors.items())[-1]
        self.stream, config = info.spec.stream(stream), info.priors[name].config
        values = params_by_level(info, route, params)[str(info.spec.names.index(stream))]
        self.params = PRIOR_PARAMS.load(config.kind)(**values)
        self.prior, self.codec = model.prior(name).to(device), model.codec([stream]).to(device)
        self.noise = WindowNoise(seed, stream, {stream: self.stream.key}, [(0, 0)])
        prepared = PreparedSong.of(song, model.labels_of(name), model.vocabulary, model.sample_rate)
        self.cond, self.device = window_conditions(prepared, config, 0).to(device), device
        self.sample_rate, self.patch, self.patch_seconds = info.sample_rate, config.patch, info.patch_seconds(route)

    def latents(self, patch: int) -> Float[Tensor, "t e"]:
        """Sample the latents of patch number `patch` (from 0) with the current parameters."""
        nothing = torch.zeros(1, 0, *self.stream.frame_shape, device=self.device)
        window = Window(patch * self.patch, self.patch, (patch + 1) * self.patch)
        known, params = Known.prefix(self.stream.name, nothing, self.patch), {self.stream.name: self.params}
        return sample_window(self.prior, window, known, self.cond, self.noise, params)[self.stream.name][0]

    def blocks(
        self, start: float = 0.0, seconds: float = 0.0, changes: Changes | None = None
    ) -> Iterator[Float[np.ndarray, "c n"]]:
        """Yield the audio of `seconds` (0: unbounded) from second `start` on.

        `changes` is called with the second at which each patch begins, and returns the parameters that change.
        """
        if start < 0 or seconds < 0:
            raise UserError(f"start {start:g}, seconds {seconds:g}; expected 0 or more")
        begin, at, patch = round(start * self.sample_rate), 0, 0
        end = begin + round(seconds * self.sample_rate) if seconds else None
        decoder = self.codec.decoder_stream(self.stream.name)
        while end is None or at < end:
            if changes and (changed := changes(patch * self.patch_seconds)):
                self.params = replace(self.params, **changed)
            for audio in decoder.push(self.latents(patch)):
                piece = audio[:, max(0, begin - at) : None if end is None else max(0, end - at)]
                at += audio.shape[1]
                if piece.shape[1]:
                    yield piece.cpu().numpy()
            patch += 1
