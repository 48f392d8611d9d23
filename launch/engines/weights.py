"""Loading of weights from a checkpoint, into models without memory (meta device), and into the shards of ZeRO 3.

In ZeRO 3 the device of a rank holds its shards and one whole tensor at a time. Rank 0 holds the initial weights on its host.
The weights of a checkpoint are memory-mapped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from data_prep.errors import UserError
from launch.engines.checkpoint import Checkpoint


def hollow_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the model with its parameters on the meta device."""
    hollow = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, dict(hollow))


def fill_model(model: nn.Module, checkpoint: Checkpoint, assign: bool = False, averaged: bool = False) -> None:
    """Load the weights and buffers of a checkpoint into a model. With `averaged` averages replace the weights, if any.

    With `assign` the model uses the memory-mapped tensors, else the values are copied. Raises UserError if the checkpoint
    belongs to another model.
    """
    state = {name: checkpoint.get("weights", name) for name in checkpoint.names("weights")}
    state |= {name: checkpoint.get("average", name) for name in checkpoint.names("average") if averaged}
    try:
        model.load_state_dict({name: value for name, value in state.items() if value is not None}, assign=assign)
    except RuntimeError as error:
        what = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"the checkpoint is of another model than the one to train ({what}): give the preset it began with, "
            "another --out, or delete its folder under MODEL/training to start again"
        ) from error


# ---- ZeRO 3


def shard_model(model: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> None:
    """Shard a model over the ranks in place, tensor by tensor. Rank 0 has the weights; other ranks may have a hollow model.

    The parameters of the model are replaced. Buffers are not sharded, and all ranks get the buffers of rank 0.
    """
    import deepspeed

    class LazyWeights(nn.Module):
        """Creates each parameter on the device only when DeepSpeed is about to shard it."""

        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
            return whole_parameters(model, device)

    deepspeed.zero.Init(module=LazyWeights(), config_dict_or_path=copy.deepcopy(dict(settings)))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = whole = on_device(buffer.detach(), device)
            dist.broadcast(whole, 0)


def whole_parameters(model: nn.Module, device: torch.device) -> Iterator[nn.Parameter]:
    """Replace each parameter of a model by a parameter on the device, and yield it. Only the values of rank 0 are used."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            places.setdefault(p, []).append((module, name))
    while places:
        p = next(iter(places))
        whole = nn.Parameter(on_device(p.detach(), device), requires_grad=p.requires_grad)
        for module, name in places.pop(p):
            setattr(module, name, whole)
        del p  # so rank 0 frees each weight on the host before the next weight
        yield whole


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy of the tensor on the device on rank 0, and an uninitialised tensor on other ranks."""
    return tensor.to(device, copy=True) if dist.get_rank() == 0 else torch.empty_like(tensor, device=device)


def shard(p: nn.Parameter) -> Tensor:
    """Return the shard of a parameter on this rank, a flat tensor."""
    return p.ds_tensor.detach()  # type: ignore[attr-defined]


def piece(whole: Tensor, p: nn.Parameter) -> Tensor:
    """Return the part of a whole tensor that corresponds to `shard(p)`, padded with zeros."""
    size = shard(p).numel()
    padded = nn.functional.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
    return padded[dist.get_rank() * size :][:size]


def joined(mine: Tensor, shape: torch.Size) -> Tensor:
    """Gather a tensor of shape `shape` from the shards of all ranks."""
    pieces = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, mine.contiguous())
    return torch.cat(pieces)[: shape.numel()].view(shape)
