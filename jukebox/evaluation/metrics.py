"""Objective metrics of codes, paired trials, reconstructions and audio.

All metrics are pure functions of tensors. They need torch and numpy only, and they download nothing. There are three groups:

- codes and trials: `codebook_use`, `unigram_bits`, `mean_and_error`, `paired`, `paired_by_song`, `alignment_score`;
- a reconstruction and its original: `spectral_convergence` (the metric of the Jukebox paper), `band_energy_db`, `mel_distance`,
  `multiscale_distance`;
- one piece of audio (`sound_statistics`, `seams`) or two sets of pieces (`sound_features`, `frechet_distance`).

Notable: spectral flatness, the usual test for noise, does not detect samples in which each partial has become a *band* of
noise, because the spectrum of these samples is as steep as the spectrum of music. `peakiness` detects them. It is the share of
energy in spectral lines 10 dB above the median of +-80 Hz around them: most of the energy of music, almost none of noise.
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
    """Return the share (0..1) of codebook entries that occur in `codes`, and the entropy of the code frequencies in bits."""
    counts = torch.bincount(codes.reshape(-1).long(), minlength=bins).double()
    share = counts / counts.sum()
    used = share[share > 0]
    return len(used) / bins, max(0.0, -(used * used.log2()).sum().item())


def unigram_bits(codes_test: Int[Tensor, "..."], codes_train: Int[Tensor, "..."], bins: int) -> float:
    """Bits per code of `codes_test` under the add-one smoothed code frequencies of `codes_train`: a baseline for priors."""
    counts = torch.bincount(codes_train.reshape(-1).long(), minlength=bins).double() + 1
    return -(counts / counts.sum()).log2()[codes_test.reshape(-1).long()].mean().item()


class Paired(NamedTuple):
    """Result of a paired trial."""

    mean: float  # of control minus true; positive if the true condition helps
    se: float  # standard error of the mean
    z: float  # mean / se
    n: int  # number of pairs


def mean_and_error(values: Sequence[float] | np.ndarray | Tensor) -> tuple[float, float]:
    """Return the mean of the values and its standard error s/sqrt(n). The error of fewer than two values is nan."""
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def paired(true: Sequence[float] | np.ndarray | Tensor, control: Sequence[float] | np.ndarray | Tensor) -> Paired:
    """Paired trial of `true` and `control`, which hold one figure (for example bits per code) for each independent window."""
    difference = np.asarray(control, dtype=np.float64).reshape(-1) - np.asarray(true, dtype=np.float64).reshape(-1)
    mean, se = mean_and_error(difference)
    return Paired(mean, se, mean / se if se > 0 else math.nan, len(difference))


def paired_by_song(true: Sequence[float], control: Sequence[float], songs: Sequence[object]) -> Paired:
    """Paired trial of the mean figures of each song, because windows of one song are not independent trials."""
    _, song = np.unique([str(s) for s in songs], return_inverse=True)
    count = np.bincount(song)
    return paired(*(np.bincount(song, np.asarray(v, dtype=np.float64)) / count for v in (true, control)))


def paired_figures(true: np.ndarray, control: np.ndarray, songs: Sequence[object]) -> dict[str, float]:
    """Return mean, standard error and z of control minus true over windows, and standard error and z over songs, for json."""
    windows, by_song = paired(true, control), paired_by_song(list(true), list(control), songs)
    return {"difference": windows.mean, "se": windows.se, "z": windows.z, "se_songs": by_song.se, "z_songs": by_song.z}


def alignment_score(weights: Float[Tensor, "b h t n"], sung: Bool[Tensor, "b t n"]) -> Float[Tensor, "b h"]:
    """Share of sung steps at which the most attended token belongs to the word being sung, for each window and attention head.

    `sung` is true if token n belongs to the word that is sung at step t. A step is a sung step if any token is true at it. A
    window without sung steps scores nan.
    """
    right = sung[:, None].expand(weights.shape).gather(-1, weights.argmax(-1, keepdim=True))[..., 0]  # (B, H, T)
    return right.sum(-1) / sung.any(-1).sum(-1)[:, None]


def alignment_chance(sung: Bool[Tensor, "b t n"], tokens: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Expected `alignment_score` of a head that attends to random tokens; `tokens` is false for padding."""
    return (sung.sum(-1) / tokens.sum(-1, keepdim=True)).sum(-1) / sung.any(-1).sum(-1)


# -------------------- a reconstruction and its original


def mono(audio: Tensor | np.ndarray) -> Float[Tensor, "b t"]:
    """Audio (b, t) unchanged, or audio (b, c, t) averaged over its channels, in float32."""
    audio = torch.as_tensor(audio).float()
    return audio.mean(dim=1) if audio.ndim == 3 else audio


