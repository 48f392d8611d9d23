"""A small model with random weights, made once: enough for everything about sampling that is not about beauty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from data_prep.labels import Labels
from jukebox import Jukebox
from jukebox.model.presets import find
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.vocabulary import Characters
from vqvae.jukebox.vqvae import VQVAE

torch.set_num_threads(1)
# no example is timed; a change is judged by the same examples as the one before it, and new ones are looked for at home
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


def make_model(folder: Path, spread: float = 0.2) -> Jukebox:
    """A model folder of the preset `test`; weights are spread by `spread`, so that conditions and chance both matter."""
    labels = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None)
    preset = find("test")
    torch.manual_seed(0)
    model = Jukebox.create(folder, preset.codec, Characters(preset.symbols))
    model.save_labels(labels)
    codec = VQVAE(preset.codec)
    codec.train().loss(torch.randn(4, 1, 4096) * 0.3, generator=torch.Generator().manual_seed(0))
    model.save_codec(codec)
    for name in preset.parts("autoregressive"):
        prior = AutoregressivePrior(preset.priors[name].for_corpus(len(labels.artists), len(labels.genres)))
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(torch.randn_like(parameter) * spread)
        model.save_prior(name, prior)
    return Jukebox.from_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Jukebox:
    return make_model(tmp_path_factory.mktemp("model"))
