"""Random numbers of windows: one generator per row in sequence, or normal numbers addressed by absolute frame.

All of them follow from a hash of where they are, so that they depend neither on the batch nor on the order of windows.
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
    """The generator of one sample in the window whose new frames begin at `begin`; `stream` is the key of the stream."""
    digest = hashlib.sha256(f"{seed}/{sample}/{stream}/{begin}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Generators:
    """Noise of generators that are given, one per row; numbers by frame follow from their seeds."""

    rngs: Sequence[torch.Generator]

    def sequential(self) -> Sequence[torch.Generator]:
        return self.rngs

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        return torch.stack([normal_at(rng.initial_seed(), 0, stream, first, n, width) for rng in self.rngs])


@dataclass(frozen=True)
class WindowNoise:
    """Noise of a window of a run: of each row (sample, first new frame), where `skip` numbers of its generator are left out.

    `keys` are those of the streams in the hash; `stream` is the one whose key the sequential generators have. Parallel windows
    of one song begin at the frames `skip`; numbers by frame are then asked for by the frames of the first of them.
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
    """Standard normal numbers of frames [first, first + n), made in blocks on a fixed grid."""
    rngs = (generator(seed, sample, stream, f"frames {i}") for i in range(first // BLOCK, -(-(first + n) // BLOCK)))
    made = [torch.randn(BLOCK, width, generator=rng, device="cpu") for rng in rngs]
    lead = first - first // BLOCK * BLOCK
    return torch.cat(made)[lead : lead + n] if made else torch.zeros(0, width, device="cpu")