def spectral_convergence(x: Float[Tensor, "b *c t"], y: Float[Tensor, "b *c t"]) -> Float[Tensor, " b"]:
    """||M(x) - M(y)|| / ||M(x)|| for the original x and its reconstruction y; 0 if x is silent.

    M is the magnitude of an STFT with n_fft 2048, hop 256 and window 1536.
    """
    spectra = (magnitudes(mono(each), 2048, 256, 1536, pad=True).contiguous() for each in (x, y))  # see `norm`
    return stft.spectral_convergence(*spectra)


def to_db(ratio: Tensor | float) -> Tensor:
    """20 log10 of an amplitude ratio; 0 becomes -200 dB. Average ratios before this conversion, as the paper's tables do."""
    return 20 * torch.as_tensor(ratio).clamp(min=1e-10).log10()


def band_energy_db(
    reference: Float[Tensor, "b *c t"],
    audio: Float[Tensor, "b *c t"],
    sample_rate: int,
    edges: Sequence[float] = (0, 500, 2000, 5000, 11025),
) -> Float[Tensor, "b bands"]:
    """Energy of `audio` relative to the energy of `reference`, in dB, in each band between two adjacent `edges` (Hz)."""
    power = [magnitudes(mono(a), 2048, 512, pad=True).square().sum(-1) for a in (reference, audio)]  # (b, f)
    hz = torch.linspace(0, sample_rate / 2, power[0].shape[-1])
    bands = [(hz >= low) & (hz < high + (high == edges[-1])) for low, high in itertools.pairwise(edges)]
    ref, out = (torch.stack([p[:, band.to(p.device)].sum(-1) for band in bands], -1).clamp(min=1e-8) for p in power)
    return 10 * (out / ref).log10()


# -------------------- statistics of audio


def window_length(sample_rate: int, seconds: float) -> int:
    """Power of two that is nearest to the number of samples in `seconds`: 2048 for .093 s at 22.05 kHz."""
    return 2 ** round(math.log2(sample_rate * seconds))


def log_mel(audio: Float[Tensor, " t"], sample_rate: int, bands: int, rate: int, seconds: float) -> Tensor:
    """Energy of mel bands (bands, n) in dB, `rate` frames per second.

    The bin of a full-scale sine has 0 dB. The floor is -80 dB.
    """
    n_fft = window_length(sample_rate, seconds)
    power = (magnitudes(audio, n_fft, round(sample_rate / rate), pad=True) * (4 / n_fft)).square()
    return 10 * (mel_filters(sample_rate, n_fft, bands) @ power).clamp(min=1e-8).log10()


def mel_distance(x: Float[Tensor, " t"], y: Float[Tensor, " t"], sample_rate: int) -> float:
    """Mean distance in dB of 64 log-mel bands of two sounds of equal length, at 100 frames per second.

    Levels below -60 dB are clipped.
    """
    a, b = (log_mel(wave, sample_rate, 64, 100, 0.046).clamp(min=-60) for wave in (x, y))
    return (a - b).abs().mean().item()


