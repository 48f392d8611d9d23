"""Probes of what a WaveNet learns from signals of known structure. Each figure has a control.

period    W4: bits of repeated random codes, with a receptive field longer than the period and with a shorter one; both WaveNets
          have equally many parameters
notes     W5: bits compared with the entropy of the codes and with a false label; pitch of continuations; timbre of notes that
          are sampled from a label
thread    share of continuations of a motif with the true pitch, by time after the prompt: a WaveNet without conditions keeps
          only what is within its receptive field; later notes are not those of the piece
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launch.probes.signals import RATE, SCALE, fundamental, harmonics, motifs, notes, played, repeated, train_steps
from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig
from priors.prior import Batch
from priors.wavenet.config import StackConfig, WaveNetConfig
from priors.wavenet.model import WaveNetPrior
from vqvae.mulaw.codec import MuLawCodec, companded
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig

Figures = dict[str, Any]
BEYOND, BELOW = (
    StackConfig(8, 1, 32, 32, 32),
    StackConfig(4, 2, 32, 32, 32),
)  # receptive fields of 256 and 31 samples, with equally many parameters
NOTE, FRAME, FRAMES = 800, 200, 12  # samples per note of a motif; samples per compared frame; frames after the prompt


def of_samples(config: WaveNetConfig, seed: int) -> WaveNetPrior:
    """Return an untrained WaveNet of mu-law samples, with weights initialised from the seed."""
    torch.manual_seed(seed)
    prior = WaveNetPrior(config)
    prior.initialise_embeddings({MULAW: MuLawCodec(MuLawConfig(RATE)).embeddings(MULAW)})
    return prior


def period_figures(
    period: int, symbols: int, steps: int, seed: int, stacks: Sequence[StackConfig] = (BEYOND, BELOW)
) -> Figures:
    """Return the bits per code after the first 256 codes, for a receptive field longer than the period and a shorter one."""
    found = []
    for stack in stacks:
        torch.manual_seed(seed)
        prior = WaveNetPrior(WaveNetConfig(MULAW, symbols, 1, RATE, 768, symbols // 2, stack, frame=768))

        def loss(rng: torch.Generator, prior: WaveNetPrior = prior) -> Tensor:
            return prior.loss(Batch({MULAW: repeated(rng, period, symbols)}, Conditions()))["loss"]

        train_steps(prior, steps, 4e-3, loss, seed + 1)
        codes = repeated(torch.Generator().manual_seed(seed + 2), period, symbols, 16)
        found.append(float(prior.nll({MULAW: codes}, Conditions())[MULAW][:, 256:].mean()))
    return {"beyond": found[0], "below": found[1], "blind": float(np.log2(symbols)), "ratio": found[0] / found[1]}


def musician(steps: int, seed: int) -> WaveNetPrior:
    """Train a WaveNet of notes that is conditioned on the label of their timbre."""
    stack, labels = StackConfig(6, 2, 32, 32, 64), LabelConfig(3, 2, sample_rate=RATE)
    prior = of_samples(WaveNetConfig(MULAW, BINS, 1, RATE, 2560, SILENCE, stack, 512, labels=labels), seed)

    def loss(rng: torch.Generator) -> Tensor:
        drawn = np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng)))
        timbres = drawn.integers(1, 3, 8)
        codes = companded(torch.from_numpy(notes(drawn, timbres, 512)[0]))
        return prior.loss(Batch({MULAW: codes}, Conditions(artist=torch.from_numpy(timbres))))["loss"]

    train_steps(prior, steps, 6e-3, loss, seed + 1)
    return prior


def note_figures(prior: WaveNetPrior, seed: int) -> Figures:
    """Return bits, pitch and timbre. The controls are the unigram entropy, the other label, and the pitches of other notes."""
    rng = np.random.default_rng(seed + 5)
    timbres = rng.integers(1, 3, 64)
    codes = companded(torch.from_numpy(notes(rng, timbres, 512)[0]))
    share = torch.bincount(codes.flatten(), minlength=BINS).double() / codes.numel()
    bits = {
        name: float(prior.nll({MULAW: codes}, Conditions(artist=torch.from_numpy(label)))[MULAW].mean())
        for name, label in (("own", timbres), ("false_label", 3 - timbres))
    }
    bits |= {"entropy": float(torch.special.entr(share).sum() / np.log(2))}
    labels = np.array([1, 2] * 5)
    prompt, f0 = notes(np.random.default_rng(seed + 8), labels, 400)
    made = played(
        prior, companded(torch.from_numpy(prompt)), Conditions(artist=torch.from_numpy(labels)), 400 + RATE // 2, seed=seed
    )
    pitch = np.array([fundamental(row) for row in made])
    kept, other = (float((np.abs(pitch / expected - 1) < 0.03).mean()) for expected in (f0, np.roll(f0, 2)))
    labels = np.array([1, 2] * 10)
    alone = played(
        prior, torch.zeros(20, 0, dtype=torch.long), Conditions(artist=torch.from_numpy(labels)), RATE // 2, seed=seed
    )
    timbre = np.array([1 + (harmonics(row[400:]) > 0.1) for row in alone])
    return {
        "bits": bits | {"ratio": bits["own"] / bits["entropy"]}, "pitch": {"kept": kept, "of_other_notes": other},
        "timbre_from_label": float((timbre == labels).mean()),
    }  # fmt: skip


def thread_figures(steps: int, seed: int, rows: int = 16) -> Figures:
    """Return the share of rows with the true pitch by frame of 50 ms after the prompt. The control is another piece."""
    stack, prompt = StackConfig(6, 2, 32, 32, 64), 2 * NOTE
    length = prompt + FRAMES * FRAME
    prior = of_samples(WaveNetConfig(MULAW, BINS, 1, RATE, length, SILENCE, stack, length), seed)

    def loss(rng: torch.Generator) -> Tensor:
        drawn = np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng)))
        codes = companded(torch.from_numpy(motifs(drawn, 4, 1024, NOTE)[0]))
        return prior.loss(Batch({MULAW: codes}, Conditions()))["loss"]

    train_steps(prior, steps, 6e-3, loss, seed + 1)
    audio, f0 = motifs(np.random.default_rng(seed + 8), rows, length, NOTE)
    made = played(prior, companded(torch.from_numpy(audio[:, :prompt])), Conditions(), length, seed=seed)
    true, pitches = f0[:, prompt:], {"made": made, "true": audio[:, prompt:]}
    agreement = {name: agreement_by_frame(wave, true) for name, wave in pitches.items()}
    agreement["of_another_piece"] = agreement_by_frame(audio[:, prompt:], np.roll(true, 1, axis=0))
    inside = {name: float(np.mean(values[:1])) for name, values in agreement.items()}
    beyond = {name: float(np.mean(values[NOTE // FRAME :])) for name, values in agreement.items()}
    return {"seconds": FRAME / RATE, "receptive_field": stack.receptive_field / RATE, "agreement": agreement,
            "first_frame": inside, "after_a_note": beyond}  # fmt: skip


def agreement_by_frame(audio: np.ndarray, true: np.ndarray) -> list[float]:
    """Return the share of rows with the true pitch, by frame. The pitch is rounded to the scale."""
    scale, shares = np.array(SCALE), []
    for at in range(0, audio.shape[1] - FRAME + 1, FRAME):
        pitch = np.array([fundamental(row[at : at + FRAME]) for row in audio])
        nearest = scale[np.abs(np.log(pitch[:, None] / scale)).argmin(1)]
        shares.append(float((nearest == true[:, at + FRAME // 2]).mean()))
    return shares
