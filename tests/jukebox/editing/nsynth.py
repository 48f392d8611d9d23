"""A model folder with samples, latents and their decoder, random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from jukebox.model.folder import ModelFolder, build_codec, build_prior
from jukebox.model.presets import find


def make_nsynth(folder: Path, seed: int = 0) -> ModelFolder:
    torch.manual_seed(seed)
    preset = find("test_nsynth")
    for config in preset.codecs:
        model = ModelFolder.create(folder, config, routes=preset.routes)
    model.save_codec(build_codec(preset.codecs[-1]))
    model.save_prior("nsynth_decoder", build_prior(preset.priors["nsynth_decoder"]))
    return model
