"""Static buffers of keys and values, each as long as its attention pattern reaches.

    dense    all steps so far       row    the current block       previous_row    the current block and the one before
    column   all steps, stored by offset so that a column is contiguous
    prime    the first `prime` steps, then frozen                  cross   the other sequence, computed once

A buffer is allocated once per window and written in place; nothing is concatenated.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Seen = tuple[Tensor, Tensor] | None


class Cache:
    """Keys and values of one layer for a batch; `fill` from a parallel prefill, then `append` step by step."""

    def __init__(
        self, pattern: str, batch: int, heads: int, head_width: int, n_ctx: int, block: int, prime: int, like: Tensor
    ):
        self.pattern, self.block, self.prime = pattern, block, prime
        blocks = -(-n_ctx // block)
        shape = {
            "dense": (n_ctx,),
            "prime": (min(prime, n_ctx),),
            "row": (block,),
            "previous_row": (2, block),  # two blocks in turn: one is written while the other is read
            "column": (block, blocks),
        }[pattern]
        self.k, self.v = (
            torch.zeros(batch, heads, *shape, head_width, dtype=like.dtype, device=like.device) for _ in range(2)
        )

    def fill(self, k: Float[Tensor, "b h t d"], v: Float[Tensor, "b h t d"]) -> None:
        """Take over the keys and values of steps 0..t-1."""
        for buffer, new in ((self.k, k), (self.v, v)):
            self._fill(buffer, new)

    def _fill(self, buffer: Tensor, new: Tensor) -> None:
        t, c = new.shape[2], self.block
        if t == 0:
            return
        if self.pattern in ("dense", "prime"):
            n = min(t, buffer.shape[2])
            buffer[:, :, :n] = new[:, :, :n]
        elif self.pattern == "row":
            first = (t - 1) // c * c
            buffer[:, :, : t - first] = new[:, :, first:]
        elif self.pattern == "previous_row":
            for index in {max(0, (t - 1) // c - 1), (t - 1) // c}:
                part = new[:, :, index * c : (index + 1) * c]
                buffer[:, :, index % 2, : part.shape[2]] = part
        else:
            full = t // c
            whole = new[:, :, : full * c].unflatten(2, (full, c)).transpose(2, 3)
            buffer[:, :, :, :full] = whole  # (B, H, blocks, block, D) -> (B, H, block, blocks, D)
            if t % c:
                buffer[:, :, : t % c, full] = new[:, :, full * c :]

    def append(self, k: Float[Tensor, "b h 1 d"], v: Float[Tensor, "b h 1 d"], position: int) -> Seen:
        """Write the keys and values of one step; return those that it sees, or None if it sees nothing."""
        c, row, offset = self.block, position // self.block, position % self.block
        if self.pattern == "prime" and position >= self.k.shape[2]:
            return self.k, self.v
        for buffer, new in ((self.k, k), (self.v, v)):
            if self.pattern in ("dense", "prime"):
                buffer[:, :, position] = new[:, :, 0]
            elif self.pattern == "row":
                buffer[:, :, offset] = new[:, :, 0]
            elif self.pattern == "previous_row":
                buffer[:, :, row % 2, offset] = new[:, :, 0]
            else:
                buffer[:, :, offset, row] = new[:, :, 0]
        if self.pattern in ("dense", "prime"):
            return self.k[:, :, : position + 1], self.v[:, :, : position + 1]
        if self.pattern == "row":
            return self.k[:, :, : offset + 1], self.v[:, :, : offset + 1]
        if self.pattern == "column":
            return self.k[:, :, offset, : row + 1], self.v[:, :, offset, : row + 1]
        return (self.k[:, :, 1 - row % 2, :c], self.v[:, :, 1 - row % 2, :c]) if row else None


class CrossCache:
    """Keys, values and time distances of the sequence that a cross attention listens to; computed once."""

    def __init__(self, k: Tensor, v: Tensor, bias: Tensor | None):
        self.k, self.v, self.bias = k, v, bias
