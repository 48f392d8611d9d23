"""Decoding state of a masked prior: the codes of a window so far, and the next level and pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from priors.masked.config import MaskedParams
from priors.prior import Mask, Sequences, check_shapes


@dataclass
class ColumnConditioning:
    """Conditions as inputs of the trunk: vectors that are added to the columns (b t w), and encoded lyrics (b n w).

    `distance` is the distance in seconds between each column and each lyric token (b t n).
    """

    columns: Tensor
    encoded: Tensor | None
    distance: Tensor | None


@dataclass
class MaskedState:
    """A window in progress. `turn` is the number of complete levels, and `step` the number of passes over the current level.

    A level is a stream or a book (`MaskedConfig.levels`). `lacking` has the initial number of unknown codes of each row.
    """

    conditioning: ColumnConditioning
    codes: Sequences
    known: Mask
    rngs: Sequence[torch.Generator]
    params: Mapping[str, MaskedParams]  # parameters of each level, with its number of passes
    levels: Sequence[str]  # the levels to sample, in this order
    lacking: Mapping[str, Sequence[int]]
    turn: int = 0
    step: int = 0

    def passes(self, level: str) -> int:
        """Return the number of passes over a level, 0 if all codes of the level are known."""
        return self.params[level].passes if any(self.lacking[level]) else 0

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that changed since `start`, on the CPU."""
        return {name: tensor.cpu() for name, tensor in self._tensors().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore `tensors` of `state_dict` into a state that began with the same call of `start`.

        Raise ValueError if a shape or dtype differs. Then the state does not change.
        """
        check_shapes(tensors, self._tensors())
        for level in self.levels:
            for values, name in ((self.codes, "codes"), (self.known, "known")):
                values[level] = tensors[f"{name}.{level}"].to(values[level].device, copy=True)
        for rng, saved in zip(self.rngs, tensors["generators"], strict=True):
            rng.set_state(saved.clone())  # a copy, because torch reads a view from the beginning of the storage
        self.turn, self.step = tensors["progress"].tolist()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"codes.{level}": self.codes[level] for level in self.levels}
        tensors |= {f"known.{level}": self.known[level] for level in self.levels}
        states = torch.stack([rng.get_state() for rng in self.rngs])
        return {**tensors, "generators": states, "progress": torch.tensor([self.turn, self.step], device="cpu")}
