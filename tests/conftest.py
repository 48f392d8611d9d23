"""Small models with random weights, made once: enough for everything about sampling that is not about beauty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from data_prep.labels import Labels
from jukebox import Jukebox
from jukebox.model.folder import build_codec, build_prior
from jukebox.model.presets import find
from priors.conditioning.vocabulary import Characters
from priors.prior import Prior
from priors.spec import PriorConfig

torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and pages of help would be narrower
# no example is timed; a change is judged by the same examples as the one before it, and new ones are looked for at home
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


def make_model(folder: Path, spread: float = 0.2, presets: Sequence[str] = ("test",)) -> Jukebox:
    """A model folder of test presets; weights are spread by `spread`, so that conditions and chance both matter."""
    labels = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None)
    torch.manual_seed(0)
    for preset in map(find, presets):
        model = Jukebox.create(folder, preset.codec, Characters(preset.symbols))
        model.save_labels(labels)
        codec, clips = build_codec(preset.codec), torch.randn(4, 1, 4096) * 0.3
        codec.initialise(clips, torch.Generator())
        codec.train().loss(clips, generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
        model.save_codec(codec)
        for name, config in preset.priors.items():
            if config.kind != "masked":
                model.save_prior(name, random_prior(config, spread))
    return Jukebox.from_pretrained(folder)


def random_prior(config: PriorConfig, spread: float = 0.2) -> Prior:
    """A prior for the labels of `make_model`, whose random weights are spread."""
    prior = build_prior(config.for_corpus(3, 3))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return prior


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Jukebox:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def spectral_model(tmp_path_factory: pytest.TempPathFactory) -> Jukebox:
    return make_model(tmp_path_factory.mktemp("spectral"), presets=("test_spectral",))


@pytest.fixture(scope="session")
def two_codecs(tmp_path_factory: pytest.TempPathFactory) -> Jukebox:
    """A model of both routes; the default one is that of the three levels."""
    return make_model(tmp_path_factory.mktemp("two"), presets=("test", "test_spectral"))


@pytest.fixture(scope="session", params=["tiny_model", "spectral_model"])
def each_model(request: pytest.FixtureRequest) -> Jukebox:
    """A model of either route: three levels of single codes, or frames of several codes."""
    return request.getfixturevalue(request.param)
