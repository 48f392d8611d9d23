"""Collective operations over the ranks of a training run, for losses and codebooks that depend on the global batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """The rank of this process, and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def world() -> int:
    """The number of ranks."""
    return rank_and_world()[1]


def sum_over_ranks(*tensors: Tensor) -> list[Tensor]:
    """The sums of tensors over all ranks, in one message."""
    if world() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a tensor over all ranks; no gradient flows through it."""
    (total,) = sum_over_ranks(x.detach())
    return total / world()
