"""Reconstruction losses and metrics of a codec: waveform errors, spectral errors, spectral convergence.

Jukebox (arXiv:2005.00341, section 3.2 and appendix B.1). Notable:
- errors are divided by the "bandwidth" of the corpus (mean |x|, variance and mean spectral norm). So the same weights of the
  losses are valid for quiet and loud corpora;
- the spectral errors compare magnitudes, not phases, by the Frobenius norm of the difference for each clip;
- three terms are not in the published code: errors relative to the level of each clip, waveform errors after pre-emphasis, and
  a distance of log magnitudes. They preserve the treble and the quiet passages of recordings (`jukebox ablate treble`);
- an exact reconstruction has gradient zero, not nan, because the subgradient of the norm at zero is used.
All computations are in float32. Audio has shape (b, c, t). Spectral terms take signals (n, t) from `mixdown`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vqvae.jukebox.config import Resolution, VQVAEConfig
from vqvae.stft import magnitudes, norm, spectral_convergence

QUIET = 1e-6  # added to the mean square of a clip if waveform errors are relative: -60 dBFS
QUIET_BIN = 1e-4  # added to the magnitude of a bin before the logarithm, relative to full scale: -80 dBFS


@dataclass(frozen=True)
class Bandwidth:
    """Divisors of errors, measured on a corpus: mean |x|, variance of x, and mean spectral norm of a clip."""

    l1: float = 1.0
    l2: float = 1.0
    spec: float = 1.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def l1(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth) -> Tensor:
    """Mean absolute error, divided by the bandwidth."""
    return (x - y).abs().mean() / bandwidth.l1


def l2(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth) -> Tensor:
    """Mean squared error, divided by the bandwidth."""
    return (x - y).square().mean() / bandwidth.l2


def linf(x: Float[Tensor, "b c t"], y: Float[Tensor, "b c t"], bandwidth: Bandwidth, k: int) -> Tensor:
    """Mean of the `k` largest squared errors of each clip, divided by the bandwidth."""
    residual = (x - y).square().flatten(1)
    worst = residual.topk(k, dim=1).values if k < residual.shape[1] else residual
    return worst.mean() / bandwidth.l2


def mixdown(audio: Float[Tensor, "b c t"], stereo: str) -> Float[Tensor, "n t"]:
    """Return the signals that a spectral loss compares.

    `stereo` is "mean" (mean of the channels, as published), "channels" (each channel) or "mid_side" (mid and side).
    """
    if audio.shape[1] == 1 or stereo == "channels":
        return audio.flatten(0, 1)
    if stereo == "mean":
        return audio.mean(1)
    left, right = audio.unbind(1)
    return torch.cat([(left + right) / 2, (left - right) / 2])


def spectral(target: Float[Tensor, "n f s"], output: Float[Tensor, "n f s"]) -> Float[Tensor, "n"]:
    """Norm of the difference of two magnitude spectrograms, for each of the n signals."""
    return norm(target - output)


def log_error(target: Float[Tensor, "n f s"], output: Float[Tensor, "n f s"]) -> Float[Tensor, ""]:
    """Mean absolute difference of log magnitudes. Treble and bass have equal weights, and so do quiet and loud passages."""
    full = (target.shape[1] - 1) / 2  # magnitude of a full-scale sine: n_fft / 4
    return ((target + full * QUIET_BIN).log() - (output + full * QUIET_BIN).log()).abs().mean()


def emphasise(audio: Float[Tensor, "b c t"], share: float) -> Float[Tensor, "b c t"]:
    """Pre-emphasis: x[t] - share * x[t - 1]. The first sample is unchanged."""
    return torch.cat([audio[..., :1], audio[..., 1:] - share * audio[..., :-1]], dim=-1) if share else audio


def measure_bandwidth(clips: Iterable[Float[Tensor, "c t"]], resolution: Resolution = (2048, 256, 1536)) -> Bandwidth:
    """Measure the bandwidth of a corpus. `clips` must have the length of training clips: the spectral norm grows with length.

    Raises ValueError if all clips are silent or constant.
    """
    count = total = absolute = squared = spectral_total = 0.0
    n_clips = 0
    for clip in clips:
        exact = clip.double()
        count += exact.numel()
        total += exact.sum().item()
        absolute += exact.abs().sum().item()
        squared += exact.square().sum().item()
        spectral_total += norm(magnitudes(clip.float().mean(0, keepdim=True), *resolution)).item()
        n_clips += 1
    variance = squared / count - (total / count) ** 2 if count else 0.0
    if not spectral_total or variance <= 1e-9 * squared / count:
        raise ValueError(
            f"the bandwidth of {n_clips} clips cannot be measured: it needs at least one that is not silent or constant"
        )
    return Bandwidth(absolute / count, variance, spectral_total / n_clips)


class ReconstructionLoss:
    """Losses and metrics of the reconstructions of one batch of audio.

    The spectrograms of the original audio are computed once and used for all levels.
    """

    def __init__(self, config: VQVAEConfig, audio: Float[Tensor, "b c t"], bandwidth: Bandwidth) -> None:
        self.config, self.audio, self.bandwidth = config, audio, bandwidth
        self.mono, self.level = mixdown(audio, config.stereo), None
        if config.relative_waveform:
            self.level = (emphasise(audio, config.pre_emphasis).square().mean((1, 2), keepdim=True) + QUIET).sqrt()
            self.bandwidth = Bandwidth(spec=bandwidth.spec)
        self.wave = self._wave(audio)
        self.targets = {
            resolution: magnitudes(self.mono, *resolution)
            for resolution in {*self._spectral_resolutions(), *self._multispectral_resolutions()}
        }

    def measure(self, output: Float[Tensor, "b c t"]) -> tuple[dict[str, tuple[float, Tensor]], dict[str, Tensor]]:
        """Measure the reconstruction `output` of one level. Return loss terms as {name: (weight, value)}, and metrics."""
        c, x, b = self.config, self.wave, self.bandwidth
        weighed = {"l1_loss": c.l1, "l2_loss": c.l2, "linf_loss": c.linf}
        wave = self._wave(output)
        metrics = {"l1_loss": l1(x, wave, b), "l2_loss": l2(x, wave, b)}
        metrics["linf_loss"] = linf(x, wave, b, c.linf_k)
        terms = {"recons_loss": (1.0, sum((w * metrics[n] for n, w in weighed.items() if w), torch.zeros_like(x[0, 0, 0])))}
        mono = mixdown(output, c.stereo)
        made = {each: magnitudes(mono, *each) for each in self._multispectral_resolutions()}
        if c.multispectral:
            parts = [self._error(magnitude, resolution) for resolution, magnitude in made.items()]
            terms["multispectral_loss"] = (c.multispectral, torch.stack(parts).mean())
        if c.log_spectral:
            errors = [log_error(self.targets[resolution], magnitude) for resolution, magnitude in made.items()]
            terms["log_spectral_loss"] = (c.log_spectral, torch.stack(errors).mean())
        if c.spectral:
            magnitude = magnitudes(mono, *c.spectral_stft)
            terms["spectral_loss"] = (c.spectral, self._error(magnitude, c.spectral_stft, c.spectral_is_convergence))
        if self._spectral_resolutions():
            with torch.no_grad():
                target, magnitude = self.targets[c.spectral_stft], magnitudes(mono, *c.spectral_stft)
                metrics["spectral_convergence"] = spectral_convergence(target, magnitude).mean()
        return terms, metrics

    def _wave(self, audio: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        """Return the signal that the waveform losses compare; with the published settings, the audio itself."""
        wave = emphasise(audio, self.config.pre_emphasis)
        return wave if self.level is None else wave / self.level

    def _error(self, magnitude: Float[Tensor, "n f s"], resolution: Resolution, convergence: bool = False) -> Tensor:
        c, target = self.config, self.targets[resolution]
        if convergence:
            return spectral_convergence(target, magnitude).mean()
        error = spectral(target, magnitude)
        scale = norm(target) + 1 if c.relative_spectral else self.bandwidth.spec
        return (error / scale).mean()

    def _spectral_resolutions(self) -> list[Resolution]:
        """Resolution of the spectral term and of the convergence metric.

        The list is empty if the clips are too short for the metric and the spectral term has weight 0.
        """
        long_enough = self.mono.shape[-1] > self.config.spectral_stft[0] // 2
        return [self.config.spectral_stft] if self.config.spectral or long_enough else []

    def _multispectral_resolutions(self) -> tuple[Resolution, ...]:
        return self.config.multispectral_stfts if self.config.multispectral or self.config.log_spectral else ()
