"""Angles of a diffusion: z = cos(angle) z0 + sin(angle) noise, from 0 (clean) to pi / 2 (noise).

The velocity is v = cos(angle) noise - sin(angle) z0. A step from an angle to angle - s is a rotation: z' = cos(s) z - sin(s) v.
The step is exact if v is exact.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

FULL = math.pi / 2  # the angle of noise


def step_sizes(steps: int, schedule: str) -> list[float]:
    """Return the sizes of the steps 1 to `steps`. Their sum is pi / 2. Sampling begins with the last one (MeLoDy, equation 8).

    Raise ValueError for fewer than one step or an unknown schedule.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps; expected at least 1")
    if schedule == "uniform":
        return [FULL / steps] * steps
    if schedule != "linear":
        raise ValueError(f"schedule {schedule!r}; expected linear or uniform")
    return [math.pi / (6 * steps) + 2 * math.pi * t / (3 * steps * (steps + 1)) for t in range(1, steps + 1)]


def noisy(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """Return `clean` with noise at an angle."""
    return angle.cos() * clean + angle.sin() * noise


def velocity(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """Return the velocity, which the network predicts. It is the derivative of `noisy` with respect to the angle."""
    return angle.cos() * noise - angle.sin() * clean


def clean_of(z: Tensor, v: Tensor, angle: Tensor) -> Tensor:
    """Return the clean values of z, given the velocity at this angle."""
    return angle.cos() * z - angle.sin() * v


def rotated(z: Tensor, v: Tensor, size: float) -> Tensor:
    """Return z at an angle that is smaller by `size`."""
    return math.cos(size) * z - math.sin(size) * v


def frame_angles(chunks: Float[Tensor, "b m"], frames: int) -> Float[Tensor, "b t"]:
    """Return the angle of each frame, given one angle per chunk of the windows.

    Chunk m (from 1) ends at floor(m frames / chunks).
    """
    count = chunks.shape[1]
    ends = torch.tensor([m * frames // count for m in range(1, count)], device=chunks.device, dtype=torch.long)
    return chunks[:, torch.bucketize(torch.arange(frames, device=chunks.device), ends, right=True)]
