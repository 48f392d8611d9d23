"""Magnitude spectrograms and their distance have the defined values."""

from __future__ import annotations

import math

import pytest
import torch

from vqvae.stft import magnitudes, norm, spectral_convergence

R = (256, 64, 256)


def test_an_exact_match_has_no_error_and_a_gradient_of_zero():
    x = torch.randn(2, 1000)
    x[1] = 0.0  # digital silence, reconstructed exactly
    y = x.clone().requires_grad_()
    target, output = magnitudes(x, *R), magnitudes(y, *R)
    total = norm(target - output).sum() + spectral_convergence(target, output).sum()
    total.backward()
    assert total == 0 and torch.equal(y.grad, torch.zeros_like(x))


def test_a_clip_too_short_for_the_transform_raises_or_is_padded_with_zeros():
    x = torch.randn(1, 128)
    with pytest.raises(ValueError, match=r"128 samples is too short .* n_fft 256: .* at least 129"):
        magnitudes(x, *R)
    assert magnitudes(torch.randn(1, 129), *R).shape == (1, 129, 3)
    padded = torch.cat([x, torch.zeros(1, 128)], dim=1)
    assert torch.equal(magnitudes(x, *R, pad=True), magnitudes(padded, *R))
    assert torch.equal(magnitudes(padded, *R, pad=True), magnitudes(padded, *R))


def test_leading_dimensions_are_kept_and_the_window_is_as_long_as_the_transform():
    x = torch.randn(2, 3, 1000)
    spectrum = magnitudes(x, 256, 64)
    assert spectrum.shape == (2, 3, 129, 16)
    assert torch.allclose(spectrum[1, 2], magnitudes(x[1, 2], *R))
    assert not torch.allclose(spectrum, magnitudes(x, 256, 64, 128))


def test_a_sine_is_a_peak_at_its_frequency():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(2000) / 8000)
    assert (magnitudes(tone[None], *R)[0, :, 5:25].argmax(0) == 1000 * 256 // 8000).all()


def test_norm_is_that_of_each_sound():
    x = torch.randn(2, 5, 7)
    assert torch.allclose(norm(x), x.square().sum((1, 2)).sqrt())


def test_spectral_convergence_is_one_for_silence_and_zero_against_silence():
    target = magnitudes(torch.randn(1, 1000), *R)
    assert spectral_convergence(target, target * 0).item() == pytest.approx(1.0)
    assert spectral_convergence(target * 0, target).item() == 0.0
