"""Probes of an NSynth autoencoder: what its latents contain about notes. Each figure has a control.

    N1    bits per sample given the latents of the note; control: the latents of another note
    N2    a morph of two notes of one pitch: rank correlation of centroid and alpha; share of pitches within 3 %
    N3    a note stretched twofold: share of pitches within 3 %; exact length
    N4    share of reconstructed notes with a pitch within 3 %; control: a spectral autoencoder with equally many numbers per
          second, decoded by Griffin-Lim

The receptive field of the decoder is shorter than two periods of most notes, because with a long one it predicts the samples
without the latents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from launch.probes.signals import RATE, SCALE, Audio, centroid, fundamental, notes, played, train_steps
from launch.probes.wavenet import of_samples
from priors.conditioning.conditions import Conditions
from priors.prior import Batch
from priors.wavenet.config import StackConfig, WaveNetConfig
from priors.wavenet.model import WaveNetPrior
from vqvae.mulaw.codec import companded
from vqvae.mulaw.config import BINS, MULAW, SILENCE
from vqvae.nsynth.codec import NSynthCodec
from vqvae.nsynth.config import EMBEDDING, NSynthConfig
from vqvae.spectral.config import LATENTS, SpectralConfig
from vqvae.spectral.model import SpectralCodec

Figures = dict[str, Any]
HOP, WIDTH, WINDOW = 128, 16, 1024  # 500 latent numbers per second, as with a hop of 512 samples at 16 kHz
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPECTRAL = SpectralConfig(
    RATE, n_fft=256, hop_fft=64, stride=4, floor=0.03, width=64, latent=WIDTH * 2, encoder_blocks=1, decoder_dilations=(1, 1),
    phases="griffin_lim", phase_frames=16,
)  # fmt: skip


class NoteAutoencoder(NamedTuple):
    """An encoder of latents, and the WaveNet that decodes them."""

    codec: NSynthCodec
    decoder: WaveNetPrior

    def reconstructed(self, latents: Float[Tensor, "b n d"], seed: int = 0) -> Audio:
        """Decode latents to audio of any length, beginning after silence."""
        length = latents.shape[1] * HOP
        longer = WaveNetPrior(replace(self.decoder.config, window=length)).eval()  # no weight depends on the length of a window
        longer.load_state_dict(self.decoder.state_dict())
        return played(longer, torch.zeros(len(latents), 0, dtype=torch.long), Conditions(above=latents), length, 0.5, seed)


def draw_notes(rng: torch.Generator, rows: int = 8) -> Float[Tensor, "b 1 t"]:
    """Sample notes of the scale with timbre 1 or 2, one per row."""
    drawn = np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng)))
    return torch.from_numpy(notes(drawn, drawn.integers(1, 3, rows), WINDOW)[0]).float()[:, None]


def trained(steps: int, seed: int) -> NoteAutoencoder:
    torch.manual_seed(seed)
    codec = NSynthCodec(NSynthConfig(RATE, HOP, WIDTH, width=32, cycle=6, repeats=1))
    config = WaveNetConfig(
        MULAW, BINS, 1, RATE, WINDOW, SILENCE, StackConfig(5, 1, 32, 32, 64), HOP, reads=EMBEDDING, read_width=WIDTH
    )
    decoder = of_samples(config, seed)

    def loss(rng: torch.Generator) -> Tensor:
        audio = draw_notes(rng)
        return decoder.loss(Batch({MULAW: companded(audio[:, 0])}, Conditions(above=codec.latents(audio))))["loss"]

    train_steps(nn.ModuleList([codec, decoder]), steps, 4e-3, loss, seed + 1)
    return NoteAutoencoder(codec.eval(), decoder.eval())


def spectral_baseline(steps: int, seed: int) -> SpectralCodec:
    """Train an autoencoder of log magnitudes with as many numbers per second. Griffin-Lim estimates its phases."""
    torch.manual_seed(seed)
    codec = SpectralCodec(SPECTRAL)
    codec.initialise(draw_notes(torch.Generator().manual_seed(seed), 64), torch.Generator())
    train_steps(codec, steps, 2e-3, lambda rng: codec.loss(draw_notes(rng), generator=rng, quantise=False)["loss"], seed + 1)
    return codec


@torch.no_grad()
def latent_figures(model: NoteAutoencoder, seed: int) -> Figures:
    """N1: bits per sample given the latents of the note, of another note, and zeros."""
    audio = draw_notes(torch.Generator().manual_seed(seed + 5), 64)
    codes, latents = {MULAW: companded(audio[:, 0])}, model.codec.latents(audio)
    given = {"own": latents, "other": latents.roll(1, 0), "none": torch.zeros_like(latents)}
    bits = {name: float(model.decoder.nll(codes, Conditions(above=z))[MULAW].mean()) for name, z in given.items()}
    return bits | {"ratio": bits["own"] / bits["other"]}


@torch.no_grad()
def morph_figures(model: NoteAutoencoder, seed: int) -> Figures:
    """N2: for each pitch of the scale, a morph from timbre 1 to timbre 2. The control has the alphas in another order."""
    rng, steps, right = np.random.default_rng(seed + 6), [], []
    for f0 in SCALE:
        pair = torch.from_numpy(notes(rng, np.array([1, 2]), WINDOW, (f0, f0))[0]).float()[:, None]
        first, second = model.codec.latents(pair)
        mixed = torch.stack([(1 - alpha) * first + alpha * second for alpha in ALPHAS])
        made = model.reconstructed(mixed, seed)
        steps.append([centroid(row[WINDOW // 4 :]) for row in made])
        right += [abs(fundamental(row[WINDOW // 4 :]) / f0 - 1) < 0.03 for row in made]
    other = np.random.default_rng(seed).permuted(np.tile(ALPHAS, (len(SCALE), 1)), axis=1)
    return {
        "centroid_correlation": float(np.mean([_rank_correlation(ALPHAS, each) for each in steps])),
        "other_order": float(np.mean([_rank_correlation(a, each) for a, each in zip(other, steps, strict=True)])),
        "pitch_kept": float(np.mean(right)),
    }  # fmt: skip


@torch.no_grad()
def stretch_figures(model: NoteAutoencoder, seed: int, rows: int = 10) -> Figures:
    """N3: notes from latents that are repeated twice. The control is the pitch of the same notes played at half speed."""
    audio, f0 = notes(np.random.default_rng(seed + 7), np.array([1, 2] * (rows // 2)), WINDOW)
    latents = model.codec.latents(torch.from_numpy(audio).float()[:, None])
    made = model.reconstructed(latents.repeat_interleave(2, dim=1), seed)
    pitch = np.array([fundamental(row[WINDOW // 4 :]) for row in made])
    kept, slow = (float((np.abs(pitch / expected - 1) < 0.03).mean()) for expected in (f0, f0 / 2))
    return {"pitch_kept": kept, "pitch_of_half_speed": slow, "length": made.shape[1] / WINDOW}


@torch.no_grad()
def pitch_figures(model: NoteAutoencoder, baseline: SpectralCodec, seed: int, rows: int = 20) -> Figures:
    """N4: share of reconstructed held-out notes with a pitch within 3 %. The chance level uses the pitch of other notes."""
    audio, f0 = notes(np.random.default_rng(seed + 9), np.array([1, 2] * (rows // 2)), WINDOW)
    clips = torch.from_numpy(audio).float()[:, None]
    spectral = baseline.decode(baseline.encode(clips, [LATENTS]), LATENTS)[:, 0].double().numpy()
    pitch = {
        name: np.array([fundamental(row[WINDOW // 4 :]) for row in made])
        for name, made in (("nsynth", model.reconstructed(model.codec.latents(clips), seed)), ("spectral", spectral))
    }
    found = {name: float((np.abs(each / f0 - 1) < 0.03).mean()) for name, each in pitch.items()}
    return found | {"of_other_notes": float((np.abs(pitch["nsynth"] / np.roll(f0, 2) - 1) < 0.03).mean())}


def _rank_correlation(a: Any, b: Any) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])
