"""Objective metrics of codes, of reconstructions, of paired trials, and of audio.

Everything here is a pure function of tensors, torch and numpy only; nothing is downloaded. Three groups:

- codes and trials: `codebook_use`, `unigram_bits`, `mean_and_error`, `paired`, `paired_by_song`, `alignment_score`;
- a reconstruction and its original: `spectral_convergence` (the Jukebox paper's metric), `band_energy_db`, `mel_distance`,
  `multiscale_distance`;
- one piece of audio (`sound_statistics`, `seams`) or two sets of pieces (`sound_features`, `frechet_distance`).

Notable: spectral flatness, the usual test for noise, does not detect samples whose partials have become noise *bands*, because
such a spectrum is as steep as that of music. `peakiness` is the share of energy in spectral lines 10 dB above their
neighbourhood of +-80 Hz. Music has most of its energy there, noise almost none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vqvae import stft
from vqvae.stft import magnitudes, mel_filters

# -------------------- codes and paired trials


def codebook_use(codes: Int[Tensor, "..."], bins: int) -> tuple[float, float]:
    """The share (0..1) of the codebook that occurs in `codes`, and the entropy of its use in bits."""
    counts = torch.bincount(codes.reshape(-1).long(), minlength=bins).double()
    share = counts / counts.sum()
    used = share[share > 0]
    return len(used) / bins, max(0.0, -(used * used.log2()).sum().item())


def unigram_bits(codes_test: Int[Tensor, "..."], codes_train: Int[Tensor, "..."], bins: int) -> float:
    """Bits per code of `codes_test` under the frequencies of `codes_train`, add-one smoothed: a baseline for priors."""
    counts = torch.bincount(codes_train.reshape(-1).long(), minlength=bins).double() + 1
    return -(counts / counts.sum()).log2()[codes_test.reshape(-1).long()].mean().item()


class Paired(NamedTuple):
    """A paired trial: mean of control minus true (positive where the truth helps), standard error, mean/se, pairs."""

    mean: float
    se: float
    z: float
    n: int


def mean_and_error(values: Sequence[float] | np.ndarray | Tensor) -> tuple[float, float]:
    """The mean, and its standard error s/sqrt(n); the error of fewer than two values is nan."""
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def paired(true: Sequence[float] | np.ndarray | Tensor, control: Sequence[float] | np.ndarray | Tensor) -> Paired:
    """The difference control minus truth of each window (bits per code), over independent windows."""
    difference = np.asarray(control, dtype=np.float64).reshape(-1) - np.asarray(true, dtype=np.float64).reshape(-1)
    mean, se = mean_and_error(difference)
    return Paired(mean, se, mean / se if se > 0 else math.nan, len(difference))


def paired_by_song(true: Sequence[float], control: Sequence[float], songs: Sequence[object]) -> Paired:
    """`paired` over the means of each song, because windows of one song are not independent trials."""
    _, song = np.unique([str(s) for s in songs], return_inverse=True)
    count = np.bincount(song)
    return paired(*(np.bincount(song, np.asarray(v, dtype=np.float64)) / count for v in (true, control)))


def paired_figures(true: np.ndarray, control: np.ndarray, songs: Sequence[object]) -> dict[str, float]:
    """Control minus truth, ready for json: the mean, standard errors and z over windows, and over songs."""
    windows, by_song = paired(true, control), paired_by_song(list(true), list(control), songs)
    return {"difference": windows.mean, "se": windows.se, "z": windows.z, "se_songs": by_song.se, "z_songs": by_song.z}


def alignment_score(weights: Float[Tensor, "b h t n"], sung: Bool[Tensor, "b t n"]) -> Float[Tensor, "b h"]:
    """The share of steps whose most attended token is of the word being sung, for every window and head of an attention.

    `sung` is true if token n is of the word sung at step t. Steps without a sung token of the window do not count, and a window
    without other steps scores nan.
    """
    right = sung[:, None].expand(weights.shape).gather(-1, weights.argmax(-1, keepdim=True))[..., 0]  # (B, H, T)
    return right.sum(-1) / sung.any(-1).sum(-1)[:, None]


def alignment_chance(sung: Bool[Tensor, "b t n"], tokens: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The `alignment_score` expected for a head that attends to tokens at random; `tokens` is false for padding."""
    return (sung.sum(-1) / tokens.sum(-1, keepdim=True)).sum(-1) / sung.any(-1).sum(-1)


# -------------------- a reconstruction and its original


