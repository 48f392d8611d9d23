"""Training windows: a pure function returns the excerpts of every step of every rank.

Windows tile the songs. In each epoch every song is cut into windows with a random shift. So starts vary from epoch to epoch,
but no part of a song is used twice before all other parts are used once. The order is a permutation that is computed on the
fly: a Feistel network with cycle walking (Black and Rogaway 2002). So a million songs need only a cumulative sum, and a run
resumes at step N by computing step N.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MASK = (1 << 64) - 1
ROUNDS = 6


def mix_bits(*numbers: int) -> int:
    """Hash integers to 64 bits with splitmix64, applied once per number; the result is the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def permute(i: int, n: int, seed: int, epoch: int) -> int:
    """Return the image of position i of range(n) under a permutation that depends on (seed, epoch), in constant memory.

    A Feistel network permutes the smallest even number of bits that holds n. The network is applied again to a value outside of
    range(n) until the value is inside (fewer than 4 times on average). Raises IndexError for i outside of range(n).
    """
    if not 0 <= i < n:
        raise IndexError(f"position {i} is outside of range({n})")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    key = mix_bits(seed, epoch)
    while True:
        left, right = i >> half, i & low
        for turn in range(ROUNDS):
            left, right = right, left ^ (mix_bits(key, turn, right) & low)
        i = left << half | right
        if i < n:
            return i


class Windows:
    """All windows of all songs, in an order that is a pure function of (seed, epoch).

    `lengths` are the lengths of the songs in codes (or samples), and `window` is the length of a window. `hop` is the distance
    between the starts of two windows of a song (None: `window`, so that windows are adjacent). Every start is a multiple of
    `multiple`. A song that is shorter than a window has no windows; `skipped` counts these songs.
    """

    def __init__(self, lengths: Sequence[int], window: int, multiple: int = 1, hop: int | None = None) -> None:
        """Count the windows of each song; ValueError if there are none. Memory is proportional to the number of songs."""
        hop = window if hop is None else hop
        if min(window, multiple, hop) < 1:
            raise ValueError(f"window {window}, multiple {multiple} and hop {hop} must all be at least 1")
        self.lengths = np.asarray(lengths, dtype=np.int64).reshape(-1)
        self.window, self.multiple, self.hop = window, multiple, hop
        room = self.lengths - window  # the last possible start
        self.counts = np.where(room >= 0, room // hop + 1, 0)
        self.ends = np.cumsum(self.counts)
        self.skipped = int((room < 0).sum())
        if not len(self):
            raise ValueError(
                f"no song is as long as a window of {window}: the longest of {len(self.lengths)} has "
                f"{int(self.lengths.max(initial=0))}; take a smaller window or longer songs"
            )

    def __len__(self) -> int:
        """Return the number of windows in an epoch."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def epoch_of(self, step: int, batch_size: int) -> int:
        """Return the epoch of the first window of a step."""
        return step * batch_size // len(self)

    def at(self, index: int, seed: int) -> tuple[int, int]:
        """Return (song index, start) of a window; `index` counts all windows of epoch 0, then all windows of epoch 1, .."""
        epoch, position = divmod(index, len(self))
        place = permute(position, len(self), seed, epoch)
        song = int(np.searchsorted(self.ends, place, side="right"))
        number = place - int(self.ends[song] - self.counts[song])  # index of the window in its song
        spare = int(self.lengths[song] - self.window - (self.counts[song] - 1) * self.hop)
        shift = mix_bits(seed, epoch, song, 1) % (spare + 1)
        start = shift + number * self.hop
        return song, start - start % self.multiple

    def batch(self, step: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> list[tuple[int, int]]:
        """Return [(song index, start), ...] of the share of one rank in a step; `batch_size` counts all ranks together.

        The shares of all ranks together are the batch of a single rank. Raises ValueError if the shares would differ in size.
        """
        if batch_size % world or not 0 <= rank < world:
            raise ValueError(f"a batch of {batch_size} cannot be shared equally by {world} ranks (this one is {rank})")
        share = batch_size // world
        first = step * batch_size + rank * share
        return [self.at(index, seed) for index in range(first, first + share)]
