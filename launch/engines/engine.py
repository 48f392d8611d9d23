"""Engine: the interface that updates weights. `TorchEngine` trains in one process, `DeepSpeedEngine` (`zero.py`) in many.

The trainer (`launch/training/trainer.py`) passes the loss and this rank's parts of a batch to an engine. The engine returns the
values for the log. The engine also returns the tensors of a checkpoint, and provides averaged weights for examples. The
learning rate is a pure function of the step (`lr_at`), so a resumed run needs no scheduler state. The host waits for the device
only once per step: the norm of the gradient decides whether the update is skipped.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jukebox.model.recipe import Recipe
from launch.cluster.group import who
from launch.engines.checkpoint import Checkpoint
from launch.engines.gradients import PartNorms, Spikes
from launch.engines.optimisers import moments_of, muon_matrices, optimisers_of, owners, restore_moments
from launch.engines.phases import Phase, check_phases
from launch.engines.speed import has_bf16
from launch.engines.weights import fill_model, hollow_copy


def lr_at(step: int, recipe: Recipe, place: int = 0) -> float:
    """Return the learning rate of a step (counted from 0): linear warm-up, then a constant rate, or decay to `final_lr`.

    The warm-up uses `step`, the number of earlier steps of the phase. The decay uses `place`, the step of the schedule, if
    `place` is larger. It is larger if a phase began late or does not learn in every step, or if a time limit will end the run.

    Linear decay starts at the share `decay_from` of the run. Cosine decay starts after the warm-up. "published" is the schedule
    of the 2020 code: the first step has rate 0, the rate is multiplied by `gamma` every `gamma_every` steps, and linear decay
    (annealing) ends at 0.
    """
    published = recipe.schedule == "published"
    warm = min(1.0, (step if published else step + 1) / recipe.warmup) if recipe.warmup else 1.0
    begin = recipe.warmup if recipe.schedule == "cosine" else recipe.decay_from * recipe.steps
    step = max(step, place)
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


Loss = Callable[[Any], dict[str, Tensor]]  # part of a batch -> values for the log by name; the total loss is "loss"


class Engine(ABC):
    """Updates the weights of a model. `phases` (usually one) are trained alternately, and each phase has its own optimisers.

    `accumulate` is the number of sequential parts of each rank's batch.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, device: torch.device, phases: Sequence[Phase], accumulate: int,
        plain: nn.Module | None = None,
    ) -> None:  # fmt: skip
        """`model` must be on the device. `plain` is a copy of the model without weights (None: it is made here)."""
        self.rank, self.world = who()
        self.model, self.recipe, self.device, self.accumulate = model, recipe, device, accumulate
        self.plain = hollow_copy(model) if plain is None else plain
        bf16 = recipe.bf16 and has_bf16(device)
        self.dtype = torch.float16 if recipe.fp16 else torch.bfloat16 if bf16 else torch.float32  # of products
        check_phases(phases)
        self.phases = {phase.name: phase for phase in phases}
        names = {id(p): name for name, p in model.named_parameters()}
        self.trained = {phase.name: {names[id(p)]: p for p in phase.parameters()} for phase in phases}
        for p in model.parameters():
            p.requires_grad_(any(names[id(p)] in parameters for parameters in self.trained.values()))
        self.spikes = {phase.name: Spikes(phase.recipe.skip_above) for phase in phases}
        self.turns, self.updates = dict.fromkeys(self.phases, 0), dict.fromkeys(self.phases, 0)
        trained = [p for parameters in self.trained.values() for p in parameters.values()]
        parts = self.world * accumulate
        self.part_norms = PartNorms(trained, accumulate, device) if parts > 1 and not recipe.fp16 else None

    @property
    def parts(self) -> int:
        """Number of parts of the global batch. Rank r takes `accumulate` parts, starting with part r * accumulate."""
        return self.world * self.accumulate

    @property
    def averages(self) -> bool:
        """Whether any training phase keeps an exponential moving average (EMA) of its weights."""
        return any(phase.recipe.ema for phase in self.phases.values())

    @property
    def skipped(self) -> int:
        """Number of skipped updates."""
        return sum(spikes.skipped for spikes in self.spikes.values())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context for the precision of the forward pass. Parameters, optimiser and codebooks stay float32."""
        lower = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if lower else torch.bfloat16, enabled=lower)

    def step(self, loss: Loss, parts: Sequence[Any], step: int, place: int = 0, phase: str = "") -> dict[str, Tensor | float]:
        """Update a phase once, from the losses of this rank's parts.

        Returns the mean values over the parts, the learning rate as "lr", and the norm of the gradient before clipping. `place`
        is the step of the schedule, which is later than `step` if a time limit will end the run.
        """
        lr = lr_at(self.turns[phase], self.phases[phase].recipe, max(step, place))
        for group in self._groups(phase):
            group["lr"] = lr * group.get("lr_scale", 1.0)
        measured = self._measures_parts(step)
        with self._only(phase):
            losses = [self._learn(phase, loss, part) for part in parts]
            norm = self._update(phase)
        self.follow(phase)
        self.turns[phase] += 1
        moved: dict[str, Tensor | float] = {
            name: torch.stack([each[name].detach() for each in losses]).mean() for name in losses[0]
        }
        moved |= {"lr": lr, "gradient_norm": norm}
        if self.part_norms is not None and measured:
            moved |= {"gradient_square": norm**2, "gradient_square_of_parts": self.part_norms.take()}
        return moved

    def _measures_parts(self, step: int) -> bool:
        """Whether the gradient norms of the parts are measured in a step. They are measured in steps with a log line."""
        recipe, done = self.recipe, step + 1
        due = not done % recipe.log_every or not done % recipe.save_every or done == recipe.steps
        if self.part_norms is not None:
            self.part_norms.on = due
        return due

    @contextlib.contextmanager
    def _only(self, phase: str) -> Iterator[None]:
        """Context in which the other phases are frozen: gradients flow through their modules but are not stored."""
        still = [p for name, parameters in self.trained.items() if name != phase for p in parameters.values()]
        for p in still:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in still:
                p.requires_grad_(True)

    @torch.no_grad()
    def follow(self, phase: str = "") -> None:
        """Move the averages towards the weights, by the share 1 - `ema` of their distance."""
        recipe, turn = self.phases[phase].recipe, self.turns[phase]
        # a new average has a faster decay, because else the first steps would affect the whole run; not in the published code
        young = 1.0 if recipe.schedule == "published" else (1 + turn) / (10 + turn)
        keep = min(recipe.ema, young)
        if pairs := [(self.average[name], live) for name, live in self._averaged(phase)]:
            averages, lives = map(list, zip(*pairs, strict=True))
            torch._foreach_lerp_(averages, lives, 1.0 - keep)  # a few kernels on a GPU instead of one per tensor

    def saved_model(self, checkpoint: Checkpoint) -> nn.Module:
        """Return a copy of the model with the memory-mapped final weights of a checkpoint: averaged weights if available."""
        fill_model(self.plain, checkpoint.named_for(self.plain), assign=True, averaged=self.averages)
        return self.plain.eval()

    def metadata(self) -> dict[str, Any]:
        """Return the state of the engine for a checkpoint, without tensors."""
        scalers = self._scalers()
        return {
            phase: {
                "turns": self.turns[phase],
                "updates": n,
                **self.spikes[phase].state(),
                "scaler": scalers[phase].state_dict() if phase in scalers else {},
            }
            for phase, n in self.updates.items()
        }

    def _restore_metadata(self, metadata: dict[str, Any], step: int) -> None:
        for phase in self.phases:
            self.updates[phase] = metadata[phase]["updates"]
            self.turns[phase] = metadata[phase].get("turns", step)  # in earlier versions each phase learned in every step
            self.spikes[phase].restore(metadata[phase])
        for phase, scaler in self._scalers().items():
            if metadata[phase]["scaler"]:
                scaler.load_state_dict(metadata[phase]["scaler"])

    average: dict[str, Tensor]

    @abstractmethod
    def _scalers(self) -> dict[str, torch.amp.GradScaler]: ...
    @abstractmethod
    def _groups(self, phase: str) -> list[dict[str, Any]]: ...
    @abstractmethod
    def _learn(self, phase: str, loss: Loss, part: Any) -> dict[str, Tensor]: ...
    @abstractmethod
    def _update(self, phase: str) -> float: ...
    @abstractmethod
    def _averaged(self, phase: str) -> Iterator[tuple[str, Tensor]]: ...
    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]: ...
    @abstractmethod
    def restore(self, checkpoint: Checkpoint) -> None: ...
    @abstractmethod
    def weights(self) -> contextlib.AbstractContextManager[nn.Module]: ...


class TorchEngine(Engine):
    """Training in one process by AdamW, or if the recipe has `muon`, by Muon and AdamW."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, device: torch.device, phases: Sequence[Phase] = (), accumulate: int = 1
    ) -> None:
        super().__init__(model.to(device), recipe, device, phases or [Phase.of(recipe, "", model)], accumulate)
        matrices = muon_matrices(self.model, recipe)
        self.optimisers = {
            name: optimisers_of(mine.values(), self.phases[name].recipe, matrices) for name, mine in self.trained.items()
        }
        self.scalers = {phase: torch.amp.GradScaler(device.type, enabled=recipe.fp16) for phase in self.phases}
        self.average = {
            name: p.detach().clone()
            for phase, mine in self.trained.items()
            for name, p in mine.items()
            if self.phases[phase].recipe.ema
        }

    def _scalers(self) -> dict[str, torch.amp.GradScaler]:
        return self.scalers if self.recipe.fp16 else {}

    def _groups(self, phase: str) -> list[dict[str, Any]]:
        return [group for optimiser in self.optimisers[phase] for group in optimiser.param_groups]

    def _learn(self, phase: str, loss: Loss, part: Any) -> dict[str, Tensor]:
        with self.autocast():
            losses = loss(part)
        self.scalers[phase].scale(losses["loss"] / self.accumulate).backward()
        return losses

    def _update(self, phase: str) -> float:
        parameters, optimisers, scaler = list(self.trained[phase].values()), self.optimisers[phase], self.scalers[phase]
        for p in parameters:
            if p.grad is None:  # parameters that the loss does not use have gradient zero, as in DeepSpeed
                p.grad = torch.zeros_like(p)
        for optimiser in optimisers:
            scaler.unscale_(optimiser)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.phases[phase].recipe.clip or math.inf))
        overflow = scaler.is_enabled() and not math.isfinite(norm)  # the loss scale was too large: only decrease it, no update
        if not overflow and self.spikes[phase].allows(norm):
            for optimiser in optimisers:
                scaler.step(optimiser)
            self.updates[phase] += 1
        scaler.update()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        return 0.0 if overflow else norm

    def _averaged(self, phase: str) -> Iterator[tuple[str, Tensor]]:
        return ((name, p) for name, p in self.trained[phase].items() if name in self.average)

    @contextlib.contextmanager
    def weights(self) -> Iterator[nn.Module]:
        """Context in which the model has the averaged weights, if any. Afterwards the weights are restored."""
        trained = {name: p for parameters in self.trained.values() for name, p in parameters.items()}
        live = {name: trained[name].detach().clone() for name in self.average}
        try:
            fill(trained, self.average)
            yield self.model
        finally:
            fill(trained, live)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield weights and buffers, averages, and moments of the optimisers, with their names in a checkpoint."""
        yield from ((f"weights/{name}", value) for name, value in self.model.state_dict().items())
        yield from ((f"average/{name}", value) for name, value in self.average.items())
        for phase, parameters in self.trained.items():
            owner = owners(self.optimisers[phase])
            for name, p in parameters.items():
                if state := owner[p].state.get(p):
                    yield from ((f"{kind}/{name}", state[kind]) for kind in moments_of(owner[p]))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore metadata, moments and averages from a checkpoint. The model already has the weights of the checkpoint."""
        self._restore_metadata(checkpoint.metadata["engine"], checkpoint.metadata["step"])
        for phase, parameters in self.trained.items():
            owner = owners(self.optimisers[phase])
            for name, p in parameters.items():
                moments = {kind: checkpoint.get(kind, name) for kind in moments_of(owner[p])}
                restore_moments(owner[p], p, moments, self.updates[phase])
                if name in self.average and (kept := checkpoint.get("average", name)) is not None:
                    self.average[name].copy_(kept)


@torch.no_grad()
def fill(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
