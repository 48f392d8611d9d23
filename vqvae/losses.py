"""How far a reconstruction is from the sound: waveform errors, spectral errors, spectral convergence.

Jukebox (arXiv:2005.00341, section 3.2 and appendix B.1). Notable:
- errors are divided by the "bandwidth" of the corpus (its mean |x|, variance and mean spectral norm), so that one set
  of weights suits quiet and loud corpora;
- the spectral errors compare magnitudes, never phases, by the Frobenius norm of one clip's difference;
- an exact match has gradient zero, not nan: the norm's subgradient at zero is taken.
All of it is float32. Audio is (b, c, t); spectral terms take (n, t), see `mixdown`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Resolution = tuple[int, int, int]  # n_fft, hop, window, in samples
CONVERGENCE_FLOOR = 2e-3  # a clip whose spectral norm is below counts as silence


@dataclass(frozen=True)
class Bandwidth:
    """What errors are divided by: mean |x|, variance of x, mean spectral norm of a clip of the corpus."""

    l1: float = 1.0
    l2: float = 1.0
    spec: float = 1.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def l1(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth) -> Tensor:
    """Mean absolute error."""
    return (x - y).abs().mean() / bandwidth.l1


def l2(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth) -> Tensor:
    """Mean squared error."""
    return (x - y).square().mean() / bandwidth.l2


def linf(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth, k: int) -> Tensor:
    """Mean of the `k` largest squared errors of each clip: the loudest misses weigh alone."""
    residual = (x - y).square().flatten(1)
    return residual.topk(min(k, residual.shape[1]), dim=1).values.mean() / bandwidth.l2


def mixdown(audio: Float[Tensor, "b c t"], stereo: str) -> Float[Tensor, "n t"]:
    """What a spectral loss compares: the channels' "mean" (published: deaf to stereo), "channels", or "mid_side"."""
    if audio.shape[1] == 1 or stereo == "channels":
        return audio.flatten(0, 1)
    if stereo == "mean":
        return audio.mean(1)
    left, right = audio.unbind(1)
    return torch.cat([(left + right) / 2, (left - right) / 2])


def magnitudes(audio: Float[Tensor, "n t"], resolution: Resolution) -> Float[Tensor, "n f s"]:
    """Magnitudes of a centred, Hann-windowed Fourier transform; ValueError if the clip is too short for n_fft."""
    n_fft, hop, window = resolution
    if audio.shape[-1] <= n_fft // 2:
        raise ValueError(
            f"a clip of {audio.shape[-1]} samples is too short for a spectral loss with n_fft {n_fft}: "
            f"train on clips of at least {n_fft // 2 + 1} samples, or configure smaller transforms"
        )
    hann = torch.hann_window(window, device=audio.device)
    return torch.stft(audio, n_fft, hop, window, hann, center=True, pad_mode="reflect", return_complex=True).abs()


def norm(x: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Frobenius norm of each clip; its gradient at zero is zero."""
    return torch.linalg.vector_norm(x, dim=(-2, -1))


def spectral(target: Float[Tensor, "n f s"], output: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Norm of the difference of two magnitude spectrograms, a clip."""
    return norm(target - output)


def spectral_convergence(target: Float[Tensor, "n f s"], output: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Norm of the difference over the norm of the target, a clip; 0 for silence."""
    size = norm(target)
    return norm(target - output) * (size > CONVERGENCE_FLOOR) / size.clamp(min=CONVERGENCE_FLOOR)


def measure_bandwidth(clips: Iterable[Float[Tensor, "c t"]], resolution: Resolution = (2048, 256, 1536)) -> Bandwidth:
    """The bandwidth of a corpus, from clips of the length that training uses (the spectral norm grows with length)."""
    count = total = absolute = squared = spectral_total = 0.0
    n_clips = 0
    for clip in clips:
        exact = clip.double()
        count += exact.numel()
        total += exact.sum().item()
        absolute += exact.abs().sum().item()
        squared += exact.square().sum().item()
        spectral_total += norm(magnitudes(clip.float().mean(0, keepdim=True), resolution)).item()
        n_clips += 1
    if not n_clips or not squared or not spectral_total:
        raise ValueError(
            f"the bandwidth of {n_clips} clips cannot be measured: it needs at least one that is not silent"
        )
    return Bandwidth(absolute / count, squared / count - (total / count) ** 2, spectral_total / n_clips)
