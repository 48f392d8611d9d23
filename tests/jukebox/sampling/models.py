"""The small model with a masked prior beside its own: what tests of masked levels, routes and edits sample from."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from jukebox import Jukebox
from jukebox.model.folder import build_prior
from jukebox.model.presets import find


def with_masked_prior(model: Jukebox, folder: Path) -> Jukebox:
    """A copy of a model in `folder` with a masked prior, whose random weights are spread as those of the other priors."""
    shutil.copytree(model.folder, folder)
    torch.manual_seed(0)
    prior = build_prior(find("test").priors["masked"].for_corpus(3, 3, model.vocabulary.size))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    Jukebox.from_pretrained(folder).save_prior("masked", prior)
    return Jukebox.from_pretrained(folder)
