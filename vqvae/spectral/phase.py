"""Phases for magnitudes: propagation from frame to frame by derivatives of the phase, and Griffin-Lim (1984).

From one frame to the next, the phase of a sinusoid turns by the same angle in all bins near its frequency. A drum stroke tilts
the phase across the bins of a frame. Exact derivatives by time and by frequency determine the phases up to one constant (Prusa
et al. 2017, phase gradient heap integration). Here the phase of each bin is a mean of three proposals, weighted by magnitudes.
The proposals come from the previous frame and from both neighbouring bins. If the derivatives are uncertain, as in noise, a
random proposal is added. Without learned derivatives, SPSI (Beauregard et al. 2015) estimates derivatives from the peaks of
each frame. Frames are processed in order, and the last frame is the state. So streaming and whole-song processing have equal
phases.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from vqvae.compiled import library
from vqvae.spectral.stft import analyse, synthesise

SOURCE = Path(__file__).with_name("propagate.cpp")
ROUNDS = 4  # iterations per frame in which neighbouring bins exchange proposals


def unit(z: Complex[Tensor, "..."]) -> Complex[Tensor, "..."]:
    return z / z.abs().clamp(min=1e-9)


class Propagation:
    """Computes the phasors of one channel from magnitudes and derivatives of the phase, frame by frame.

    All values that do not depend on the previous frame are computed for all frames in parallel. The phasors in the recursion
    are relative to `spin`, the accumulated phasors of the tilts of a frame. So a bin proposes its phasor to its neighbours
    without rotation. The recursion is C++ if this machine has a compiler, else NumPy, which is faster than torch at this size.
    """

    def __init__(self, n_fft: int, hop: int, chance: float = 0.0) -> None:
        self.n_fft, self.hop, self.chance = n_fft, hop, chance
        self.before: _Frame | None = None  # the previous frame
        self.rng = np.random.default_rng(0)
        self.recursion = recursion()

    def __call__(self, magnitudes: Float[Tensor, "n f"], slopes: Float[Tensor, "n 2 2 f"]) -> Complex[Tensor, "n f"]:
        """Return the phasors of the next frames. `slopes` has the layout of `vqvae.spectral.losses.phase_slopes`."""
        m, s = (x.detach().cpu().float().numpy() for x in (magnitudes, slopes))
        doubt = self._doubt(s[:, 0], m)
        sure, spin = _tilts(-_complex(s[:, 1, 0], s[:, 1, 1]))
        turn = self._turns(_complex(s[:, 0, 0], s[:, 0, 1]), m, spin)
        below, above = np.zeros_like(m), np.zeros_like(m)  # weights of the proposals of the two neighbours of a bin
        below[:, 1:], above[:, :-1] = (sure * m)[:, :-1], sure[:, :-1] * m[:, 1:]
        if self.before is None:
            now = np.zeros((2, m.shape[1]), np.float32)
            doubt[:1, 0] = m[:1]  # relative to the spin, the phases of the first frame are 0
        else:
            now = self.before.phasors
        made = self.recursion(turn, doubt, below, above, now)
        self.before = _Frame(made[-1].copy(), m[-1].copy(), spin[-1].copy())  # copies, so that the large arrays are freed
        return torch.from_numpy(_complex(made[:, 0], made[:, 1]) * spin).to(magnitudes.device)

    def _doubt(self, turn: Float[np.ndarray, "n 2 f"], m: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n 2 f"]:
        """Random proposal for each bin, weighted by the uncertainty of the derivative by time.

        Noise has random phases. Coherent phases would cancel noise.
        """
        angles = np.float32(2 * np.pi) * self.rng.random(m.shape, np.float32)
        size = self.chance * np.clip(1 - np.sqrt((turn * turn).sum(1)), 0, None) * m
        return (size[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.float32)

    def _turns(
        self, turns: Complex[np.ndarray, "n f"], m: Float[np.ndarray, "n f"], spin: Complex[np.ndarray, "n f"]
    ) -> np.ndarray:
        """Factors that convert phasors of the previous frame to proposals. Each phasor is relative to the spin of its frame."""
        first = self.before or _Frame(m[0], m[0], spin[0])
        sizes, spins = (np.concatenate([x[None], y[:-1]]) for x, y in ((first.magnitudes, m), (first.spin, spin)))
        angles = 2 * np.pi * self.hop / self.n_fft * np.arange(m.shape[1])
        usual = _complex(np.cos(angles), np.sin(angles))
        return turns * usual * spins * spin.conj() * np.sqrt(sizes * m)


class _Frame(NamedTuple):
    phasors: Float[np.ndarray, "2 f"]  # relative to `spin`
    magnitudes: Float[np.ndarray, " f"]
    spin: Complex[np.ndarray, " f"]


def _complex(real: np.ndarray, imaginary: np.ndarray) -> Complex[np.ndarray, "*n"]:
    z = np.empty(real.shape, np.complex64)
    z.real, z.imag = real, imaginary
    return z


def _tilts(tilt: Complex[np.ndarray, "n f"]) -> tuple[Float[np.ndarray, "n f"], Complex[np.ndarray, "n f"]]:
    """Return the lengths of the tilts, and for each bin the product of the directions of the tilts of all lower bins."""
    sure = np.abs(tilt)
    direction = np.divide(tilt, sure, out=np.ones_like(tilt), where=sure > 0)
    spin = np.ones(tilt.shape, np.complex128)  # in double precision: the product has some hundred factors
    np.cumprod(direction[:, :-1], axis=1, out=spin[:, 1:])
    return sure, spin.astype(np.complex64)


class Recursion(Protocol):
    """Computes the unit phasors of all frames by a recursion over frames.

    The proposal of the previous frame is its phasors times `along` plus `doubt`. `now` has the phasors before the first frame.
    In each of ROUNDS iterations the lower and the higher neighbour of a bin propose their phasors, with the weights `below` and
    `above`.
    """

    def __call__(
        self, along: Complex[np.ndarray, "n f"], doubt: Float[np.ndarray, "n 2 f"], below: Float[np.ndarray, "n f"],
        above: Float[np.ndarray, "n f"], now: Float[np.ndarray, "2 f"],
    ) -> Float[np.ndarray, "n 2 f"]: ...  # fmt: skip


def recursion() -> Recursion:
    """Return the compiled recursion, or the NumPy recursion if compiling fails. Both return the same bits."""
    try:
        return functools.partial(compiled_recursion, library(SOURCE).propagate)
    except (OSError, RuntimeError):
        return plain_recursion


def compiled_recursion(call, along, doubt, below, above, now) -> Float[np.ndarray, "n 2 f"]:
    made, kept = np.empty(doubt.shape, np.float32), []

    def place(array: np.ndarray, dtype: type) -> ctypes.c_void_p:
        kept.append(np.ascontiguousarray(array, dtype))
        return ctypes.c_void_p(kept[-1].ctypes.data)

    arrays = [place(along, np.complex64), *(place(x, np.float32) for x in (doubt, below, above, now))]
    call(*arrays, ctypes.c_void_p(made.ctypes.data), *map(ctypes.c_int64, (*along.shape, ROUNDS)))
    return made


def plain_recursion(along, doubt, below, above, now) -> Float[np.ndarray, "n 2 f"]:
    """The recursion in NumPy; real and imaginary parts are separate rows."""
    straight, across = np.real(along), np.stack([-np.imag(along), np.imag(along)], 1)
    made = np.empty(doubt.shape, np.float32)
    units = np.zeros((2, straight.shape[1] + 2), np.float32)  # with a zero before the first and after the last bin
    for i in range(len(doubt)):
        proposed = now * straight[i] + now[::-1] * across[i] + doubt[i]
        units[:, 1:-1] = _normalised(proposed)
        for _ in range(ROUNDS):
            units[:, 1:-1] = _normalised(units[:, :-2] * below[i] + proposed + units[:, 2:] * above[i])
        now = made[i] = units[:, 1:-1]
    return made


def _normalised(z: Float[np.ndarray, "2 f"]) -> Float[np.ndarray, "2 f"]:
    squares = z * z
    return z / np.maximum(np.sqrt(squares[0] + squares[1]), np.float32(1e-9))


def peak_slopes(magnitudes: Float[Tensor, "n f"], n_fft: int, hop: int) -> Float[Tensor, "n 2 2 f"]:
    """Estimate derivatives of the phase from the peaks of each frame (SPSI).

    The phase of each bin turns by the interpolated frequency of the nearest peak.
    """
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
    """Make `phasors` consistent with `magnitudes` in `rounds` iterations (fast Griffin-Lim, Perraudin et al. 2013)."""
    before, now = None, phasors
    for _ in range(rounds):
        new = analyse(synthesise(magnitudes * now, n_fft, hop), n_fft, hop)
        now = unit(new if before is None else new + momentum * (new - before))
        before = new
    return now
