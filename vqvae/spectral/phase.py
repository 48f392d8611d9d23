"""Phases for magnitudes: propagated from frame to frame by their derivatives, or made consistent by Griffin-Lim (1984).

The phase of a sinusoid turns by the same angle in all bins round it from a frame to the next, and a stroke tilts the phase across
the bins of a frame. From exact derivatives by time and by frequency the phases themselves follow, up to one constant (Prusa et al.
2017, phase gradient heap integration). Here each bin's phase is the mean, weighted by magnitudes, of what the frame before and both
neighbours propose. Where no derivatives are learned, SPSI (Beauregard et al. 2015) takes them from the peaks of each frame.
Frames are processed in order, and the last one is the state: a song in pieces has the phases that it has as a whole.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from vqvae.spectral.stft import analyse, synthesise

ROUNDS = 4  # in which the bins of a frame agree


def unit(z: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
    return z / z.abs().clamp(min=1e-9)


class Propagation:
    """Phasors of one sound, frame by frame, from magnitudes and derivatives of the phase."""

    def __init__(self, n_fft: int, hop: int) -> None:
        self.n_fft, self.hop = n_fft, hop
        self.before: tuple[Tensor, Tensor] | None = None  # phasors and magnitudes of the last frame

    def __call__(self, magnitudes: Float[Tensor, "n f"], slopes: Float[Tensor, "n 2 2 f"]) -> Complex[Tensor, "n f"]:
        """The phasors of the next frames; `slopes` as `vqvae.spectral.losses.phase_slopes` has them."""
        k = torch.arange(magnitudes.shape[-1], device=magnitudes.device)
        usual = torch.polar(torch.ones_like(magnitudes[0]), 2 * math.pi * self.hop / self.n_fft * k)
        turns = torch.complex(slopes[:, 0, 0], slopes[:, 0, 1]) * usual
        tilts = -torch.complex(slopes[:, 1, 0], slopes[:, 1, 1])
        made = []
        for m, turn, tilt in zip(magnitudes, turns, tilts, strict=True):
            if self.before is None:
                along = m * unit(torch.polar(torch.ones_like(m), F.pad(tilt[:-1].angle(), (1, 0)).cumsum(-1)))
            else:
                along = self.before[0] * turn * (self.before[1] * m).sqrt()
            phasors = self._agree(along, m, tilt)
            self.before = phasors, m
            made.append(phasors)
        return torch.stack(made)

    @staticmethod
    def _agree(along: Complex[Tensor, " f"], m: Float[Tensor, " f"], tilt: Complex[Tensor, " f"]) -> Complex[Tensor, " f"]:
        z, down = along, tilt.conj()
        for _ in range(ROUNDS):
            u = unit(z) * m
            z = along.clone()
            z[1:] += (u * tilt)[:-1]
            z[:-1] += u[1:] * down[:-1]
        return unit(z)


def peak_slopes(magnitudes: Float[Tensor, "n f"], n_fft: int, hop: int) -> Float[Tensor, "n 2 2 f"]:
    """Derivatives of the phase from the peaks of each frame: a peak turns by its interpolated frequency, its neighbours with it."""
    m = magnitudes
    left, right = F.pad(m[..., :-1], (1, 0)), F.pad(m[..., 1:], (0, 1))
    peak = (m > left) & (m >= right)
    place = torch.arange(m.shape[-1], device=m.device)
    offset = (0.5 * (left - right) / (left - 2 * m + right).clamp(max=-1e-9)).clamp(-0.5, 0.5)
    below = torch.where(peak, place, -len(place)).cummax(-1).values
    above = torch.where(peak, place, 2 * len(place)).flip(-1).cummin(-1).values.flip(-1)
    owner = torch.where(place - below <= above - place, below, above).clamp(0, len(place) - 1)
    turn = 2 * math.pi * hop / n_fft * (owner + offset.gather(-1, owner) - place)
    none = torch.zeros_like(turn)
    return torch.stack([torch.stack([turn.cos(), turn.sin()], 1), torch.stack([none + 1, none], 1)], dim=1)


def griffin_lim(
    magnitudes: Float[Tensor, "*b n f"], phasors: Complex[Tensor, "*b n f"], n_fft: int, hop: int, rounds: int,
    momentum: float = 0.99,
) -> Complex[Tensor, "*b n f"]:  # fmt: skip
    """Phasors made consistent in `rounds` (fast Griffin-Lim, Perraudin et al. 2013)."""
    before, now = None, phasors
    for _ in range(rounds):
        new = analyse(synthesise(magnitudes * now, n_fft, hop), n_fft, hop)
        now = unit(new if before is None else new + momentum * (new - before))
        before = new
    return now
