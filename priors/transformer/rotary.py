"""Rotary position embedding (RoPE, Su et al. 2021, arXiv:2104.09864): queries and keys are rotated by their position.

A head of width d has d / 2 planes. Plane i has the elements i and i + d / 2, as in GPT-NeoX, and is rotated by position /
base^(2 i / d). The product of a rotated query and a rotated key then depends only on their distance (section 3.2.2). Keys are
rotated before they enter a cache, so that a step rotates one query and one key. The rotation is float32 for every dtype of the
residual stream.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(
    base: float, width: int, n_ctx: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "t 2 d/2"]:
    """Cosines, then sines, of the angles of every position in a head of `width`.

    The table is shared and must not be modified.
    """
    return _made_table(base, width, n_ctx, device, dtype)


@functools.cache  # unlimited, because a captured step stores the address of its table
def _made_table(base: float, width: int, n_ctx: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a table that is created during inference is used in training too
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
        angles = torch.arange(n_ctx, dtype=torch.float64, device="cpu")[:, None] / base**exponents
        return torch.stack([angles.cos(), angles.sin()], dim=1).to(device, dtype)


def rotate(x: Float[Tensor, "b h t d"], rows: Float[Tensor, "t 2 d/2"]) -> Float[Tensor, "b h t d"]:
    """x rotated by rows of `rotary_table`, computed in their dtype and returned in that of x."""
    cos, sin = rows[:, :, None].unbind(1)
    first, second = x.transpose(1, 2).to(rows.dtype).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return turned.transpose(1, 2)  # (b t h d) in memory like x, so that the output of attention is merged without a copy
