"""The nested VQ-VAE that separate levels are compared with: it learns, and all its levels take part."""

from __future__ import annotations

from dataclasses import replace

import torch

from vqvae.jukebox.nested import NestedVQVAE


def test_it_learns_and_every_part_gets_a_gradient(small, tones):
    codec = NestedVQVAE(replace(small, linf=0.0, relative_spectral=True))
    optimiser, rng = torch.optim.AdamW(codec.parameters(), 5e-3), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(30):
        loss = codec.loss(tones[:8], generator=rng)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.parameters())


def test_codes_have_the_levels_rates_and_silent_levels_are_missed(small, tones):
    codec = NestedVQVAE(small)
    codec.loss(tones, generator=torch.Generator().manual_seed(0))  # gives the codebooks rows
    codec.eval()
    codes = codec.encode(tones)
    assert {stream: c.shape for stream, c in codes.items()} == {"vq.0": (16, 64), "vq.1": (16, 16)}
    whole, top = codec.decode(codes, ["vq.0", "vq.1"]), codec.decode(codes, ["vq.1"])
    assert whole.shape == top.shape == tones.shape
    assert not torch.allclose(whole, top)
