"""Coordinates of a sequence without end: random anchors, and lines between them (Musika, section 3.3).

    frame of the sequence        0 ............. patch ............ 2 patch ..
    place among the anchors      patch / 2 ..... 3/2 patch ........ 5/2 patch ..      anchor k lies before place k * spacing

Each place lies in the middle between two points of the line (the mean of a point and its right neighbour), so that an anchor lies between
two places and a window of even length is symmetric round it. Windows of training begin half a patch after the first anchor, or whole
patches later; so every patch of a sequence lies as some patch of training does.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def interpolate(anchors: Float[Tensor, "b k w"], places: Int[Tensor, "b n"], spacing: int) -> Float[Tensor, "b n w"]:
    """The coordinates of places, counted from the first of the anchors."""
    before = places // spacing
    share = ((places % spacing).to(anchors)[..., None] + 0.5) / spacing
    left, right = (anchors.gather(1, index[..., None].expand(-1, -1, anchors.shape[-1])) for index in (before, before + 1))
    return (1 - share) * left + share * right


def window_places(starts: Int[Tensor, " b"], patch: int) -> Int[Tensor, "b n"]:
    """The places of training windows; `starts` are which of the possible ones each begins at."""
    return patch // 2 + patch * starts[:, None] + torch.arange(2 * patch, device=starts.device)


def patch_places(first: int, patches: int, patch: int) -> Int[Tensor, " n"]:
    """The places of the frames of patches [first, first + patches) of a sequence."""
    return patch // 2 + torch.arange(first * patch, (first + patches) * patch)


def truncated(normal: Float[Tensor, "..."], bound: float) -> Float[Tensor, "..."]:
    """Standard normal numbers as those of the normal distribution between -bound and bound, in the same order."""
    below = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    return torch.special.ndtri(below + torch.special.ndtr(normal.double()) * (1 - 2 * below)).to(normal)
