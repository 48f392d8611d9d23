"""Phase: modules that are trained alternately with other modules (generator, discriminator), with their own optimiser and
schedule.

By default a training has one phase with the whole model. A task can have several phases (`Task.phases`). A parameter is in at
most one phase. A parameter in no phase is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from jukebox.model.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Phase:
    """A phase of a training. It learns in each `every`-th step, beginning at the share `start` of all steps.

    `recipe` has the learning rate, betas, clipping and EMA decay of the phase.
    """

    name: str  # in the log and in checkpoints; "" for the only phase of a training
    modules: tuple[nn.Module, ...]
    recipe: Recipe
    every: int = 1
    start: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, name: str, *modules: nn.Module) -> Phase:
        """Create the phase `name` from the recipe of the training."""
        differs = recipe.phases.get(name)
        timing = (differs.every, differs.start) if differs else (1, 0.0)
        return cls(name, modules, recipe.of_phase(name), *timing)

    def learns(self, step: int, place: int) -> bool:
        """Whether the phase learns in `step` (counted from 0). `place` is the step of the schedule."""
        return step % self.every == 0 and place >= self.start * self.recipe.steps

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return an iterator over the parameters that are not frozen, without duplicates."""
        found = {id(p): p for module in self.modules for p in module.parameters() if p.requires_grad}
        return iter(found.values())


def check_phases(phases: Sequence[Phase]) -> None:
    """Raise ValueError if two phases share a name or a parameter, or if a phase has no parameter to train."""
    names = [phase.name for phase in phases]
    owners: dict[int, str] = {}
    for phase in phases:
        mine = list(phase.parameters())
        if not mine:
            raise ValueError(f"the phase {phase.name!r} has no parameter to train")
        for p in mine:
            if owners.setdefault(id(p), phase.name) != phase.name:
                raise ValueError(f"a parameter is in the phases {owners[id(p)]!r} and {phase.name!r}; expected one phase each")
    if len(set(names)) < len(names):
        raise ValueError(f"phases are named {', '.join(names)}; expected a name each")
