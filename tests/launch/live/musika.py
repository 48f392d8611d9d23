"""A small model with a route of unbounded length, for tests of live music."""

from __future__ import annotations

from pathlib import Path

import torch

from jukebox.model.folder import ModelFolder, build_codec, build_prior
from jukebox.model.presets import find


def random_musika(folder: Path) -> Path:
    """A model of the preset test_musika with random weights."""
    preset = find("test_musika")
    torch.manual_seed(0)
    opened = ModelFolder.create(folder, preset.codec)
    codec = build_codec(preset.codec)
    codec.initialise(0.1 * torch.randn(1, 1, 8192), torch.Generator())
    opened.save_codec(codec)
    opened.save_prior("gan", build_prior(preset.priors["gan"]))
    return folder
