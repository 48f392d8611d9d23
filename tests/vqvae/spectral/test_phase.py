"""Phases: the transform and its inverse, exact derivatives, propagation in pieces, and Griffin-Lim beside random phases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vqvae.spectral.losses import phase_slopes
from vqvae.spectral.phase import ROUNDS, Propagation, griffin_lim, peak_slopes, plain_recursion, recursion, unit
from vqvae.spectral.stft import analyse, audio_of, pad, synthesise

N, HOP = 512, 128


def chirp(n: int = 128 * 60) -> torch.Tensor:
    t = torch.arange(n) / 22050
    tones = sum(torch.sin(2 * torch.pi * (f * t + 300 * t**2)) for f in (300.0, 711.0, 2042.0))
    return 0.2 * tones + 0.01 * torch.randn(n, generator=torch.Generator().manual_seed(0))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spectral convergence of two spectrograms' magnitudes."""
    return float((a.abs() - b.abs()).norm() / a.abs().norm())


@pytest.mark.parametrize("hop", [64, 100, 128, 256])
def test_the_inverse_transform_undoes_the_transform(hop):
    song = chirp()
    spectra = analyse(pad(song[None], N, hop), N, hop)
    whole = len(song) // hop * hop
    assert spectra.shape == (1, whole // hop, N // 2 + 1)
    assert torch.allclose(audio_of(spectra, N, hop)[0], song[:whole], atol=1e-5)


def test_true_derivatives_give_the_true_phases_back():
    spectra = analyse(pad(chirp()[None], N, HOP), N, HOP)
    slopes = phase_slopes(spectra, N, HOP)[0]
    phasors = Propagation(N, HOP)(spectra[0].abs(), slopes)
    again = analyse(synthesise(spectra[0].abs() * phasors, N, HOP)[None], N, HOP)[0]
    assert distance(spectra[0], again) < 1e-3
    turned = unit(spectra[0]) * phasors.conj()  # the same angle everywhere, where there is energy
    loud = spectra[0].abs() > 1
    assert (turned[loud] - turned[loud].mean()).abs().max() < 0.05


def plain_step(before: torch.Tensor, sizes: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """The recursion as it is defined, for one frame: `before` are the phasors of the frame before, `sizes` both frames' magnitudes."""
    turn, tilt = torch.complex(slopes[0, 0], slopes[0, 1]), -torch.complex(slopes[1, 0], slopes[1, 1])
    usual = torch.exp(2j * torch.pi * HOP / N * torch.arange(len(before)))
    along = before * turn * usual * sizes.prod(0).sqrt()
    z = along
    for _ in range(ROUNDS):
        u = unit(z) * sizes[1]
        z = along + F.pad((u * tilt)[:-1], (1, 0)) + F.pad(u[1:] * tilt[:-1].conj(), (0, 1))
    return unit(z)


def test_a_frame_follows_from_the_frame_before_and_from_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(9, N // 2 + 1, generator=generator) + 0.1
    slopes = torch.randn(9, 2, 2, N // 2 + 1, generator=generator) * 0.5
    slopes[:, 1, :, 40] = 0  # no direction across a bin
    phasors = Propagation(N, HOP)(sizes, slopes)
    for i in range(1, len(sizes)):
        apart = phasors[i] - plain_step(phasors[i - 1].to(torch.complex128), sizes[i - 1 : i + 1].double(), slopes[i].double())
        assert apart.abs().quantile(0.99) < 1e-4  # where proposals cancel, rounding decides


def test_the_compiled_recursion_has_the_bits_of_the_plain_one():
    rng, shape = np.random.default_rng(0), (40, N // 2 + 1)
    along = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    doubt, now = (
        rng.standard_normal((40, 2, shape[1])).astype(np.float32),
        rng.standard_normal((2, shape[1])).astype(np.float32),
    )
    below, above = rng.random((2, *shape)).astype(np.float32)
    along[7, :9], doubt[7, :, :9], below[7, :10], above[7, :10] = 0, 0, 0, 0  # no proposal at all
    if (made := recursion()) is plain_recursion:
        pytest.skip("no C++ compiler here")
    assert made(along, doubt, below, above, now).tobytes() == plain_recursion(along, doubt, below, above, now).tobytes()


def test_frames_in_pieces_have_the_phases_of_the_whole():
    spectra = analyse(pad(chirp()[None], N, HOP), N, HOP)[0]
    slopes = peak_slopes(spectra.abs(), N, HOP)
    pieces, whole = Propagation(N, HOP), Propagation(N, HOP)(spectra.abs(), slopes)
    parts = [pieces(spectra[i : i + 7].abs(), slopes[i : i + 7]) for i in range(0, len(spectra), 7)]
    assert torch.equal(torch.cat(parts), whole)


def test_griffin_lim_comes_nearer_with_each_round_and_peaks_are_a_better_start_than_chance():
    spectra = analyse(pad(chirp()[None], N, HOP), N, HOP)[0]
    size = spectra.abs()
    angles = 2 * torch.pi * torch.rand(size.shape, generator=torch.Generator().manual_seed(1))
    chance = torch.polar(torch.ones_like(size), angles)
    peaks = Propagation(N, HOP)(size, peak_slopes(size, N, HOP))

    def error(phasors: torch.Tensor, rounds: int) -> float:
        made = size * griffin_lim(size, phasors, N, HOP, rounds)
        return distance(spectra, analyse(synthesise(made, N, HOP), N, HOP))

    assert error(chance, 16) < error(chance, 4) < error(chance, 0)
    assert error(peaks, 0) < 0.5 * error(chance, 0)
    assert error(peaks, 16) < error(chance, 16)
