"""Counting a model from its configuration: every count is that of the tensors themselves."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
import torch

from jukebox.importers.prior_keys import PRIORS, prior_config
from jukebox.importers.vqvae_keys import VQVAES
from jukebox.model.folder import hollow, is_norm
from jukebox.model.presets import PRESETS
from jukebox.planning import sizes
from vqvae.jukebox.vqvae import VQVAE


def as_stored(config) -> dict:
    """As config.json has it."""
    return json.loads(json.dumps(config))


CODECS = {name: VQVAES["small_vqvae" if name.startswith("small") else "vqvae"] for name in PRIORS}
SHAPES = {name: prior_config(hps, CODECS[name]) for name, hps in PRIORS.items()}
SHAPES |= {f"{name}_{level}": prior for name, preset in PRESETS.items() for level, prior in preset.priors.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_those_of_the_state_dict_and_caches_those_of_the_buffers(name):
    config, batch = SHAPES[name], 3
    prior = hollow(config)
    with torch.device("meta"), torch.no_grad():
        x = torch.empty(batch, 1, config.trunk.width)
        encoded = torch.empty(batch, config.n_tokens, config.trunk.width)
        distance = torch.empty(batch, config.n_ctx, config.n_tokens) if config.trunk.time_bias else None
        caches = prior.trunk.caches(x, encoded, distance)
    trunk = re.compile(r"trunk\..*\.w$")
    state, counted = prior.state_dict(), sizes.prior_weights(as_stored(config.to_json()))
    assert counted.all == sum(t.numel() for t in state.values())
    assert counted.norms == sum(t.numel() for name, t in state.items() if is_norm(name))
    assert counted.matrices == sum(t.numel() for name, t in state.items() if trunk.match(name))
    assert counted.columns == sum(t.shape[1] for name, t in state.items() if trunk.match(name))
    held = sum(t.numel() for c in caches for t in (c.k, c.v, getattr(c, "bias", None)) if t is not None)
    assert batch * sum(sizes.cache_numbers(as_stored(config.to_json())).values()) == held


@pytest.mark.parametrize("name", PRESETS)
def test_a_level_of_the_codec_counts_as_it_is_built(name):
    config = PRESETS[name].codec
    stored = as_stored(asdict(config))
    assert sizes.hops(stored) == config.hops
    for level in range(config.levels):
        with torch.device("meta"):
            tensors = VQVAE(config, [level]).state_dict().values()
        assert sizes.codec_weights(stored, level) == sum(t.numel() for t in tensors) - 1  # a flag beside the codebook
