"""Configurations of priors of every kind: what they count is what is built."""

from __future__ import annotations

import re

import pytest

from jukebox.model.folder import hollow, is_norm
from jukebox.model.presets import PRESETS
from jukebox.model.settings import PRIORS, VQVAES, prior_config

CODECS = {name: VQVAES["small_vqvae" if name.startswith("small") else "vqvae"] for name in PRIORS}
PUBLISHED = {name: prior_config(settings, CODECS[name]) for name, settings in PRIORS.items()}
SHAPES = PUBLISHED | {f"{preset} {name}": p for preset in PRESETS for name, p in PRESETS[preset].priors.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_state_dict(name):
    config = SHAPES[name]
    state, counted = hollow(config).state_dict(), config.parameters()
    wavenet = r"(gates|hidden|x_out)\.w$|stack\.(gates|residual|skip)$" if config.kind == "wavenet" else "-"
    matrices = [t for name, t in state.items() if re.match(rf"(trunk\..*|inlet|head\.books\..*)\.w$|{wavenet}", name)]
    assert counted.all == sum(t.numel() for t in state.values())
    assert counted.norms == sum(t.numel() for name, t in state.items() if is_norm(name))
    assert counted.matrices == sum(t.numel() for t in matrices)
    assert counted.columns == sum(t.shape[1] for t in matrices if t.ndim == 2)
    table = r"x_out\.w" if config.kind == "wavenet" else r"heads\.0\.out\.w|x_emb\.weight|head\.books\.\d+\.out\.w"
    tables = [t for name, t in state.items() if re.match(rf"({table})$", name)]
    assert counted.table == sum(t.numel() for t in tables)
