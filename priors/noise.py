"""Random numbers of windows: one generator per row, or normal numbers addressed by absolute frame.

All seeds are hashes of positions. So the numbers do not depend on the batch or the order of the windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 64  # frames whose normal numbers come from one generator


def generator(seed: int, sample: int, stream: int | str, begin: int | str) -> torch.Generator:
    """Return the generator of a sample in one window. `stream` is the key of the stream, `begin` the first new frame."""
    digest = hashlib.sha256(f"{seed}/{sample}/{stream}/{begin}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Generators:
    """Noise from given generators, one per row. Normal numbers by frame are derived from the seeds of the generators."""

    rngs: Sequence[torch.Generator]

    def sequential(self) -> Sequence[torch.Generator]:
        return self.rngs

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        return torch.stack([normal_at(rng.initial_seed(), 0, stream, first, n, width) for rng in self.rngs])


@dataclass(frozen=True)
class WindowNoise:
    """Noise of a window of a run. Each row is (sample, first new frame).

    `keys` maps each stream to its key in the hash of the seed. The sequential generators use the key of `stream`.

    `skip` is for parallel windows of a song. It has the first frame of the window of each row. The sequential generator of a
    row skips this many numbers. `at` takes frames of the first window and shifts them for the windows of the other rows.
    """

    seed: int
    stream: str
    keys: Mapping[str, int | str]
    rows: Sequence[tuple[int, int]]
    skip: Sequence[int] = ()

    def sequential(self) -> Sequence[torch.Generator]:
        rngs = [generator(self.seed, sample, self.keys[self.stream], begin) for sample, begin in self.rows]
        for rng, count in zip(rngs, self.skip):
            torch.rand(count, generator=rng, dtype=torch.float64, device="cpu")
        return rngs

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        begins = [first + begin - self.skip[0] for begin in self.skip] or [first] * len(self.rows)
        rows = zip(self.rows, begins, strict=True)
        return torch.stack([normal_at(self.seed, sample, self.keys[stream], begin, n, width) for (sample, _), begin in rows])


def normal_at(seed: int, sample: int, stream: int | str, first: int, n: int, width: int) -> Float[Tensor, "n w"]:
    """Return standard normal numbers of the frames [first, first + n). They are generated in blocks on a fixed grid."""
    rngs = (generator(seed, sample, stream, f"frames {i}") for i in range(first // BLOCK, -(-(first + n) // BLOCK)))
    made = [torch.randn(BLOCK, width, generator=rng, device="cpu") for rng in rngs]
    lead = first - first // BLOCK * BLOCK
    return torch.cat(made)[lead : lead + n] if made else torch.zeros(0, width, device="cpu")
