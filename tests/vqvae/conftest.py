"""A codec small enough to train in a test, and something to train it on."""

from __future__ import annotations

import math

import pytest
import torch

from vqvae.jukebox.config import VQVAEConfig


@pytest.fixture(autouse=True)
def seeded_and_single_threaded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small() -> VQVAEConfig:
    """Two levels, hops 4 and 16, transforms that fit clips of 256 samples."""
    return VQVAEConfig(
        sample_rate=8000,
        downs_t=(2, 1),
        strides_t=(2, 4),
        emb_width=8,
        bins=16,
        width=8,
        depth=2,
        multipliers=(1, 1),
        spectral_stft=(256, 64, 256),
        multispectral_stfts=((128, 32, 128), (64, 16, 64)),
        linf_k=16,
    )


@pytest.fixture
def tones() -> torch.Tensor:
    """Sixteen clips (16, 1, 256) of two sines each, amplitude at most 0.6."""
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(256) / 8000
    pitch = 100 + 1500 * torch.rand(16, 2, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(16, 2, 1, generator=generator)
    return 0.3 * torch.sin(2 * math.pi * pitch * time + phase).sum(1, keepdim=True)
