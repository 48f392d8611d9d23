"""Magnitude spectrograms and their distance, for training losses and for metrics.

The distance ignores phases: two signals with equal magnitudes have distance 0. The spectral convergence is the metric of
Jukebox (arXiv:2005.00341, section 3.2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SILENCE = 2e-3  # a signal with a smaller spectral norm is silent


def magnitudes(
    audio: Float[Tensor, "*b t"], n_fft: int, hop: int, window: int = 0, pad: bool = False
) -> Float[Tensor, "*b f s"]:
    """Magnitudes of a short-time Fourier transform with a periodic Hann window of `window` samples (0: n_fft samples).

    Frames are centred, and the audio is reflected at both ends. With `pad`, a signal shorter than n_fft is extended with zeros.
    Without `pad`, a signal that is too short for the reflection raises ValueError.
    """
    if pad:
        audio = F.pad(audio, (0, max(0, n_fft - audio.shape[-1])))
    elif audio.shape[-1] <= n_fft // 2:
        raise ValueError(
            f"a clip of {audio.shape[-1]} samples is too short for a spectral loss with n_fft {n_fft}: "
            f"train on clips of at least {n_fft // 2 + 1} samples, or configure smaller transforms"
        )
    window = window or n_fft
    hann = torch.hann_window(window, device=audio.device, dtype=audio.dtype)
    flat = audio.reshape(-1, audio.shape[-1])  # (*B, T) -> (N, T)
    stft = torch.stft(flat, n_fft, hop, window, hann, center=True, pad_mode="reflect", return_complex=True)
    return stft.abs().reshape(*audio.shape[:-1], *stft.shape[-2:])  # (N, F, S) -> (*B, F, S)


def norm(x: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Frobenius norm of each spectrogram. The gradient at zero is zero. The last bits depend on the memory layout of `x`."""
    return torch.linalg.vector_norm(x, dim=(-2, -1))


def spectral_convergence(target: Float[Tensor, "n f s"], output: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Norm of the difference of two magnitude spectrograms, divided by the norm of the target; 0 for a silent target."""
    size = norm(target)
    return norm(target - output) * (size > SILENCE) / size.clamp(min=SILENCE)


def mel_filters(sample_rate: int, n_fft: int, bands: int, low: float = 40.0, high: float = 11025.0) -> Tensor:
    """Triangular mel filters (bands, n_fft/2 + 1) from `low` to `high` Hz. The weights of each filter sum to 1.

    The filters are evenly spaced on the mel scale 2595 log10(1 + f/700).
    """
    first, last = (2595 * math.log10(1 + hz / 700) for hz in (low, min(high, sample_rate / 2)))
    corner = 700 * (10 ** (torch.linspace(first, last, bands + 2, device="cpu") / 2595) - 1)
    hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, device="cpu")
    rise = (hz - corner[:-2, None]) / (corner[1:-1] - corner[:-2])[:, None]
    fall = (corner[2:, None] - hz) / (corner[2:] - corner[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0)
    return filters / filters.sum(1, keepdim=True).clamp(min=1e-8)
