"""Collective operations over the ranks of a training run, for losses and codebooks that depend on the global batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks; (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def world() -> int:
    """Return the number of ranks."""
    return rank_and_world()[1]


def sum_over_ranks(*tensors: Tensor) -> list[Tensor]:
    """Return the sum of each tensor over all ranks, computed in one all-reduce."""
    if world() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, without gradient."""
    (total,) = sum_over_ranks(x.detach())
    return total / world()
