"""Optimisers of a training: AdamW for all weights, or Muon for the matrices of hidden layers and AdamW for other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe
from launch.engines.muon import Muon
from priors.prior import SupportsMuon

MOMENTS = ("exp_avg", "exp_avg_sq")  # state of AdamW per weight
MOMENTUM = ("momentum_buffer",)  # state of Muon per weight


def parameter_groups(trained: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices and kernels with weight decay, and biases, gains and slopes without.

    Biases, gains and slopes have fewer than two axes, in ZeRO 3 before the sharding.
    """
    axes = {p: len(getattr(p, "ds_shape", p.shape)) for p in trained}
    matrices, vectors = [p for p in trained if axes[p] >= 2], [p for p in trained if axes[p] < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """Create a fused AdamW, which uses one kernel for all parameters: in small models calls take most of the time."""
    parameters = list(parameters)
    fused = bool(parameters) and parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parameter_groups(parameters, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, fused=fused)


def muon(matrices: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Create a Muon optimiser. Its learning rate is that of the schedule times muon / lr (`lr_scale` of its group)."""
    group = {"params": list(matrices), "lr_scale": recipe.muon / recipe.lr}
    return Muon([group], lr=recipe.muon, weight_decay=recipe.weight_decay)


def muon_matrices(model: nn.Module, recipe: Recipe) -> set[nn.Parameter]:
    """Return the weights of a model that Muon trains. The set is empty if `recipe.muon` is 0.

    Raises UserError if the model has no trainable matrices for Muon.
    """
    if not recipe.muon:
        return set()
    if not isinstance(model, SupportsMuon):
        kind = getattr(model, "kind", type(model).__name__)
        raise UserError(f"a model of kind {kind} does not name the matrices that Muon trains; train it without --muon")
    found = {p for p in model.muon_parameters() if p.requires_grad}
    if not found:
        raise UserError("--muon trains matrices of hidden layers, and here all of them are frozen; train without --muon")
    return found


def optimisers_of(
    parameters: Iterable[nn.Parameter], recipe: Recipe, matrices: set[nn.Parameter]
) -> list[torch.optim.Optimizer]:
    """Create Muon for the parameters in `matrices` and AdamW for the others. If a set is empty, it has no optimiser."""
    parameters = list(parameters)
    hidden, others = [p for p in parameters if p in matrices], [p for p in parameters if p not in matrices]
    made: list[torch.optim.Optimizer] = [muon(hidden, recipe)] if hidden else []
    return made if hidden and not others else [*made, adamw(others, recipe)]


def owners(optimisers: Iterable[torch.optim.Optimizer]) -> dict[nn.Parameter, torch.optim.Optimizer]:
    """Map each parameter to its optimiser."""
    return {p: optimiser for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]}


def moments_of(optimiser: torch.optim.Optimizer) -> tuple[str, ...]:
    """Return the names of the state tensors that an optimiser has per weight, as in a checkpoint."""
    return MOMENTS if isinstance(optimiser, torch.optim.AdamW) else MOMENTUM


def restore_moments(
    optimiser: torch.optim.Optimizer, p: nn.Parameter, moments: Mapping[str, Tensor | None], updates: int
) -> None:
    """Set the moments of a weight after `updates` updates. If a moment is missing, the optimiser starts with a new state."""
    state = {kind: value.to(p.device) for kind, value in moments.items() if value is not None}
    if len(state) == len(moments):
        adam = moments_of(optimiser) == MOMENTS
        count = {"step": torch.tensor(float(updates), device=p.device)} if adam else {}
        optimiser.state[p] = {**count, **state}
