"""Coordinates of an unbounded sequence: random anchors with linear interpolation (Musika, section 3.3).

    frame of the sequence        0 ............. patch ............ 2 patch ..
    position among the anchors   patch / 2 ..... 3/2 patch ........ 5/2 patch ..      anchor k lies before position k * spacing

The coordinate of a position is the mean of the line at that point and at the next point. So an anchor is between two positions,
and a window of even length is symmetric around it. Training windows begin half a patch after the first anchor, or whole patches
later. So every patch of a sequence has the position of some training patch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def interpolate(anchors: Float[Tensor, "b k w"], places: Int[Tensor, "b n"], spacing: int) -> Float[Tensor, "b n w"]:
    """Return the coordinates at `places`, which are positions counted from the first anchor."""
    before = places // spacing
    share = ((places % spacing).to(anchors)[..., None] + 0.5) / spacing
    left, right = (anchors.gather(1, index[..., None].expand(-1, -1, anchors.shape[-1])) for index in (before, before + 1))
    return (1 - share) * left + share * right


def window_places(starts: Int[Tensor, " b"], patch: int) -> Int[Tensor, "b n"]:
    """Return the positions of the frames of training windows. `starts` are indices below `GanConfig.starts`."""
    return patch // 2 + patch * starts[:, None] + torch.arange(2 * patch, device=starts.device)


def patch_places(first: int, patches: int, patch: int) -> Int[Tensor, " n"]:
    """Return the positions of the frames of the patches [first, first + patches) of a sequence."""
    return patch // 2 + torch.arange(first * patch, (first + patches) * patch)


def truncated(normal: Float[Tensor, "..."], bound: float) -> Float[Tensor, "..."]:
    """Map standard normal numbers monotonically to a normal distribution truncated to [-bound, bound]."""
    below = torch.special.ndtr(torch.tensor(-bound, dtype=torch.float64))
    return torch.special.ndtri(below + torch.special.ndtr(normal.double()) * (1 - 2 * below)).to(normal)
