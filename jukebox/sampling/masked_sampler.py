"""LevelSampler one level of a run with the masked prior: window after window, the codes of each at once, in a few passes.

The walk is that of every level (jukebox/sampling/sampler.py): batches, the generator of a window, codes with checksums, what a kill leaves.
A window is some columns of all levels (priors/masked/columns.py). It knows the levels above, its own codes as far as they are written, an
eighth of the window in the middle of a song, and what is given of the levels below. Its codes come together, so that a
window is on disk whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from jukebox.sampling.sampler import LevelSampler
from jukebox.song import window_conditions
from priors.conditioning.conditions import stack
from priors.masked.model import PASSES, MaskedPrior


class MaskedLevelSampler(LevelSampler):
    """One level of a run being filled by one process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert isinstance(self.prior, MaskedPrior)
        self.config = self.prior.config
        self.column = self.config.ratios[self.level]  # codes of this level in a column
        self.n_ctx = self.config.n_ctx * self.column

    def draw(
        self, rows: Sequence[tuple[int, int]], prime: Int[np.ndarray, "b t"], rngs: Sequence[torch.Generator], length: int
    ) -> Iterator[Int[np.ndarray, "b t"]]:  # fmt: skip
        """The next codes of every row (sample, start) after those of `prime`, together."""
        columns = (prime.shape[1] + length) // self.column
        items = [window_conditions(self.songs[i], self.config, start // self.column) for i, start in rows]
        known = [self._known(level, rows, prime, columns) for level in range(len(self.config.hops))]
        codes, keep = ({level: part[i] for level, part in enumerate(known)} for i in range(2))
        made = self.prior.fill(codes, keep, stack(items).to(self.device), rngs, {self.level: self.params})
        self.steps += self.params.passes or PASSES  # however many codes they give
        yield made[self.level][:, prime.shape[1] :].cpu().numpy()

    def _known(
        self, level: int, rows: Sequence[tuple[int, int]], prime: Int[np.ndarray, "b t"], columns: int
    ) -> tuple[Int[Tensor, "b t"], Tensor]:
        """The codes of a level in the window, and which are known: all above, the prime, and of those below what is given."""
        ratio = self.config.ratios[level]
        if level == self.level:
            codes = prime
        else:
            given = self.run.request["given"].get(str(level), 0) if level < self.level else self.run.total(level)
            ends = [min(start // self.column * ratio + columns * ratio, given) for _, start in rows]
            parts = [
                self.run.codes(level, [i], start // self.column * ratio, end)
                for (i, start), end in zip(rows, ends, strict=True)
            ]
            codes = np.concatenate(parts)
        missing = columns * ratio - codes.shape[1]
        keep = np.pad(np.ones(codes.shape, bool), ((0, 0), (0, missing)))
        codes = np.pad(codes.astype(np.int64), ((0, 0), (0, missing)))
        return torch.from_numpy(codes).to(self.device), torch.from_numpy(keep).to(self.device)
