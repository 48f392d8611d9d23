"""Rotary position embedding (RoPE, Su et al. 2021, arXiv:2104.09864): queries and keys are rotated by their position.

A head of width d has d / 2 planes. Plane i consists of the elements i and i + d / 2, as in GPT-NeoX. It is rotated by the angle
position / base^(2 i / d). The product of a rotated query and a rotated key then depends only on their distance (section 3.2.2).
Keys are rotated before they enter a cache, so that a step rotates only one query and one key. The rotation is computed in
float32 or wider.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(
    base: float, width: int, n_ctx: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "t 2 d/2"]:
    """Return the cosines and sines of the angles of every position, for a head of this `width`.

    The result is cached and must not be modified.
    """
    return _made_table(base, width, n_ctx, device, dtype)


@functools.cache  # without a size limit, because a CUDA graph stores the address of its table
def _made_table(base: float, width: int, n_ctx: int, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # training too may use a table that was created during inference
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
        angles = torch.arange(n_ctx, dtype=torch.float64, device="cpu")[:, None] / base**exponents
        return torch.stack([angles.cos(), angles.sin()], dim=1).to(device, dtype)


def rotate(x: Float[Tensor, "b h t d"], rows: Float[Tensor, "t 2 d/2"]) -> Float[Tensor, "b h t d"]:
    """Return x rotated by rows of `rotary_table`. The rotation has the dtype of the rows, and the result has that of x."""
    cos, sin = rows[:, :, None].unbind(1)
    first, second = x.transpose(1, 2).to(rows.dtype).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
    return turned.transpose(1, 2)  # in memory (b t h d) like x, so that merging the heads after attention needs no copy
