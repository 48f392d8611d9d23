"""Losses of the spectral codec: magnitudes, their slopes, mel bands, and the derivatives of the phase.

Magnitudes are compared as logarithms and as square roots, with smaller weights towards the treble, as in human hearing. A loss
of magnitudes alone blurs partials. The loss of slopes keeps partials narrow. The derivatives of the phase are learned as unit
vectors with a squared error. So the prediction is a mean vector: its direction is the derivative, and its length is a
confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from vqvae.ranks import mean_over_ranks
from vqvae.spectral.config import SpectralConfig
from vqvae.stft import magnitudes, mel_filters, spectral_convergence

BANDS = 64  # bands of the mel loss
SCALES = (256, 512, 1024, 2048)  # windows of the multi-scale distance, samples
FLOOR = 1e-2  # added to magnitudes before the logarithm in the multi-scale distance
CORNER = 500.0  # Hz; weights fall as 1 / (f + CORNER)


def phase_slopes(spectra: Complex[Tensor, "b n f"], n_fft: int, hop: int) -> Float[Tensor, "b n 2 2 f"]:
    """Derivatives of the phase as unit vectors (cosine, sine): from the previous frame, and to the next higher bin.

    The derivative by time is relative to a sinusoid at the centre of the bin. The derivative by frequency is relative to energy
    at the centre of the frame.
    """
    phasors = spectra / spectra.abs().clamp(min=1e-9)
    k = torch.arange(spectra.shape[-1], device=spectra.device)
    usual = torch.polar(torch.ones_like(k, dtype=torch.float32), -2 * math.pi * hop / n_fft * k)
    by_time = F.pad(phasors[:, 1:] * phasors[:, :-1].conj() * usual, (0, 0, 1, 0))
    by_frequency = F.pad(-phasors[..., 1:] * phasors[..., :-1].conj(), (0, 1))
    slopes = torch.stack([by_time, by_frequency], dim=2)  # (B, N, F) -> (B, N, 2, F)
    return torch.stack([slopes.real, slopes.imag], dim=3)


def multi_scale_distance(
    target: Float[Tensor, "b c t"], output: Float[Tensor, "b c t"], windows: Sequence[int] = SCALES
) -> Float[Tensor, ""]:
    """Spectral convergence plus L1 distance of log magnitudes, averaged over windows (Parallel WaveGAN, arXiv:1910.11480).

    The sum is equation 6 of the paper.
    """
    terms = []
    for n_fft in windows:
        x, y = (magnitudes(audio.flatten(0, 1), n_fft, n_fft // 4) for audio in (target, output))
        terms += [spectral_convergence(x, y).mean(), ((x + FLOOR).log() - (y + FLOOR).log()).abs().mean()]
    return torch.stack(terms).sum() / len(windows)


class SpectralLoss:
    """The terms of the loss of a spectral codec."""

    def __init__(self, config: SpectralConfig, device: torch.device) -> None:
        self.config = config
        hz = torch.linspace(0, config.sample_rate / 2, config.frequencies, device=device)
        weight = 1 / (hz + CORNER)
        self.weight = weight / weight.mean()
        self.mel = mel_filters(config.sample_rate, config.n_fft, BANDS, high=config.sample_rate / 2).T.to(device)

    def magnitudes(
        self, target: Float[Tensor, "b n c f"], output: Float[Tensor, "b n c f"], true: Float[Tensor, "b n c f"]
    ) -> dict[str, Tensor]:
        """Return the losses of magnitudes by name. `target` and `output` are log(magnitude + floor); `true` are magnitudes."""
        config, error = self.config, output - target
        root = (output / 2).exp() - (target / 2).exp()
        made = (output.exp() - config.floor).clamp(min=0)
        bands = [(each.square() @ self.mel + 1e-3).log() for each in (true, made)]
        slope = (error[:, 1:] - error[:, :-1]).abs() @ self.weight
        across = (error[..., 1:] - error[..., :-1]).abs() @ self.weight[1:]
        f = config.frequencies
        return {
            "log_loss": (error.abs() @ self.weight).mean() / f,
            "root_loss": (root.abs() @ self.weight).mean() / f,
            "mel_loss": (bands[0] - bands[1]).abs().mean(),
            "slope_loss": (slope.mean() + across.mean()) / f,
        }

    def phase(self, spectra: Complex[Tensor, "b n f"], slopes: Float[Tensor, "b n 2 2 f"]) -> Float[Tensor, ""]:
        """Squared distance of the predicted `slopes` and the derivatives of the phase of `spectra`.

        The weight of a derivative is the square root of the smaller of the two magnitudes between which the phase differs.
        """
        error = (slopes - phase_slopes(spectra, self.config.n_fft, self.config.hop_fft)).square().sum(3)  # (B, N, 2, F)
        size = spectra.abs().sqrt()
        size = size / mean_over_ranks(size.mean()).clamp(min=1e-12)  # clamp: a silent batch has weight 0, not nan
        by_time = torch.minimum(size[:, 1:], size[:, :-1])
        by_frequency = torch.minimum(size[..., 1:], size[..., :-1])
        return (error[:, 1:, 0] * by_time).mean() + (error[..., 1, :-1] * by_frequency).mean()

    def total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        config = self.config
        weights = {"mel_loss": config.mel, "slope_loss": config.slope, "phase_loss": config.phase, "commit_loss": config.commit}
        return torch.stack([weights.get(name, 1.0) * value for name, value in terms.items()]).sum()
