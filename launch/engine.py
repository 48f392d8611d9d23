"""The optimiser's side of training: one small interface, of which `TorchEngine` is the one-process form.

The loop (`launch/loop.py`) knows four things of an engine: `autocast()` around the forward pass, `step(losses, step)`
after it, `weights()` around writing the model, and its state. A DeepSpeed engine fits the same seat. The learning
rate is a pure function of the step (`lr_at`), so that a resumed run needs no scheduler state; nothing here waits for
the device, so that a GPU is never drained between two steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data_prep.errors import UserError
from jukebox.presets import Recipe


def lr_at(step: int, recipe: Recipe) -> float:
    """The learning rate of a step counted from 0: linear warm-up, then constant, linear or cosine decay to `final_lr`.

    Linear decay starts at the share `decay_from` of the run, cosine right after the warm-up. `published` is the 2020
    code's: its first step has rate 0, `gamma` lowers the rate in stairs, and its linear decay (annealing) ends at 0.
    """
    published = recipe.schedule == "published"
    warm = min(1.0, (step if published else step + 1) / recipe.warmup) if recipe.warmup else 1.0
    begin = recipe.warmup if recipe.schedule == "cosine" else recipe.decay_from * recipe.steps
    done = min(max((step - begin) / max(recipe.steps - begin, 1), 0.0), 1.0)
    stairs = recipe.gamma ** (step // recipe.gamma_every) if recipe.gamma_every else 1.0
    left = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
        "published": (1.0 - done) * stairs,
    }[recipe.schedule]
    final = 0.0 if published else recipe.final_lr
    return recipe.lr * warm * (final + (1.0 - final) * left)


def has_bf16(device: torch.device) -> bool:
    """Whether the machine multiplies bf16 in hardware: elsewhere autocast only costs time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot say: float32 then
        return any(bool(known.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases, gains and slopes (fewer than two axes) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Engine(Protocol):
    """What the loop asks of whatever moves the weights."""

    rank: int
    world: int
    device: torch.device

    def autocast(self) -> contextlib.AbstractContextManager[Any]: ...
    def step(self, losses: dict[str, Tensor], step: int, ceiling: float = math.inf) -> dict[str, Tensor | float]: ...
    def weights(self) -> contextlib.AbstractContextManager[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TorchEngine:
    """AdamW in one process, with optional bf16 autocast, gradient clipping and an average of the weights (EMA)."""

    rank, world = 0, 1

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device) -> None:
        self.model, self.recipe, self.device = model.to(device), recipe, device
        self.bf16 = recipe.bf16 and has_bf16(device)
        groups = parameter_groups(model, recipe.weight_decay)
        fused = device.type in ("cpu", "cuda")  # one kernel for all parameters: small models spend their time in calls
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)
        self.average = {name: p.detach().clone() for name, p in self._trained()} if recipe.ema else {}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass; parameters, optimiser and codebooks stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def step(self, losses: dict[str, Tensor], step: int, ceiling: float = math.inf) -> dict[str, Tensor | float]:
        """Backward through `losses["loss"]` and one update; returns `lr` and the gradient norm before clipping.

        `ceiling` bounds the learning rate from outside: the landing of a run that a time limit will end.
        """
        lr = min(lr_at(step, self.recipe), ceiling)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or math.inf)
        self.optimiser.step()
        self.follow(step)
        return {"lr": lr, "gradient_norm": norm}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights, by 1 - `ema` of their distance."""
        # A young average forgets faster, or the first steps would weigh on the whole run; the published one does not.
        young = 1.0 if self.recipe.schedule == "published" else (1 + step) / (10 + step)
        keep = min(self.recipe.ema, young)
        for name, p in self._trained():
            if name in self.average:
                self.average[name].lerp_(p, 1.0 - keep)

    @contextlib.contextmanager
    def weights(self) -> Iterator[nn.Module]:
        """The model as it should be written or heard: with the averaged weights where there are any, restored after."""
        live = {name: p.detach().clone() for name, p in self._trained()} if self.average else {}
        try:
            self._put(self.average)
            yield self.model
        finally:
            self._put(live)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, p in self._trained():
            if name in values:
                p.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Model (codebooks included), optimiser and average: with the step number, all that a continuation needs."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes `state_dict`; UserError when the checkpoint is of another shape of model."""
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            what = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"the checkpoint is of another model than the one to train ({what}): give the preset it began with, "
                "another --out, or delete its folder under MODEL/training to start again"
            ) from error
        if self.average and state["average"]:
            self.average = {name: value.to(self.device) for name, value in state["average"].items()}
