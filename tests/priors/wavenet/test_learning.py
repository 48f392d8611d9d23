"""What a WaveNet learns, beside controls: a receptive field that reaches a repetition or does not; notes, their pitch and their label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig
from priors.noise import Generators
from priors.prior import Batch, Known, Window, sample_window
from priors.wavenet.config import StackConfig, WaveNetConfig, WaveNetParams
from priors.wavenet.model import WaveNetPrior
from vqvae.mulaw.codec import MuLawCodec, companded, expanded
from vqvae.mulaw.config import BINS, SILENCE, MuLawConfig

RATE = 4000
SCALE = (150.0, 178.0, 212.0, 252.0, 300.0)  # Hz


def train(prior: WaveNetPrior, steps: int, lr: float, draw: Callable[[torch.Generator], Batch]) -> None:
    rng, optimiser = torch.Generator().manual_seed(1), torch.optim.Adam(prior.parameters(), lr=lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optimiser.zero_grad()
        prior.loss(draw(rng))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
    prior.eval()


# -------------------- W4


PERIOD, SYMBOLS = 193, 16


def repeated(rng: torch.Generator, rows: int = 4) -> Batch:
    """Random codes repeated with a period, another pattern in every row, 5 % of them replaced."""
    codes = torch.randint(SYMBOLS, (rows, PERIOD), generator=rng).repeat(1, 4)[:, :768]
    replaced = torch.rand(codes.shape, generator=rng) < 0.05
    return Batch({"mulaw": torch.where(replaced, torch.randint(SYMBOLS, codes.shape, generator=rng), codes)}, Conditions())


@pytest.mark.long
def test_a_receptive_field_beyond_the_period_takes_less_than_0_3_of_the_bits_of_one_below_with_as_many_parameters():
    found, sizes = [], []
    for stack in (StackConfig(8, 1, 32, 32, 32), StackConfig(4, 2, 32, 32, 32)):
        torch.manual_seed(0)
        prior = WaveNetPrior(WaveNetConfig("mulaw", SYMBOLS, 1, RATE, 768, 8, stack, frame=768))
        train(prior, 200, 4e-3, repeated)
        batch = repeated(torch.Generator().manual_seed(2), 16)
        found.append(float(prior.nll(batch.sequences, batch.cond)["mulaw"][:, 256:].mean()))
        sizes.append((stack.receptive_field > PERIOD, prior.config.parameters().all))
    assert [reaches for reaches, _ in sizes] == [True, False] and sizes[0][1] == sizes[1][1]
    assert found[0] <= 0.3 * found[1] and found[1] > 3.9, found  # blind: log2(16) = 4 bits


# -------------------- W5


def notes(rng: np.random.Generator, labels: np.ndarray, samples: int) -> tuple[Tensor, np.ndarray]:
    """A note of the scale per row and its fundamental: a sine of label 1, odd harmonics of label 2."""
    t, f0 = np.arange(samples) / RATE, rng.choice(SCALE, len(labels))
    phase = 2 * np.pi * (f0[:, None] * t + rng.random((len(labels), 1)))
    shapes = np.stack([np.sin(phase), np.sin(phase) + 0.6 * np.sin(3 * phase) + 0.4 * np.sin(5 * phase)])
    audio = 0.35 * shapes[labels - 1, np.arange(len(labels))] + 0.002 * rng.standard_normal((len(labels), samples))
    return companded(torch.from_numpy(audio)), f0


def draw_notes(rng: torch.Generator, rows: int = 8) -> Batch:
    seed = np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng)))
    labels = seed.integers(1, 3, rows)
    return Batch({"mulaw": notes(seed, labels, 512)[0]}, Conditions(artist=torch.from_numpy(labels)))


def fundamental(audio: np.ndarray) -> float:
    """Hz of the largest peak of the spectrum, which of both timbres is the fundamental."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
    return float(np.argmax(spectrum[400:]) + 400) * RATE / (1 << 16)


def harmonics(audio: np.ndarray) -> float:
    """The share of the energy beyond 1.8 times the fundamental."""
    power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16)) ** 2
    return float(power[round(1.8 * fundamental(audio) * (1 << 16) / RATE) :].sum() / power.sum())


@pytest.fixture(scope="module")
def musician() -> WaveNetPrior:
    torch.manual_seed(0)
    config = WaveNetConfig(
        "mulaw", BINS, 1, RATE, 2560, SILENCE, StackConfig(6, 2, 32, 32, 64), 512, labels=LabelConfig(3, 2, sample_rate=RATE)
    )
    prior = WaveNetPrior(config)
    prior.initialise_embeddings({"mulaw": MuLawCodec(MuLawConfig(RATE)).embeddings("mulaw")})
    train(prior, 200, 6e-3, draw_notes)
    return prior


def played(prior: WaveNetPrior, prompt: Tensor, labels: Tensor, length: int) -> np.ndarray:
    prior.compiled = True
    noise = Generators([torch.Generator().manual_seed(i) for i in range(len(labels))])
    known, cond = Known.prefix("mulaw", prompt, length), Conditions(artist=labels)
    codes = sample_window(prior, Window(0, length, length), known, cond, noise, {"mulaw": WaveNetParams(temperature=0.7)})[
        "mulaw"
    ]
    return expanded(codes[:, prompt.shape[1] :]).double().numpy()


@pytest.mark.long
def test_bits_of_notes_are_below_0_6_of_the_entropy_of_their_codes_and_rise_with_a_false_label(musician):
    batch = draw_notes(torch.Generator().manual_seed(5), 64)
    counts = torch.bincount(batch.sequences["mulaw"].flatten(), minlength=BINS).double()
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * shares.log2()).sum())
    own = float(musician.nll(batch.sequences, batch.cond)["mulaw"].mean())
    other = float(musician.nll(batch.sequences, Conditions(artist=3 - batch.cond.artist))["mulaw"].mean())
    assert own <= 0.6 * entropy and own < other, (own, other, entropy)


@pytest.mark.long
def test_a_continuation_of_half_a_second_keeps_the_pitch_of_8_notes_of_10_and_not_that_of_other_notes(musician):
    labels = np.array([1, 2] * 5)
    prompt, f0 = notes(np.random.default_rng(8), labels, 400)
    audio = played(musician, prompt, torch.from_numpy(labels), 400 + RATE // 2)
    found = np.array([fundamental(row) for row in audio])
    kept, control = (np.abs(found / expected - 1) < 0.03 for expected in (f0, np.roll(f0, 2)))
    assert kept.sum() >= 8 and control.sum() < 5, (found, f0)


@pytest.mark.long
def test_notes_sampled_from_a_label_alone_have_its_timbre(musician):
    labels = torch.tensor([1, 2] * 10)
    audio = played(musician, torch.zeros(20, 0, dtype=torch.long), labels, RATE // 2)
    found = np.array([1 + (harmonics(row[400:]) > 0.1) for row in audio])
    assert (found == labels.numpy()).mean() >= 0.9, found