def multiscale_distance(x: Float[Tensor, " t"], y: Float[Tensor, " t"]) -> float:
    """Mean L1 distance in dB of the log magnitudes of two sounds of equal length, averaged over four STFTs.

    The windows have 2048, 1024, 512 and 256 samples. The hop is a quarter of the window. 0 dB is the bin of a full-scale sine,
    and levels below -60 dB are clipped. Long windows detect errors of partials, short windows detect errors of drum strokes
    (multi-scale spectral loss, Engel et al. 2020, DDSP).
    """
    total = 0.0
    for n_fft in (2048, 1024, 512, 256):
        sizes = (magnitudes(wave, n_fft, n_fft // 4, pad=True) * (4 / n_fft) for wave in (x, y))
        a, b = (20 * size.clamp(min=1e-3).log10() for size in sizes)
        total += (a - b).abs().mean().item() / 4
    return total


def spectral_flux(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> Float[Tensor, " n"]:
    """Spectral flux in dB, at `rate` frames per second: the rise of level within 30 ms, averaged over 40 mel bands."""
    mel = log_mel(audio, sample_rate, 40, rate, 0.046)
    lag = max(1, round(0.03 * rate))
    mel = mel.clamp(min=mel.max().item() - 60)  # changes of inaudible levels are not events
    return F.pad((mel[:, lag:] - mel[:, :-lag]).clamp(min=0).mean(0), (lag, 0))


def onset_rate(audio: Float[Tensor, " t"], sample_rate: int) -> float:
    """Onsets per second. An onset is a maximum of the flux within +-50 ms that is 1 dB above the mean flux within +-.25 s."""
    flux = spectral_flux(audio, sample_rate, rate=100)[None]
    largest = F.max_pool1d(flux, 11, stride=1, padding=5)
    around = F.avg_pool1d(flux, 51, stride=1, padding=25, count_include_pad=False)
    return ((flux == largest) & (flux > around + 1)).sum().item() / (len(audio) / sample_rate)


def peak_energy(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> tuple[Tensor, Tensor]:
    """Return the energy of the spectral lines and the whole energy of each frame, both between 60 and 5000 Hz.

    A spectral line is a bin 10 dB above the median of the bins within +-80 Hz.
    """
    n_fft = window_length(sample_rate, 0.186)  # long, to resolve partials of a 50 Hz bass
    power = magnitudes(audio, n_fft, round(sample_rate / rate), pad=True).square().T  # (n, f)
    bins = sample_rate / n_fft
    reach = round(80 / bins)
    first, last = round(60 / bins), round(5000 / bins)
    around = F.pad(power[:, : last + reach], (reach, 0), mode="reflect").unfold(1, 2 * reach + 1, 1)[:, first:last]
    power = power[:, first:last]
    return (power * (power > 10 * around.median(-1).values)).sum(1), power.sum(1)


def chroma(audio: Float[Tensor, " t"], sample_rate: int, rate: int) -> Float[Tensor, "12 n"]:
    """Energy of the twelve pitch classes (C first) between 100 and 2000 Hz. Each frame has the sum 1 (0 in silence)."""
    n_fft = window_length(sample_rate, 0.186)
    power = magnitudes(audio, n_fft, round(sample_rate / rate), pad=True).square()
    hz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    audible = (hz >= 100) & (hz <= 2000)
    pitch = (69 + 12 * (hz[audible] / 440).log2()).round().long() % 12
    classes = torch.zeros(12, power.shape[1]).index_add_(0, pitch, power[audible])
    return classes / classes.sum(0).clamp(min=1e-6)


class Seams(NamedTuple):
    """Spectral flux at window boundaries and elsewhere."""

    joins: float  # dB, at window boundaries
    inside: float  # dB, elsewhere
    ratio: float  # joins / inside; 1 means that boundaries are not detectable


def seams(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int, joins: Sequence[float]) -> Seams:
    """Compare the spectral flux of audio at its window boundaries `joins` (seconds) with the flux elsewhere.

    Both figures are means of the largest flux within +-12 ms. The flux compares each frame with the frame 6 ms earlier. Frames
    have 12 ms and a step of 1.5 ms. Such short frames detect clicks, phase jumps and cut notes. The longer frames of
    `spectral_flux` would smear them over the next window.
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
    for reach in range(-16, 17):  # "inside" excludes the frames at and around each boundary
        inside[(at + reach).clamp(0, len(flux) - 1)] = False
    a, b = largest[at].mean().item(), largest[inside].mean().item()
    return Seams(a, b, a / b if b > 0 else math.nan)


class Sound(NamedTuple):
    """Statistics of a piece of audio; `Sound._asdict()` can be written as json."""

    seconds: float
    loudness_db: float  # RMS, dBFS (a full-scale square wave is 0); -100 is silence
    peak: float  # largest absolute sample
    clipped: float  # share of samples at or beyond 0.999
    flatness: float  # geometric over arithmetic mean of the power spectrum, frames weighted by energy; white noise .56
    onsets: float  # per second
    peakiness: float  # share of the energy of 60..5000 Hz in spectral lines; noise of any colour below .1
    chroma_change: float  # 1 - cosine of the pitch classes half a second apart: 0 for a drone, .2 to .6 for changing notes


def sound_statistics(audio: Float[Tensor, "*c t"] | np.ndarray, sample_rate: int) -> Sound:
    """Compute the statistics of one piece (t,) or (c, t). Channels are averaged."""
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
    """Features of one piece. Each row describes a patch of .5 s, and patches begin every .25 s.

    Features do not depend on the sample rate if it is at least 22.05 kHz. Each row has 64 columns:

        24 + 24    mean and standard deviation of 24 log-mel bands of 40..11025 Hz, in dB
        1 + 1      mean and standard deviation of the spectral flux, in dB
        1 + 1      mean and standard deviation of the peakiness, in per cent
        12         shares of the pitch classes in per cent, largest first, so that the key does not matter

    The means of all tracks are before the standard deviations.
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
    """Squared Frechet distance |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^.5) of Gaussians fitted to two sets of features.

    Columns are normalised so that `reference` has mean 0 and deviation 1 (deviations are at least .5 dB or per cent). Both
    covariances are shrunk towards their diagonals by d / (d + min(n, m)), so that few patches can be compared. The distance
    still decreases with more songs. So compare it with the distance of a real song of the same length. Fewer than two patches
    raise ValueError. After Heusel 2017 (FID) and Kilgour 2019 (FAD), but with the features of `sound_features`.
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
    """Format rows as aligned plain text. The first row is the header. Numbers are right-aligned, floats have three decimals."""
    text = [[f"{c:.3f}" if isinstance(c, float) else "-" if c is None else str(c) for c in row] for row in rows]
    width = [max(len(row[i]) for row in text if i < len(row)) for i in range(max(map(len, text), default=0))]
    right = [any(i < len(row) and isinstance(row[i], int | float) for row in rows[1:]) for i in range(len(width))]
    text[1:1] = [["-" * w for w in width]]
    return "\n".join("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, width, right)).rstrip() for row in text)
