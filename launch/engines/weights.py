"""The weights of a model on their way: out of a checkpoint, into a hollow copy, and up into the pieces of ZeRO 3.

In ZeRO 3 a rank's device holds one whole tensor at a time besides the pieces. The host of rank 0 holds the first weights; the weights
of a checkpoint are mapped, so that nobody holds them.
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
    """The same modules with weights that take no memory."""
    hollow = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, dict(hollow))


def fill_model(model: nn.Module, checkpoint: Checkpoint, assign: bool = False, averaged: bool = False) -> None:
    """Give a model the weights (`averaged`: their averages, where there are any) and buffers of a checkpoint.

    With `assign` it takes the mapped tensors themselves, else copies them. UserError when it is of another shape of model.
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
    """Cut a model up among the ranks, tensor by tensor: rank 0 has the weights, others may have a hollow model.

    Its parameters are replaced. Buffers, which stay whole, come from rank 0 too.
    """
    import deepspeed

    class LazyWeights(nn.Module):
        """Has a parameter whole only when DeepSpeed comes to it, which has then cut up those before."""

        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
            return whole_parameters(model, device)

    deepspeed.zero.Init(module=LazyWeights(), config_dict_or_path=copy.deepcopy(dict(settings)))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = whole = on_device(buffer.detach(), device)
            dist.broadcast(whole, 0)


def whole_parameters(model: nn.Module, device: torch.device) -> Iterator[nn.Parameter]:
    """Every parameter of a model replaced by one on the device, when it is asked for; what other ranks than 0 had is lost."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            places.setdefault(p, []).append((module, name))
    while places:
        p = next(iter(places))
        whole = nn.Parameter(on_device(p.detach(), device), requires_grad=p.requires_grad)
        for module, name in places.pop(p):
            setattr(module, name, whole)
        del p  # rank 0 gives up each of the first weights before the next one is on its device
        yield whole


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of rank 0's tensor, and room for it on the others."""
    return tensor.to(device, copy=True) if dist.get_rank() == 0 else torch.empty_like(tensor, device=device)


def shard(p: nn.Parameter) -> Tensor:
    """This rank's piece of a parameter, flat."""
    return p.ds_tensor.detach()  # type: ignore[attr-defined]


def piece(whole: Tensor, p: nn.Parameter) -> Tensor:
    """The piece of a whole tensor that `shard` is of its parameter, zeros after its end."""
    size = shard(p).numel()
    padded = nn.functional.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
    return padded[dist.get_rank() * size :][:size]


def joined(mine: Tensor, shape: torch.Size) -> Tensor:
    """The tensor whose pieces the ranks hold."""
    pieces = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, mine.contiguous())
    return torch.cat(pieces)[: shape.numel()].view(shape)
