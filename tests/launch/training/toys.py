"""The smallest tasks, for tests of the loop and of its engines: they know nothing of music, as the loop should not."""

from __future__ import annotations

import torch
from torch import nn

from jukebox.model.recipe import Recipe
from launch.engines.phases import Phase
from launch.training.tasks.task import Task, fold
from vqvae.adversarial import r1_penalty


class Line(Task):
    """A task of one linear layer."""

    name, unit, amount, identity = "line_0", "rows", 8.0, {}

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)

    def open(self) -> None:
        pass

    def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
        return torch.randn(8, 3, generator=torch.Generator().manual_seed(fold(0, step))).chunk(world)[rank]

    def loss(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return {"loss": (self.model(batch)[:, 0] - batch.sum(1)).square().mean()}

    def save(self, model: nn.Module) -> None:
        pass


class Duel(Line):
    """Two phases: a generator maps noise to a number, a critic distinguishes it from 3; the optimum is 3 for the generator."""

    name = "duel_0"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict(
            {"makes": nn.Linear(3, 1), "judges": nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))}
        )

    def phases(self, recipe: Recipe) -> list[Phase]:
        return [Phase.of(recipe, "generator", self.model["makes"]), Phase.of(recipe, "critic", self.model["judges"])]

    def phase_loss(self, phase: str, batch: torch.Tensor, step: int, shared: None) -> dict[str, torch.Tensor]:
        made, true = self.model["makes"](batch), 3.0 + 0.1 * batch[:, :1]
        if phase == "generator":
            return {"loss": nn.functional.softplus(-self.model["judges"](made)).mean(), "made": made.detach().mean()}
        asked_to_stop = nn.functional.softplus(-self.model["judges"](true)) + nn.functional.softplus(self.model["judges"](made))
        return {"loss": asked_to_stop.mean()}


class SharedDuel(Duel):
    """The same with one forward pass of the generator for both phases, and R1; its equilibrium is a generator of 3.

    `forwards` counts the passes.
    """

    name = "shared_0"

    def __init__(self) -> None:
        super().__init__()
        self.forwards = 0

    def forward(self, batch: torch.Tensor, step: int) -> torch.Tensor:
        self.forwards += 1
        return self.model["makes"](batch)

    def phase_loss(self, phase: str, batch: torch.Tensor, step: int, shared: torch.Tensor) -> dict[str, torch.Tensor]:
        judge = self.model["judges"]
        if phase == "generator":
            return {"loss": nn.functional.softplus(-judge(shared)).mean(), "made": shared.detach().mean()}
        true = (3.0 + 0.1 * batch[:, :1]).requires_grad_()
        scores = judge(true)
        right = nn.functional.softplus(-scores) + nn.functional.softplus(judge(shared.detach()))
        return {"loss": right.mean() + r1_penalty(scores, true)}


class Hidden(nn.Module):
    """Two layers, of which the first is a hidden one whose matrix Muon trains."""

    kind = "hidden"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out = nn.Linear(3, 8), nn.Linear(8, 1)

    def muon_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.named_parameters() if name == "inner.weight"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(x).tanh())


class Bend(Line):
    """The task of `Line` for a model with a hidden layer."""

    def __init__(self) -> None:
        self.model = Hidden()
