"""Angles of a diffusion: z = cos(angle) z0 + sin(angle) noise, from 0 (clean) to pi / 2 (noise); v = cos(angle) noise - sin(angle) z0.

A step of size s from an angle to angle - s is a rotation: z' = cos(s) z - sin(s) v, exact where v is.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

FULL = math.pi / 2  # the angle of noise


def step_sizes(steps: int, schedule: str) -> list[float]:
    """Sizes of the steps 1 to `steps`, which add up to pi / 2; sampling takes the last one first (MeLoDy, equation 8)."""
    if steps < 1:
        raise ValueError(f"{steps} steps; expected at least 1")
    if schedule == "uniform":
        return [FULL / steps] * steps
    if schedule != "linear":
        raise ValueError(f"schedule {schedule!r}; expected linear or uniform")
    return [math.pi / (6 * steps) + 2 * math.pi * t / (3 * steps * (steps + 1)) for t in range(1, steps + 1)]


def noisy(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """`clean` at an angle."""
    return angle.cos() * clean + angle.sin() * noise


def velocity(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """What the network predicts: the derivative of `noisy` by the angle."""
    return angle.cos() * noise - angle.sin() * clean


def clean_of(z: Tensor, v: Tensor, angle: Tensor) -> Tensor:
    """The clean values that z and its velocity stand for."""
    return angle.cos() * z - angle.sin() * v


def rotated(z: Tensor, v: Tensor, size: float) -> Tensor:
    """z at an angle that is smaller by `size`."""
    return math.cos(size) * z - math.sin(size) * v


def frame_angles(chunks: Float[Tensor, "b m"], frames: int) -> Float[Tensor, "b t"]:
    """The angle of each frame of windows whose chunks have angles of their own; chunk m ends at floor(m frames / chunks)."""
    count = chunks.shape[1]
    ends = torch.tensor([m * frames // count for m in range(1, count)], device=chunks.device, dtype=torch.long)
    return chunks[:, torch.bucketize(torch.arange(frames, device=chunks.device), ends, right=True)]
