"""Short-time Fourier transform whose frames tile the audio, and its inverse.

Frame i is centred in samples [i * hop, (i + 1) * hop). Audio of n * hop samples has n frames. The first frame begins (n_fft -
hop) / 2 samples before the audio. So a frame of a codec is a fixed number of frames of the transform, and an excerpt has the
same frames as the whole song.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor


def hann(n_fft: int, like: Tensor) -> Float[Tensor, " n"]:
    """The periodic Hann window, in the precision of `like`."""
    return torch.hann_window(n_fft, dtype=like.real.dtype if like.is_complex() else like.dtype, device=like.device)


def margin(n_fft: int, hop: int) -> int:
    """Number of samples by which the first frame begins before the audio and the last frame ends after the audio."""
    return (n_fft - hop) // 2


def pad(audio: Float[Tensor, "*b t"], n_fft: int, hop: int) -> Float[Tensor, "*b u"]:
    """Pad audio with `margin` samples of silence at both ends."""
    return F.pad(audio, (margin(n_fft, hop),) * 2)


def analyse(padded: Float[Tensor, "*b u"], n_fft: int, hop: int) -> Complex[Tensor, "*b n f"]:
    """Spectra of all complete frames of padded audio."""
    frames = padded.unfold(-1, n_fft, hop) * hann(n_fft, padded)
    return torch.fft.rfft(frames, dim=-1)


def overlap_add(spectra: Complex[Tensor, "*b n f"], n_fft: int, hop: int) -> tuple[Float[Tensor, "*b u"], Float[Tensor, " u"]]:
    """Return the overlap-add of the windowed inverse transforms, and the sum of the squared windows at each sample."""
    window = hann(n_fft, spectra)
    frames = torch.fft.irfft(spectra, n_fft, dim=-1) * window
    return _add_up(frames, hop), _add_up(window.square().expand(frames.shape[-2], -1), hop)


def _add_up(frames: Float[Tensor, "*b n w"], hop: int) -> Float[Tensor, "*b u"]:
    """Overlap-add of frames that start every `hop` samples. Slices of `hop` samples are added for all frames in parallel."""
    n, width = frames.shape[-2:]
    slices = F.pad(frames, (0, -width % hop)).unflatten(-1, (-1, hop))  # (B, N, W) -> (B, N, K, hop)
    k = slices.shape[-2]
    total = frames.new_zeros(*frames.shape[:-2], n + k - 1, hop)
    for i in range(k):
        total[..., i : i + n, :] += slices[..., i, :]
    return total.flatten(-2)[..., : width + (n - 1) * hop]


def synthesise(spectra: Complex[Tensor, "*b n f"], n_fft: int, hop: int) -> Float[Tensor, "*b u"]:
    """Return the padded audio with the spectra nearest to `spectra` (least squares; Griffin and Lim 1984)."""
    audio, squares = overlap_add(spectra, n_fft, hop)
    return audio / squares.clamp(min=1e-6)


def audio_of(spectra: Complex[Tensor, "*b n f"], n_fft: int, hop: int) -> Float[Tensor, "*b t"]:
    """Return the n * hop samples of audio with the spectra nearest to `spectra`; the inverse of `analyse(pad(audio))`."""
    first = margin(n_fft, hop)
    return synthesise(spectra, n_fft, hop)[..., first : first + spectra.shape[-2] * hop]
