"""Static buffers of keys and values (KV cache). Each buffer is as long as the context of its attention pattern.

A buffer has pages of slots, (page, b, h, slot, d). A step writes one slot and attends to the first slots of one page:

    pattern        pages x slots     writes                                number of slots attended to
    dense          1 x n_ctx         slot i                                i + 1
    row            1 x block         slot i % block                        i % block + 1
    column         block x blocks    page i % block, slot i // block       i // block + 1 of the same page
    previous_row   2 x block         page (i // block) % 2                 block, of the other page; 0 in block 0
    prime          1 x prime         slot i; no slot if i >= prime         i + 1, at most `prime`
    cross          1 x other         nothing, because filled once          all

A buffer is allocated once per window and written in place; nothing is concatenated. `places` returns this table for every step.
A step looks up its row with the position as a tensor. So a step has fixed shapes and does not synchronise with the device, and
it can be captured as a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@functools.lru_cache(maxsize=32)
def places(pattern: str, n_ctx: int, block: int, reach: int) -> Int[Tensor, "t 4"]:
    """Return one row per step: the page and the slot that it writes (slot -1: none), the page that it reads, and the number of
    slots read.

    `reach` is the number of steps or tokens that a prime or cross layer attends to. The result is cached and must not be
    modified.
    """
    i = torch.arange(n_ctx, device="cpu")
    row, offset, zero = i // block, i % block, torch.zeros_like(i)
    written, slot, read, seen = {
        "dense": (zero, i, zero, i + 1),
        "row": (zero, offset, zero, offset + 1),
        "column": (offset, row, offset, row + 1),
        "previous_row": (row % 2, offset, 1 - row % 2, block * (row > 0)),
        "prime": (zero, i.where(i < reach, -1), zero, (i + 1).clamp(max=reach)),
        "cross": (zero, zero - 1, zero, zero + reach),
    }[pattern]
    return torch.stack([written, slot, read, seen], dim=1)


class CachePlace(NamedTuple):
    """The positions that one step writes and reads in the caches of a pattern, as tensors."""

    rows: Int[Tensor, " bh"]  # indices of the written slots in (page, b, h, slot) flattened
    page: Int[Tensor, " 1"]
    mask: Bool[Tensor, " slots"]
    some: Bool[Tensor, " 1"]  # whether the step attends to anything
    position: Int[Tensor, " 1"]


class Cache:
    """Keys and values of one layer for a batch. `fill` stores those of a parallel prefill, and `append` adds one step."""

    kept = ("k", "v")  # names of the tensors that a saved state contains

    def __init__(self, pattern: str, batch: int, heads: int, head_width: int, n_ctx: int, block: int, prime: int, like: Tensor):
        self.pattern, self.block = pattern, block
        self.prime = min(prime, n_ctx)
        pages, self.slots = {
            "dense": (1, n_ctx),
            "row": (1, block),
            "column": (block, -(-n_ctx // block)),
            "previous_row": (2, block),
            "prime": (1, self.prime + 1),  # later steps write to the last slot, which is never read
        }[pattern]
        shape = (pages, batch, heads, self.slots, head_width)
        self.k, self.v = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        self.places = places(pattern, n_ctx, block, self.prime).to(like.device)

    def fill(self, k: Float[Tensor, "b h t d"], v: Float[Tensor, "b h t d"]) -> None:
        """Store the keys and values of steps 0..t-1."""
        for buffer, new in ((self.k, k), (self.v, v)):
            self._fill(buffer, new)

    def _fill(self, buffer: Tensor, new: Tensor) -> None:
        t, c = new.shape[2], self.block
        first = 0 if t == 0 else (t - 1) // c * c  # first step of the block that contains the last step
        if self.pattern in ("dense", "prime"):
            n = t if self.pattern == "dense" else min(t, self.prime)
            buffer[0, :, :, :n] = new[:, :, :n]
        elif self.pattern == "row":
            buffer[0, :, :, : t - first] = new[:, :, first:]
        elif self.pattern == "previous_row":
            for start in {max(0, first - c), first}:
                part = new[:, :, start : start + c]
                buffer[start // c % 2, :, :, : part.shape[2]] = part
        else:
            full = t // c
            whole = new[:, :, : full * c].unflatten(2, (full, c))
            buffer[:, :, :, :full] = whole.permute(3, 0, 1, 2, 4)  # (B, H, blocks, block, D) -> (block, B, H, blocks, D)
            buffer[: t % c, :, :, full : full + 1] = new[:, :, full * c :].unsqueeze(0).transpose(0, 3)

    def place(self, position: Int[Tensor, " 1"]) -> CachePlace:
        """Return the place of a step. It is the same for all layers of a pattern."""
        written, slot, read, seen = self.places.index_select(0, position)[0].split(1)
        batch, heads = self.k.shape[1:3]
        slot = slot % self.slots  # -1: the last slot, which is never read
        every = torch.arange(batch * heads, device=position.device)
        rows = (written * batch * heads + every) * self.slots + slot
        mask = torch.arange(self.slots, device=position.device) < seen.clamp(min=1)
        return CachePlace(rows, read, mask, seen > 0, position)

    def append(
        self, k: Float[Tensor, "b h d"], v: Float[Tensor, "b h d"], place: CachePlace
    ) -> tuple[Float[Tensor, "b h s d"], Float[Tensor, "b h s d"]]:
        """Write the keys and values of one step. Return the keys and values of the page that the step reads."""
        for buffer, new in ((self.k, k), (self.v, v)):
            buffer.view(-1, buffer.shape[-1]).index_copy_(0, place.rows, new.reshape(-1, new.shape[-1]))
        if len(self.k) == 1:
            return self.k[0], self.v[0]
        return self.k.index_select(0, place.page)[0], self.v.index_select(0, place.page)[0]


class CrossCache:
    """Keys, values and time bias of the sequence that a cross attention attends to. They are computed once per window."""

    kept = ()

    def __init__(self, k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"], bias: Float[Tensor, "b h t n"] | None):
        self.k, self.v, self.bias = k.contiguous()[None], v.contiguous()[None], bias


Caches = Sequence[Cache | CrossCache]  # caches of a trunk, one per layer
