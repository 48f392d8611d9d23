"""Signals of known structure at 4 kHz, for small WaveNets: repeated codes, notes, and motifs of two notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.noise import Generators
from priors.prior import Known, Window, sample_window
from priors.wavenet.config import WaveNetParams
from priors.wavenet.model import WaveNetPrior
from vqvae.mulaw.codec import expanded
from vqvae.mulaw.config import MULAW

RATE = 4000
SCALE = (150.0, 178.0, 212.0, 252.0, 300.0)  # Hz
N_FFT = 1 << 16
PARTIALS = ((1.0,), (1.0, 0.0, 0.6, 0.0, 0.4))  # amplitudes of the partials of timbre 1 and of timbre 2
Audio = Float[np.ndarray, "b t"]


def train_steps(model: nn.Module, steps: int, lr: float, loss: Callable[[torch.Generator], Tensor], seed: int = 1) -> None:
    """Train a model by Adam. The learning rate decreases to 0 over the second half of the steps.

    `loss` is called with a generator, and samples its batch from it.
    """
    rng, optimiser = torch.Generator().manual_seed(seed), torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optimiser.zero_grad()
        loss(rng).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


def repeated(rng: torch.Generator, period: int, symbols: int, rows: int = 4, length: int = 768) -> Int[Tensor, "b t"]:
    """Sample random codes that repeat with a period. Each row has another pattern, and 5 % of the codes are replaced."""
    codes = torch.randint(symbols, (rows, period), generator=rng).repeat(1, -(-length // period))[:, :length]
    replaced = torch.rand(codes.shape, generator=rng) < 0.05
    return torch.where(replaced, torch.randint(symbols, codes.shape, generator=rng), codes)


def tones(phase: Audio, timbres: Int[np.ndarray, " b"]) -> Audio:
    """Return waves with these phases (in radians). Each row has the partials of its timbre (1 or 2)."""
    shapes = np.stack([sum(a * np.sin((i + 1) * phase) for i, a in enumerate(partials)) for partials in PARTIALS])
    return 0.35 * shapes[timbres - 1, np.arange(len(timbres))]


def notes(
    rng: np.random.Generator, timbres: Int[np.ndarray, " b"], samples: int, pitch: Sequence[float] = ()
) -> tuple[Audio, Audio]:
    """Return one note per row with a little noise, and its fundamental (Hz): `pitch`, or sampled from the scale."""
    f0 = np.array(pitch) if len(pitch) else rng.choice(SCALE, len(timbres))
    phase = 2 * np.pi * (f0[:, None] * np.arange(samples) / RATE + rng.random((len(timbres), 1)))
    return tones(phase, timbres) + 0.002 * rng.standard_normal((len(timbres), samples)), f0


def motifs(rng: np.random.Generator, rows: int, samples: int, note: int) -> tuple[Audio, Audio]:
    """Return motifs of two alternating pitches, and the fundamental of each sample in Hz.

    Each note has `note` samples. Each row has a different pair of pitches.
    """
    pairs = np.stack([rng.choice(SCALE, 2, replace=False) for _ in range(rows)])
    turn = (np.arange(samples) + rng.integers(2 * note, size=(rows, 1))) // note % 2
    f0 = np.take_along_axis(pairs, turn, 1)
    phase = 2 * np.pi * (np.cumsum(f0, axis=1) / RATE + rng.random((rows, 1)))
    return tones(phase, np.ones(rows, np.int64)) + 0.002 * rng.standard_normal((rows, samples)), f0


def power(audio: Float[np.ndarray, " t"]) -> Float[np.ndarray, " f"]:
    return np.abs(np.fft.rfft(audio * np.hanning(len(audio)), N_FFT)) ** 2


def fundamental(audio: Float[np.ndarray, " t"]) -> float:
    """Return the frequency of the largest peak of the spectrum above 24 Hz. It is the fundamental for both timbres."""
    return float(np.argmax(power(audio)[400:]) + 400) * RATE / N_FFT


def harmonics(audio: Float[np.ndarray, " t"]) -> float:
    """Return the share of the energy above 1.8 times the fundamental."""
    spectrum = power(audio)
    return float(spectrum[round(1.8 * fundamental(audio) * N_FFT / RATE) :].sum() / spectrum.sum())


def centroid(audio: Float[np.ndarray, " t"]) -> float:
    """Return the mean frequency of the spectrum in Hz."""
    spectrum = power(audio)
    return float((spectrum * np.arange(len(spectrum))).sum() / spectrum.sum()) * RATE / N_FFT


def played(
    prior: WaveNetPrior, prompt: Int[Tensor, "b t"], cond: Conditions, length: int, temperature: float = 0.7, seed: int = 0
) -> Audio:
    """Sample a continuation of a prompt by a WaveNet, until both together have `length` samples. Return it as audio."""
    prior.compiled = True
    noise = Generators([torch.Generator().manual_seed(seed + i) for i in range(len(prompt))])
    known, params = Known.prefix(MULAW, prompt, length), {MULAW: WaveNetParams(temperature=temperature)}
    codes = sample_window(prior, Window(0, length, length), known, cond, noise, params)[MULAW]
    return expanded(codes[:, prompt.shape[1] :]).double().numpy()
