"""Sampling one level of a run by masked parallel decoding: window by window, the codes of each in a few passes.

Batches, the generator of a window, codes with checksums and resuming are those of every level (jukebox/sampling/sampler.py).
A window holds all streams of the prior, in columns. Known are the coarser levels, the window's own codes as far as they
are written (an eighth of the window in the middle of a song), and prompt codes of the finer levels. The codes of a window
come together, so that a window is on disk whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from data_prep.errors import UserError
from jukebox.sampling.sampler import LevelSampler
from jukebox.song import window_conditions
from priors.conditioning.conditions import stack
from priors.prior import Inpaints
from vqvae.codec import as_tensor


class MaskedLevelSampler(LevelSampler):
    """One level of a run being inpainted by one process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        config = self.prior.config
        if not isinstance(self.prior, Inpaints):
            raise UserError(f"a prior of kind {config.kind} cannot inpaint; sample with --lower autoregressive")
        self.inpainter = self.prior
        names = [self.run.stream(level).name for level in range(len(self.run.request["hops"]))]
        self.levels = {stream: names.index(stream) for stream in config.spec.writes}
        self.ratios = {stream: config.frames(stream) // config.n_ctx for stream in config.spec.writes}
        self.column = self.ratios[self.stream.name]  # codes of this level in a column

    def draw(
        self, rows: Sequence[tuple[int, int]], prime: Int[np.ndarray, "b t"], rngs: Sequence[torch.Generator], length: int
    ) -> Iterator[Int[np.ndarray, "b t"]]:  # fmt: skip
        """The next codes of every row (sample, start) after those of `prime`, together."""
        columns = (prime.shape[1] + length) // self.column
        found = {stream: self._known(stream, rows, prime, columns) for stream in self.ratios}
        codes, known = ({stream: part[i] for stream, part in found.items()} for i in range(2))
        config = self.prior.config
        cond = stack([window_conditions(self.songs[i], config, start // self.column) for i, start in rows]).to(self.device)
        made = self.inpainter.fill(codes, known, cond, rngs, {self.stream.name: self.params})
        self.steps += self.params.passes  # however many codes they give
        yield made[self.stream.name][:, prime.shape[1] :].cpu().numpy()

    def _known(
        self, stream: str, rows: Sequence[tuple[int, int]], prime: Int[np.ndarray, "b t"], columns: int
    ) -> tuple[Int[Tensor, "b t"], Tensor]:
        """The codes of a stream in the window, and which are known: all coarser ones, the prime, and prompt codes of finer ones."""
        ratio, level = self.ratios[stream], self.levels[stream]
        if level == self.level:
            codes = prime
        else:
            given = self.run.request["given"].get(str(level), 0) if level < self.level else self.run.total(level)
            begins = [(i, start // self.column * ratio) for i, start in rows]
            codes = np.concatenate([self.run.codes(level, [i], at, min(at + columns * ratio, given)) for i, at in begins])
        missing = columns * ratio - codes.shape[1]
        keep = np.pad(np.ones(codes.shape, bool), ((0, 0), (0, missing)))
        codes = np.pad(codes, ((0, 0), (0, missing)))
        return as_tensor(codes).to(self.device), torch.from_numpy(keep).to(self.device)
