"""Errors of a reconstruction of a synthetic song: attacks, vibrato, false partials, leakage.

A codec with a small spectral distance may still smear drum strokes and flatten the vibrato of the voice. The synthetic corpus
has the times of drum strokes and the sung pitches, so both errors can be measured separately. All figures describe the
reconstruction. The figures of the original are the upper bound (`reconstruction_figures(original, original, ...)`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data_prep.synthetic.annotation import SongAnnotation
from data_prep.synthetic.band import drum_strokes
from data_prep.synthetic.instruments import hertz
from data_prep.synthetic.voice import CONTROL, controls
from jukebox.evaluation.metrics import window_length

Audio = Float[np.ndarray, "*c t"] | Float[Tensor, "*c t"]
STROKE_BAND = (2600.0, 5500.0)  # Hz, band of snare and hat
FALSE_DEPTH = 45.0  # dB below the frame's largest value; lower peaks do not count as false partials
HARMONICS = 12  # harmonics of the voice
VIBRATO_FROM, VIBRATO_TO = 0.15, 0.06  # seconds after a syllable's start and before its end; vibrato in between


class HeldNote(NamedTuple):
    """The part of a sung syllable with vibrato and a constant pitch."""

    start: float  # seconds
    hz: float  # pitch without vibrato
    vibrato: Float[np.ndarray, " n"]  # ln(f0 / pitch) every 5 ms


class SyntheticTruth(NamedTuple):
    """Events of a synthetic song."""

    strokes: tuple[float, ...]  # seconds of snare and hat strokes; in the audio a stroke is up to 4 ms later
    notes: tuple[HeldNote, ...]


def synthetic_truth(annotation: SongAnnotation) -> SyntheticTruth:
    """Return the events of a synthetic song, from the annotation of `annotate_song`."""
    score, seconds = annotation.score, annotation.seconds
    strokes = [score.second(bar, beat) for bar in range(score.end)
               for beat, name, *_ in drum_strokes(score, bar) if name in ("snare", "hat")]  # fmt: skip
    notes = []
    for line in annotation.lines:
        start, syllables = line[0].start, [syllable for word in line for syllable in word.syllables]
        frames = int((line[-1].end - start) / CONTROL) + 3
        pitch, *_ = controls(syllables, {word.end for word in line}, start, frames, CONTROL, score.artist.throat)
        for syllable in syllables:
            a, b = (round((t - start) / CONTROL) for t in (syllable.start + VIBRATO_FROM, syllable.end - VIBRATO_TO))
            if b - a >= 20 and syllable.end < seconds - 0.5:
                hz = hertz(syllable.pitch)
                notes.append(HeldNote(start + a * CONTROL, hz, np.log(pitch[a:b] / hz)))
    return SyntheticTruth(tuple(sorted({t for t in strokes if t < seconds - 0.5})), tuple(notes))


# ---- envelopes and peaks


def mono_sound(audio: Audio) -> Float[Tensor, " t"]:
    """Audio (t,) unchanged, or audio (c, t) averaged over its channels, in float32."""
    x = torch.as_tensor(audio).float()
    return x.reshape(-1, x.shape[-1]).mean(0)


def band_envelope(audio: Audio, sample_rate: int, low: float, high: float, seconds: float = 0.004) -> Float[Tensor, " t"]:
    """Energy between `low` and `high` Hz at each sample: the squared analytic signal, smoothed by a Hann window."""
    x = mono_sound(audio)
    hz = torch.fft.fftfreq(len(x), 1 / sample_rate)
    power = torch.fft.ifft(torch.fft.fft(x) * (2.0 * ((hz > low) & (hz < high)))).abs().square()
    kernel = torch.hann_window((round(seconds * sample_rate) | 1) + 2, periodic=False)[1:-1]
    smooth = torch.fft.irfft(torch.fft.rfft(power) * torch.fft.rfft(kernel / kernel.sum(), len(x)), len(x))
    return smooth.roll(-(len(kernel) // 2)).clamp(min=0)


def rise_times(audio: Audio, sample_rate: int, strokes: Sequence[float]) -> list[float]:
    """Return the rise time (10 to 90 %) of each stroke in ms: the amplitude of STROKE_BAND rises from a minimum to a maximum.

    The maximum is within 30 ms before and 40 ms after `strokes` (seconds). The minimum is before the maximum. Strokes without a
    rise are skipped.
    """
    amplitude = band_envelope(audio, sample_rate, *STROKE_BAND).sqrt()
    before, after, found = round(0.03 * sample_rate), round(0.04 * sample_rate), []
    for second in strokes:
        at = round(second * sample_rate)
        piece = amplitude[max(0, at - before) : at + after]
        top = int(piece.argmax()) if len(piece) > before else 0
        if top == 0:
            continue
        rise = (piece[: top + 1] - piece[:top].min()) / (piece[top] - piece[:top].min()).clamp(min=1e-9)
        end = int((rise >= 0.9).nonzero()[0])
        low = (rise[:end] <= 0.1).nonzero()
        if len(low):
            found.append(1000 * (end - int(low[-1])) / sample_rate)
    return found


def spectral_peaks(
    x: Float[Tensor, " t"],
    sample_rate: int,
    rate: int,
    seconds: float,
    band: tuple[float, float],
    *,
    padding: int = 1,
    depth: float = 35.0,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Return the interpolated frequency (Hz) and the magnitude of each bin of `band` in each frame (`rate` per second).

    The magnitude is 0 if the bin is not a peak. A peak is 10 dB above the smallest value within a main lobe on each side, and
    within `depth` dB of the frame's largest value. Windows of `seconds` are padded with zeros to `padding` times their length.
    """
    window = window_length(sample_rate, seconds)
    x = F.pad(x, (0, max(0, window * padding - len(x))))
    hann = torch.hann_window(window)
    spectrum = torch.stft(x, window * padding, round(sample_rate / rate), window, hann, return_complex=True).abs().T
    width, reach = sample_rate / (window * padding), 2 * padding
    first, last = (round(hz / width) for hz in band)
    mid, left, right = (spectrum[:, first + step : last + step] for step in (0, -1, 1))
    least = -F.max_pool1d(-spectrum[:, None, first - reach : last + reach], reach + 1, 1)[:, 0]
    valley = torch.maximum(least[:, : last - first], least[:, reach : reach + last - first])
    is_peak = (
        (mid > left) & (mid >= right) & (mid > 10**0.5 * valley) & (mid > 10 ** (-depth / 20) * spectrum.amax(1, keepdim=True))
    )
    a, b, c = (value.clamp(min=1e-9).log() for value in (left, mid, right))
    offset = (0.5 * (a - c) / (a - 2 * b + c).clamp(max=-1e-9)).clamp(-0.5, 0.5)
    return (torch.arange(first, last) + offset) * width, mid * is_peak