def mono(audio: Tensor | np.ndarray) -> Float[Tensor, "b t"]:
    """(b, t) as it is, (b, c, t) averaged over its channels; float32."""
    audio = torch.as_tensor(audio).float()
    return audio.mean(dim=1) if audio.ndim == 3 else audio


def spectral_convergence(x: Float[Tensor, "b *c t"], y: Float[Tensor, "b *c t"]) -> Float[Tensor, " b"]:
    """||M(x) - M(y)|| / ||M(x)|| for the original x, M the magnitudes of STFT 2048/256/1536; 0 where x is silent."""
    spectra = (magnitudes(mono(each), 2048, 256, 1536, pad=True).contiguous() for each in (x, y))  # rounding: see norm
    return stft.spectral_convergence(*spectra)


def to_db(ratio: Tensor | float) -> Tensor:
    """20 log10 of an amplitude ratio (average the ratios first, as the paper's tables do); 0 becomes -200 dB."""
    return 20 * torch.as_tensor(ratio).clamp(min=1e-10).log10()


def band_energy_db(
    reference: Float[Tensor, "b *c t"],
    audio: Float[Tensor, "b *c t"],
    sample_rate: int,
    edges: Sequence[float] = (0, 500, 2000, 5000, 11025),
) -> Float[Tensor, "b bands"]:
    """Energy of `audio` relative to `reference` in dB in each band between `edges` (Hz)."""
    power = [magnitudes(mono(a), 2048, 512, pad=True).square().sum(-1) for a in (reference, audio)]  # (b, f)
    hz = torch.linspace(0, sample_rate / 2, power[0].shape[-1])
    bands = [(hz >= low) & (hz < high + (high == edges[-1])) for low, high in itertools.pairwise(edges)]
    ref, out = (torch.stack([p[:, band.to(p.device)].sum(-1) for band in bands], -1).clamp(min=1e-8) for p in power)
    return 10 * (out / ref).log10()


# -------------------- statistics of audio


def window_length(sample_rate: int, seconds: float) -> int:
    """The power of two nearest to `seconds` of sound: 2048 for .093 s at 22.05 kHz."""
    return 2 ** round(math.log2(sample_rate * seconds))


def log_mel(audio: Float[Tensor, " t"], sample_rate: int, bands: int, rate: int, seconds: float) -> Tensor:
    """Mel bands in dB (bands, n), `rate` frames a second, 0 dB a full-scale sine's own bin, floor -80 dB."""
    n_fft = window_length(sample_rate, seconds)
    power = (magnitudes(audio, n_fft, round(sample_rate / rate), pad=True) * (4 / n_fft)).square()
    return 10 * (mel_filters(sample_rate, n_fft, bands) @ power).clamp(min=1e-8).log10()


def mel_distance(x: Float[Tensor, " t"], y: Float[Tensor, " t"], sample_rate: int) -> float:
    """Mean distance of 64 log-mel bands of two sounds of one length, in dB, 100 frames a second; levels below -60 dB are clipped."""
    a, b = (log_mel(wave, sample_rate, 64, 100, 0.046).clamp(min=-60) for wave in (x, y))
    return (a - b).abs().mean().item()


