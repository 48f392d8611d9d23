"""The small model with a masked prior beside its own: what tests of masked levels, routes and edits sample from."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from jukebox import Jukebox
from jukebox.model.presets import find
from tests.conftest import random_prior


def with_masked_prior(model: Jukebox, folder: Path) -> Jukebox:
    """A copy of a model in `folder` with a masked prior, whose random weights are spread as those of the other priors."""
    shutil.copytree(model.folder, folder)
    torch.manual_seed(0)
    preset = "test" if "vq.0" in model.spec.names else "test_spectral"
    for name, config in find(preset).priors.items():
        if config.kind == "masked":
            Jukebox.from_pretrained(folder).save_prior(name, random_prior(config))
    return Jukebox.from_pretrained(folder)