# ---- a reconstruction and its original


def vibrato_gain(audio: Audio, sample_rate: int, notes: Sequence[HeldNote]) -> float:
    """Share of the sung vibrato that the audio preserves in phase: 1 is all, 0 is a steady pitch. Originals have about .98.

    The harmonics of each note are demodulated by a gain times the true vibrato. At the right gain the demodulated samples add
    up coherently. The result is the gain (-.5 to 1.5 in steps of .025) with the largest sum over all notes; nan without notes.
    """
    x, gains = mono_sound(audio), torch.linspace(-0.5, 1.5, 81).double()
    total = torch.zeros(81).double()
    for note in notes:
        if (z := _harmonics(x, sample_rate, note)) is None:
            continue
        bent = torch.expm1(gains[:, None] * torch.from_numpy(note.vibrato))  # relative deviation (81, n)
        phase = 2 * math.pi * note.hz * CONTROL * bent.cumsum(1)
        turn = torch.polar(torch.ones(()).double(), -phase[:, None] * torch.arange(1, HARMONICS + 1)[:, None])  # (81, H, n)
        z = z * torch.hann_window(z.shape[1] + 2, periodic=False)[1:-1]
        total += (turn * z).sum(-1).abs().square().sum(1) / z.abs().square().sum().clamp(min=1e-12)
    return gains[total.argmax()].item() if total.any() else math.nan