def multiscale_distance(x: Float[Tensor, " t"], y: Float[Tensor, " t"]) -> float:
    """Mean L1 distance in dB of the log magnitudes of two sounds of one length: of STFTs of 2048, 1024, 512 and 256, averaged.

    The hop is a quarter of the window. 0 dB is a full-scale sine's own bin; levels below -60 dB are clipped. Long windows
    detect errors of partials, short ones errors of drum strokes (multi-scale spectral loss, Engel et al. 2020, DDSP).
    """
    total = 0.0
    for n_fft in (2048, 1024, 512, 256):
        sizes = (magnitudes(wave, n_fft, n_fft // 4, pad=True) * (4 / n_fft) for wave in (x, y))
        a, b = (20 * size.clamp(min=1e-3).log10() for size in sizes)
        total += (a - b).abs().mean().item() / 4
    return total


def spectral_flux(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> Float[Tensor, " n"]:
    """Spectral flux: rise of the mel bands within 30 ms, mean over 40 bands, in dB; `rate` frames a second."""
    mel = log_mel(audio, sample_rate, 40, rate, 0.046)
    lag = max(1, round(0.03 * rate))
    mel = mel.clamp(min=mel.max().item() - 60)  # changes of inaudible levels are not events
    return F.pad((mel[:, lag:] - mel[:, :-lag]).clamp(min=0).mean(0), (lag, 0))


def onset_rate(audio: Float[Tensor, " t"], sample_rate: int) -> float:
    """Onsets per second: peaks of the flux (the largest within +-50 ms) that stand 1 dB above its mean over +-.25 s."""
    flux = spectral_flux(audio, sample_rate, rate=100)[None]
    largest = F.max_pool1d(flux, 11, stride=1, padding=5)
    around = F.avg_pool1d(flux, 51, stride=1, padding=25, count_include_pad=False)
    return ((flux == largest) & (flux > around + 1)).sum().item() / (len(audio) / sample_rate)


def peak_energy(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> tuple[Tensor, Tensor]:
    """Per frame, the energy between 60 and 5000 Hz in lines 10 dB above the median of their +-80 Hz, and all of it."""
    n_fft = window_length(sample_rate, 0.186)  # long, to resolve partials of a 50 Hz bass
    power = magnitudes(audio, n_fft, round(sample_rate / rate), pad=True).square().T  # (n, f)
    bins = sample_rate / n_fft
    reach = round(80 / bins)
    first, last = round(60 / bins), round(5000 / bins)
    around = F.pad(power[:, : last + reach], (reach, 0), mode="reflect").unfold(1, 2 * reach + 1, 1)[:, first:last]
    power = power[:, first:last]
    return (power * (power > 10 * around.median(-1).values)).sum(1), power.sum(1)


def chroma(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> Float[Tensor, "12 n"]:
    """Energy of the twelve pitch classes (C first) between 100 and 2000 Hz, each frame of sum 1 (0 in silence)."""
    n_fft = window_length(sample_rate, 0.186)
    power = magnitudes(audio, n_fft, round(sample_rate / rate), pad=True).square()
    hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    audible = (hz >= 100) & (hz <= 2000)
    pitch = (69 + 12 * (hz[audible] / 440).log2()).round().long() % 12
    classes = torch.zeros(12, power.shape[1]).index_add_(0, pitch, power[audible])
    return classes / classes.sum(0).clamp(min=1e-6)


class Seams(NamedTuple):
    """The spectral flux (dB) at window boundaries, elsewhere, and their ratio; 1 means that boundaries are not detectable."""

    joins: float
    inside: float
    ratio: float


def seams(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int, joins: Sequence[float]) -> Seams:
    """Spectral flux of audio at its `joins` (seconds) and elsewhere: means of the largest flux within 12 ms.

    The flux is between short frames, 12 ms with a step of 1.5 ms, and the frame 6 ms earlier. It detects clicks, phase jumps
    and cut notes, which the longer frames of `spectral_flux` would smear over the next window.
    """
    x = torch.as_tensor(audio).float()
    x = x.reshape(-1, x.shape[-1]).mean(0)
    n_fft = window_length(sample_rate, 0.012)
    step = n_fft // 8
    level = 20 * (magnitudes(x, n_fft, step, pad=True) * (4 / n_fft)).clamp(min=1e-4).log10()  # (f, n)
    level = level.clamp(min=level.max().item() - 60)
    flux = F.pad((level[:, 4:] - level[:, :-4]).clamp(min=0).mean(0), (4, 0))
    largest = F.max_pool1d(flux[None], 17, stride=1, padding=8)[0]
    at = torch.tensor([round(second * sample_rate / step) for second in joins], dtype=torch.long).clamp(max=len(flux) - 1)
    inside = torch.ones(len(flux), dtype=torch.bool)
    for reach in range(-16, 17):  # without its frames and those of its neighbourhood
        inside[(at + reach).clamp(0, len(flux) - 1)] = False
    a, b = largest[at].mean().item(), largest[inside].mean().item()
    return Seams(a, b, a / b if b > 0 else math.nan)


class Sound(NamedTuple):
    """Statistics of a piece of audio; `Sound._asdict()` is ready for json."""

    seconds: float
    loudness_db: float  # RMS, dBFS (a full-scale square wave is 0); -100 is silence
    peak: float  # largest absolute sample
    clipped: float  # share of samples at or beyond 0.999
    flatness: float  # geometric over arithmetic mean of the power spectrum, frames weighted by energy; white noise .56
    onsets: float  # per second
    peakiness: float  # share of the energy of 60..5000 Hz in spectral lines; noise of any colour below .1
    chroma_change: float  # 1 - cosine of the pitch classes half a second apart: 0 a drone, .2 to .6 changing notes


def sound_statistics(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int) -> Sound:
    """The statistics of one piece, (t,) or (c, t) with channels averaged."""
    audio = torch.as_tensor(audio).float()
    x = audio.reshape(-1, audio.shape[-1]).mean(0)
    power = magnitudes(x, window_length(sample_rate, 0.093), round(sample_rate / 40), pad=True)[1:].square() + 1e-12
    flatness = power.log().mean(0).exp() / power.mean(0)
    lines, whole = (e.sum().item() for e in peak_energy(x, sample_rate, rate=10))
    notes = chroma(x, sample_rate, rate=2)
    change = (1 - F.cosine_similarity(notes[:, 1:], notes[:, :-1], dim=0)) * (notes[:, 1:].sum(0) > 0.5)
    return Sound(
        seconds=len(x) / sample_rate,
        loudness_db=10 * math.log10(x.square().mean().item() + 1e-10),
        peak=audio.abs().max().item(),
        clipped=(audio.abs() >= 0.999).float().mean().item(),
        flatness=((flatness * power.sum(0)).sum() / power.sum()).item(),
        onsets=onset_rate(x, sample_rate),
        peakiness=lines / max(whole, 1e-9),
        chroma_change=change.mean().item(),
    )


# -------------------- two sets of pieces


def sound_features(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int) -> Float[Tensor, "n 64"]:
    """Features of one piece, a row for each patch of .5 s (hop .25 s), equal for all sample rates from 22.05 kHz on.

    The columns are mean (24) and standard deviation (24) over the patch of 24 log-mel bands of 40..11025 Hz in dB. Two are the
    mean and standard deviation of the spectral flux in dB, and two those of the peakiness in per cent. Twelve are the shares of
    the pitch classes in per cent, largest first, so that the key does not matter.
    """
    audio = torch.as_tensor(audio).float()
    x = audio.reshape(-1, audio.shape[-1]).mean(0)
    x = F.pad(x, (0, max(0, sample_rate // 2 + 1 - len(x))))
    lines, whole = peak_energy(x, sample_rate, rate=20)
    peaky = 100 * lines / whole.clamp(min=1e-6)
    tracks = [log_mel(x, sample_rate, 24, 20, 0.093), spectral_flux(x, sample_rate, rate=100)[None, ::5], peaky[None]]
    frames = min(t.shape[1] for t in tracks)
    patches = torch.cat([t[:, :frames] for t in tracks]).unfold(1, 10, 5)  # (26, n, 10): 20 frames a second
    classes = 100 * chroma(x, sample_rate, rate=20)[:, :frames].unfold(1, 10, 5).mean(-1)
    return torch.cat([patches.mean(-1), patches.std(-1), classes.sort(dim=0, descending=True).values]).T


def frechet_distance(reference: Float[Tensor, "n d"], made: Float[Tensor, "m d"]) -> float:
    """The squared Frechet distance |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^.5) of Gaussians fitted to two feature sets.

    Every column is normalised to mean 0 and deviation 1 of `reference` (deviations are at least .5 dB or per cent). Both
    covariances are shrunk towards their diagonals by d / (d + min(n, m)), so that few patches can be compared. The distance
    still decreases with more songs, so compare with a real song of the same length. ValueError for fewer than two patches.
    After Heusel 2017 (FID) and Kilgour 2019 (FAD), but of stated features.
    """
    if min(len(reference), len(made)) < 2:
        raise ValueError(f"{len(reference)} and {len(made)} patches were given, 2 or more are needed: give longer audio")
    mean, std = reference.double().mean(0), reference.double().std(0).clamp(min=0.5)
    a, b = ((x.double() - mean) / std for x in (reference, made))
    shrink = a.shape[1] / (a.shape[1] + min(len(a), len(b)))
    s_a, s_b = (torch.lerp(c, c.diag().diag(), shrink) for c in (a.T.cov(), b.T.cov()))
    values, vectors = torch.linalg.eigh(s_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s_b @ root).clamp(min=0).sqrt().sum()  # tr (S1^.5 S2 S1^.5)^.5
    return max(0.0, ((a.mean(0) - b.mean(0)).square().sum() + s_a.trace() + s_b.trace() - 2 * cross).item())


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as aligned plain text, the first the header; numbers stand right with three digits after the point."""
    text = [[f"{c:.3f}" if isinstance(c, float) else "-" if c is None else str(c) for c in row] for row in rows]
    width = [max(len(row[i]) for row in text if i < len(row)) for i in range(max(map(len, text), default=0))]
    right = [any(i < len(row) and isinstance(row[i], int | float) for row in rows[1:]) for i in range(len(width))]
    text[1:1] = [["-" * w for w in width]]
    return "\n".join("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right)).rstrip() for row in text)
