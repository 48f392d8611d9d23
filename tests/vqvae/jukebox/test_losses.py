"""Errors of a reconstruction mean what they say."""

from __future__ import annotations

import math

import pytest
import torch

from vqvae.jukebox import losses
from vqvae.jukebox.losses import Bandwidth

R = (256, 64, 256)


def test_an_exact_match_has_no_error_and_a_gradient_of_zero():
    x = torch.randn(2, 1000)
    x[1] = 0.0  # digital silence, reconstructed exactly
    y = x.clone().requires_grad_()
    target, output = losses.magnitudes(x, R), losses.magnitudes(y, R)
    total = losses.spectral(target, output).sum() + losses.spectral_convergence(target, output).sum()
    total.backward()
    assert total == 0 and torch.equal(y.grad, torch.zeros_like(x))


def test_a_clip_too_short_for_the_transform_says_so():
    with pytest.raises(ValueError, match=r"128 samples is too short .* n_fft 256: .* at least 129"):
        losses.magnitudes(torch.randn(1, 128), R)
    assert losses.magnitudes(torch.randn(1, 129), R).shape == (1, 129, 3)


def test_a_sine_is_a_peak_at_its_frequency():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(2000) / 8000)
    assert (losses.magnitudes(tone[None], R)[0, :, 5:25].argmax(0) == 1000 * 256 // 8000).all()


def test_spectral_convergence_is_one_for_silence_and_zero_against_silence():
    target = losses.magnitudes(torch.randn(1, 1000), R)
    assert losses.spectral_convergence(target, target * 0).item() == pytest.approx(1.0)
    assert losses.spectral_convergence(target * 0, target).item() == 0.0


def test_linf_is_the_mean_of_the_worst_squares_of_each_clip():
    x, y = torch.zeros(2, 1, 4), torch.tensor([[[1.0, -3.0, 0.0, 2.0]], [[0.0, 0.0, 0.5, 0.0]]])
    assert losses.linf(x, y, Bandwidth(l2=2.0), k=2).item() == pytest.approx((9 + 4 + 0.25 + 0) / 4 / 2)
    assert losses.linf(x, y, Bandwidth(), k=100) == losses.l2(x, y, Bandwidth())


def test_only_mid_side_and_channels_hear_a_difference_between_the_channels():
    stereo, wrong = torch.randn(1, 2, 1000), torch.randn(1, 1, 1000)
    other = stereo + torch.cat([wrong, -wrong], dim=1)  # the mean is untouched

    def error(kind: str) -> float:
        spectra = (losses.magnitudes(losses.mixdown(v, kind), R) for v in (stereo, other))
        return losses.spectral(*spectra).max().item()

    assert error("mean") < 1e-3 < 1 < min(error("channels"), error("mid_side"))


def test_the_bandwidth_of_a_known_corpus():
    clips = [torch.full((2, 600), 0.5), -torch.ones(2, 600)]
    bandwidth = losses.measure_bandwidth(clips, R)
    assert bandwidth.l1 == pytest.approx(0.75)
    assert bandwidth.l2 == pytest.approx((0.25 + 1.0) / 2 - 0.25**2)
    norms = [losses.norm(losses.magnitudes(clip[:1], R)).item() for clip in clips]
    assert bandwidth.spec == pytest.approx(sum(norms) / 2)
    assert Bandwidth(**bandwidth.to_dict()) == bandwidth
    with pytest.raises(ValueError, match="not silent"):
        losses.measure_bandwidth([torch.zeros(2, 600)], R)