def _harmonics(x: Float[Tensor, " t"], sample_rate: int, note: HeldNote, window: float = 0.01) -> Tensor | None:
    """Return the harmonics of a note, each shifted to 0 Hz, every 5 ms: complex (H, n). None if the audio is too short."""
    size, count = round(window * sample_rate), len(note.vibrato)
    at = [round((note.start + i * CONTROL) * sample_rate) - size // 2 for i in range(count)]
    if at[0] < 0 or at[-1] + size > len(x):
        return None
    frames = torch.stack([x[a : a + size] for a in at]).double() * torch.hann_window(size)  # (n, size)
    time = (torch.tensor(at)[:, None] + torch.arange(size)).double() / sample_rate
    phase = 2 * math.pi * note.hz * time * torch.arange(1, HARMONICS + 1)[:, None, None]  # (H, n, size)
    return (frames * torch.polar(torch.ones(()).double(), -phase)).sum(-1)


def false_partials(original: Audio, made: Audio, sample_rate: int) -> float:
    """Mean number of false partials per frame: spectral peaks where the original is 10 dB lower within +-1 bin.

    Frames have 93 ms, peaks are between 100 and 5000 Hz.
    """
    band = (100.0, 5000.0)
    _, peaks = spectral_peaks(mono_sound(made), sample_rate, 20, 0.093, band, depth=FALSE_DEPTH)
    true = _spectrum(original, sample_rate, band)
    there = F.max_pool1d(true[:, None], 3, 1, 1)[:, 0]
    return ((peaks > 0) & (peaks > 10**0.5 * there)).sum(1).float().mean().item()


def leakage(original: Audio, made: Audio, sample_rate: int) -> float:
    """Mean gain in dB of the bins of 3-5 kHz at which the original is more than 40 dB below the frame's largest magnitude.

    The gain is the level of the reconstruction relative to the original. It is nan if there are no such bins.
    """
    first, last = 3000.0, 5000.0
    top = _spectrum(original, sample_rate, (0.0, sample_rate / 2)).amax(1, keepdim=True)
    smooth = [F.avg_pool2d(_spectrum(a, sample_rate, (first, last)).square()[None], 3, 1, 1)[0] for a in (original, made)]
    quiet = smooth[0] < 1e-4 * top.square()
    if not quiet.any():
        return math.nan
    a, b = (10 * power[quiet].clamp(min=1e-8).log10() for power in smooth)
    return (b - a).mean().item()


def _spectrum(audio: Audio, sample_rate: int, band: tuple[float, float]) -> Float[Tensor, "n k"]:
    """Magnitudes (frames, bins of `band`) of the frames of `false_partials`."""
    x, window = mono_sound(audio), window_length(sample_rate, 0.093)
    x = F.pad(x, (0, max(0, window - len(x))))
    spectrum = torch.stft(x, window, round(sample_rate / 20), window, torch.hann_window(window), return_complex=True).abs().T
    first, last = (round(hz * window / sample_rate) for hz in band)
    return spectrum[:, first:last]


def reconstruction_figures(
    original: Audio, made: Audio, sample_rate: int, truth: SyntheticTruth | None = None
) -> dict[str, float]:
    """Return false partials per frame and leakage in dB. With `truth`, also return vibrato gain and median rise time in ms."""
    found = {"false": false_partials(original, made, sample_rate), "leak_db": leakage(original, made, sample_rate)}
    if truth is None:
        return found
    rise = rise_times(made, sample_rate, truth.strokes)
    vibrato = vibrato_gain(made, sample_rate, truth.notes)
    return found | {"vibrato": vibrato, "rise_ms": float(np.median(rise)) if rise else math.nan}
