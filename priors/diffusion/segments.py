"""Half-overlapping segments of a sequence, and the inverse. Every frame is in exactly two segments.

A sequence of L frames has about 2 L / K segments of K frames. If K is near the square root of L, both paths of the network are
short.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def segment_count(frames: int, size: int) -> int:
    """Return the number of segments, ceil(2 frames / size) + 1."""
    return -(-2 * frames // size) + 1


def to_segments(x: Float[Tensor, "b t d"], size: int, edge: bool = False) -> Float[Tensor, "b s k d"]:
    """Split a sequence into segments. Segment s has the frames from (s - 1) size / 2 to (s + 1) size / 2.

    Frames before the start and after the end are zeros. With `edge` they repeat the outermost frames.
    """
    before, total = size // 2, (segment_count(x.shape[1], size) + 1) * (size // 2)
    after = total - before - x.shape[1]
    if edge:
        padded = F.pad(x.mT, (before, after), mode="replicate").mT
    else:
        padded = F.pad(x, (0, 0, before, after))
    halves = padded.unflatten(1, (-1, size // 2))
    return torch.cat([halves[:, :-1], halves[:, 1:]], dim=2)  # (B, S + 1, K / 2, D) -> (B, S, K, D)


def from_segments(segments: Float[Tensor, "b s k d"], frames: int) -> Float[Tensor, "b t d"]:
    """The inverse of `to_segments`: return the mean of the two versions of each frame."""
    first, second = segments.chunk(2, dim=2)  # (B, S, K, D) -> 2 (B, S, K / 2, D)
    halves = (first[:, 1:] + second[:, :-1]) / 2
    return halves.flatten(1, 2)[:, :frames]


def segment_starts(frames: int, size: int, device: torch.device) -> Int[Tensor, " s"]:
    """Return the first frame of each segment. The first segment begins before the sequence, at a negative frame."""
    return (torch.arange(segment_count(frames, size), device=device) - 1) * (size // 2)
