"""Decoding state of a masked prior: the codes of a window so far, and the level and pass that come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.masked.config import MaskedParams
from priors.prior import Mask, Sequences, check_shapes


@dataclass
class ColumnConditioning:
    """Conditions as the trunk takes them: what is added to every column (b t w), lyrics (b n w), seconds to them (b t n)."""

    columns: Tensor
    encoded: Tensor | None
    distance: Tensor | None


@dataclass
class MaskedState:
    """A window in progress: `turn` counts the levels that are done, `step` the passes over the next one.

    A level is a stream, or a book of one (`MaskedConfig.levels`); `lacking` are its unknown codes of each row at the start.
    """

    conditioning: ColumnConditioning
    codes: Sequences
    known: Mask
    rngs: Sequence[torch.Generator]
    params: Mapping[str, MaskedParams]  # of each level, with its own passes
    levels: Sequence[str]  # that are sampled, in this order
    lacking: Mapping[str, Sequence[int]]
    turn: int = 0
    step: int = 0

    def passes(self, level: str) -> int:
        """Passes over a level; none where it is known."""
        return self.params[level].passes if any(self.lacking[level]) else 0

    def state_dict(self) -> dict[str, Tensor]:
        """What distinguishes this state from that which `start` returns; on the CPU."""
        return {name: tensor.cpu() for name, tensor in self._tensors().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Bring a state of the same start to where `tensors` were taken.

        ValueError where they are of another shape, and nothing is changed.
        """
        check_shapes(tensors, self._tensors())
        for level in self.levels:
            for values, name in ((self.codes, "codes"), (self.known, "known")):
                values[level] = tensors[f"{name}.{level}"].to(values[level].device, copy=True)
        for rng, saved in zip(self.rngs, tensors["generators"], strict=True):
            rng.set_state(saved.clone())  # torch reads a view from the beginning of its storage
        self.turn, self.step = tensors["progress"].tolist()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"codes.{level}": self.codes[level] for level in self.levels}
        tensors |= {f"known.{level}": self.known[level] for level in self.levels}
        states = torch.stack([rng.get_state() for rng in self.rngs])
        return {**tensors, "generators": states, "progress": torch.tensor([self.turn, self.step], device="cpu")}
