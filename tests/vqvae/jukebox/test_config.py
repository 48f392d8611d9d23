"""The configuration of the three-level VQ-VAE: what it counts is what is built."""

from __future__ import annotations

import pytest
import torch

from jukebox.model.presets import PRESETS
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE

CODECS = {name: preset.codec for name, preset in PRESETS.items() if isinstance(preset.codec, VQVAEConfig)}


@pytest.mark.parametrize("name", CODECS)
def test_a_stream_counts_as_many_parameters_as_are_built(name):
    config = CODECS[name]
    for stream in config.spec.names:
        with torch.device("meta"):
            tensors = VQVAE(config, [stream]).state_dict().values()
        assert config.parameter_count(stream) == sum(t.numel() for t in tensors) - 1  # a flag beside the codebook
