"""Attention: one module for all attention patterns.

A pattern is a predicate on query i and key j. It depends on blocks of `block` steps (Jukebox, appendix; Sparse Transformer,
section 4):

    dense     j <= i                                row            j <= i and i, j in the same block
    column    j <= i and i, j at the same offset    previous_row   j in the block before the block of i
    prime     j <= i and j < prime                  full           all j;  cross: all j of another sequence

`visible` returns the predicate as a dense mask. Tests use it as the reference. `attend` computes the same result by reshaping
into blocks, so that no T x T tensor is ever created. With `previous_row` the queries of block 0 attend to nothing, and the
output of this block is exactly zero.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.transformer.config import ROTATED, SHORT_BLOCK, SHORT_WINDOW
from priors.transformer.linear import LayerNorm, Linear, wide_dtype
from priors.transformer.rotary import rotary_table, rotate

PATTERNS = ("dense", "row", "column", "previous_row", "prime", "cross", "full")
ALIGNED = {"cuda": 8}  # device -> number that must divide the width of a head for the fused kernels


def visible(pattern: str, length: int, block: int = 1, prime: int = 0) -> Bool[Tensor, "t t"]:
    """Return the mask of a pattern: [i, j] is true if query i may attend to key j."""
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    if pattern == "dense":
        return j <= i
    if pattern == "row":
        return (j <= i) & (j // block == i // block)
    if pattern == "column":
        return (j <= i) & (j % block == i % block)
    if pattern == "previous_row":
        return j // block == i // block - 1
    if pattern == "prime":
        return (j <= i) & (j < prime)
    if pattern == "full":
        return torch.ones(length, length, dtype=torch.bool)
    raise ValueError(f"pattern {pattern!r} has no mask; expected one of {', '.join(PATTERNS)} but not cross")


def attend(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s d"],
    pattern: str,
    block: int = 1,
    prime: int = 0,
    bias: Tensor | None = None,
) -> Float[Tensor, "b h t d"]:
    """Compute the attention of q over k and v under a pattern. The memory is linear in t.

    `bias` (b h t s) is added to the logits. Only the patterns cross and full use it.
    """
    if pattern in ("cross", "full"):
        return fused_attention(q, k, v, bias)
    if pattern == "dense":
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and q.shape[2] <= SHORT_WINDOW:
            return _attend_by_queries(q, k, v)
        return fused_attention(q, k, v, causal=True)
    if pattern == "prime":
        reach = min(prime, q.shape[2])
        k, v = k[:, :, :reach], v[:, :, :reach]
        inside = fused_attention(q[:, :, :reach], k, v, causal=True)
        return torch.cat([inside, fused_attention(q[:, :, reach:], k, v)], dim=2)
    return _attend_in_blocks(q, k, v, pattern, block) if q.numel() else q


def fused_attention(
    q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h s d"], v: Float[Tensor, "b h s d"], bias: Tensor | None = None, causal: bool = False
) -> Float[Tensor, "b h t d"]:  # fmt: skip
    """Compute scaled dot-product attention by torch.

    On a GPU the heads are padded with zeros to a multiple of 8, which does not change the products. If q has no rows or no
    steps, the result is empty like q, because the GPU kernels do not accept an empty q.

    The padding selects a kernel with linear memory. For a head of 150 (published top priors) torch itself pads bf16 without a
    bias for its flash kernel. In all other cases torch would keep a T x S matrix, because its memory-efficient kernel requires
    a multiple of 8. That kernel has no maximum width. A head of 480 (published upsamplers) needs no padding. For this head
    torch chooses the memory-efficient kernel, because flash supports at most 256.
    """
    if not q.numel():
        return q
    width = q.shape[-1]
    short = -width % ALIGNED.get(q.device.type, 1)
    if not short:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    q, k, v = (F.pad(x, (0, short)) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, scale=width**-0.5)[..., :width]


def _attend_by_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dense attention in blocks of queries, each over the keys up to the end of the block.

    For short windows in bf16 on a CPU this is faster than torch's attention.
    """
    ends = [min(first + SHORT_BLOCK, q.shape[2]) for first in range(0, q.shape[2], SHORT_BLOCK)]
    parts = zip(q.split(SHORT_BLOCK, dim=2), ends, strict=True)
    return torch.cat([_by_products(some, k[:, :, :end], v[:, :, :end], causal=True) for some, end in parts], dim=2)


def _by_products(q: Float[Tensor, "a h t d"], k: Tensor, v: Tensor, causal: bool) -> Float[Tensor, "a h t d"]:
    """Attention as two matrix products with a softmax between them.

    If `causal`, the queries are the last t of the s steps of the keys. On a CPU this is faster than torch's attention if a
    block fits into the cache. The gain is largest in bf16.
    """
    (t, d), s = q.shape[-2:], k.shape[-2]
    future = q.new_full((t, s), -torch.inf).triu(s - t + 1) if causal else q.new_zeros(t, s)
    with torch.autocast("cpu", enabled=False):
        q3, k3, v3 = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))  # (A, H, T, D) -> (A * H, T, D)
        logits = torch.baddbmm(future, q3, k3.transpose(1, 2), alpha=1 / math.sqrt(d))
        return torch.bmm(torch.softmax(logits, dim=-1), v3).view(q.shape)


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, pattern: str, block: int) -> Tensor:
    b, h, t, d = q.shape
    short = -t % block  # the last block may be partial; the padded keys are after every query, so no query attends to them
    if short:
        q, k, v = (F.pad(x, (0, 0, 0, short)) for x in (q, k, v))
    q, k, v = (x.view(b, h, -1, block, d).transpose(1, 2) for x in (q, k, v))  # -> (B, blocks, H, block, D)
    if pattern == "row":
        out = _attend_within(q, k, v, causal=True)
    elif pattern == "column":
        q, k, v = (x.transpose(1, 3) for x in (q, k, v))  # -> (B, block, H, blocks, D)
        out = _attend_within(q, k, v, causal=True).transpose(1, 3)
    elif pattern == "previous_row":
        seen = _attend_within(q[:, 1:], k[:, :-1], v[:, :-1], causal=False)
        out = F.pad(seen, (0, 0, 0, 0, 0, 0, 1, 0))  # block 0 attends to nothing
    else:
        raise ValueError(f"unknown attention pattern {pattern!r}; expected one of {', '.join(PATTERNS)}")
    return out.transpose(1, 2).reshape(b, h, -1, d)[:, :, :t]


def _attend_within(q: Float[Tensor, "b n h t d"], k: Tensor, v: Tensor, causal: bool) -> Float[Tensor, "b n h t d"]:
    """Compute attention inside each of n blocks. Blocks are merged into the batch, because torch is slowest with five axes."""
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    if q.device.type == "cpu" and q.shape[-2] <= SHORT_BLOCK:
        return _by_products(q, k, v, causal).view(shape)
    return fused_attention(q, k, v, causal=causal).view(shape)


class Attention(nn.Module):
    """Multi-head attention under one pattern, over the sequence itself or (cross) over another sequence.

    With `time_bias` every head of a cross attention has a learned slope s. Its bias exp(s) * |seconds between query and key| is
    subtracted from the logits. So a head can attend to the words that are sung now. For a key without a time the bias is zero.

    `rope` is the base of a rotary embedding of the `n_ctx` positions (0: none). The patterns cross and prime have no rotary
    embedding.
    """

    def __init__(
        self,
        width: int,
        state: int,
        heads: int,
        pattern: str,
        *,
        block: int = 1,
        prime: int = 0,
        std: float = 0.02,
        out_std: float = 0.02,
        time_bias: bool = False,
        rope: float = 0.0,
        n_ctx: int = 0,
    ):
        super().__init__()
        if pattern not in PATTERNS:
            raise ValueError(f"unknown attention pattern {pattern!r}; expected one of {', '.join(PATTERNS)}")
        if state % heads:
            raise ValueError(f"attention width {state} must be a multiple of the number of heads, {heads}")
        self.pattern, self.heads, self.block, self.prime = pattern, heads, block, prime
        self.rope, self.n_ctx = rope if pattern in ROTATED else 0.0, n_ctx
        self.cross = pattern == "cross"
        self.c_attn = Linear(width, state if self.cross else 3 * state, std)
        if self.cross:
            self.c_enc_kv = Linear(width, 2 * state, std)
        self.c_proj = Linear(state, width, out_std)
        # initial time constants: 1/60 s to 1/2 s, from a few top-level codes (some 6 ms each) to a few words
        slopes = torch.linspace(math.log(60.0), math.log(2.0), heads)
        self.slope = nn.Parameter(slopes) if self.cross and time_bias else None

    def split(self, x: Float[Tensor, "b t s"]) -> Float[Tensor, "b h t d"]:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # (B, T, S) -> (B, H, T, S/H)

    def merge(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b t w"]:
        return self.c_proj(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1))  # (B, H, T, D) -> (B, T, W)

    def project(
        self, x: Float[Tensor, "b t w"], norm: LayerNorm | None = None, position: Int[Tensor, " 1"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (b h t d) of the sequence. If there is a norm, it is applied to x first.

        With a rotary embedding, queries and keys are rotated by the angles of the steps 0..t-1, or of the one step at
        `position`.
        """
        q, k, v = map(self.split, self.c_attn.after(norm, x).chunk(3, dim=-1))
        if self.rope:
            table = rotary_table(self.rope, q.shape[3], self.n_ctx, q.device, wide_dtype(q.dtype))
            rows = table[: q.shape[2]] if position is None else table.index_select(0, position)
            q, k = rotate(q, rows), rotate(k, rows)
        return q, k, v

    def context(self, encoded: Float[Tensor, "b n w"] | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return keys and values (b h n d) of the sequence that a cross attention attends to. ValueError if there is none."""
        if encoded is None:
            raise ValueError("cross attention has no sequence to attend to; this model needs a lyric condition")
        k, v = self.c_enc_kv(encoded.to(dtype)).chunk(2, dim=-1)
        return self.split(k), self.split(v)

    def bias(self, distance: Float[Tensor, "b t n"] | None, dtype: torch.dtype) -> Float[Tensor, "b h t n"] | None:
        """Return the time bias, a negative number that is added to the logits. Distances are in seconds, nan if unknown."""
        if self.slope is None or distance is None:
            return None
        return (-self.slope.exp()[:, None, None] * distance.nan_to_num(0.0)[:, None]).to(dtype)

    def forward(
        self,
        x: Float[Tensor, "b t w"],
        encoded: Tensor | None = None,
        distance: Tensor | None = None,
        norm: LayerNorm | None = None,
    ) -> Float[Tensor, "b t w"]:
        if self.cross:
            q = self.split(self.c_attn.after(norm, x))
            k, v = self.context(encoded, x.dtype)
            return self.merge(attend(q, k, v, "cross", bias=self.bias(distance, q.dtype)))
        q, k, v = self.project(x, norm)
        return self.merge(attend(q, k, v, self.pattern, self.block, self.prime))

    def weights(
        self, x: Float[Tensor, "b t w"], encoded: Tensor | None = None, distance: Tensor | None = None
    ) -> Float[Tensor, "b h t n"]:
        """Return the attention weights of a cross or prime layer (ValueError for others).

        n is the number of attended tokens.
        """
        bias = None
        if self.cross:
            q, (k, _) = self.split(self.c_attn(x)), self.context(encoded, x.dtype)
            bias = self.bias(distance, torch.float32)
        elif self.pattern == "prime":
            q, k, _ = self.project(x)
            k = k[:, :, : self.prime]
            i, j = (torch.arange(n, device=x.device) for n in (q.shape[2], k.shape[2]))
            bias = torch.zeros(len(i), len(j), device=x.device).masked_fill(j > i[:, None], -torch.inf)
        else:
            raise ValueError(f"a {self.pattern} layer does not attend to lyrics; align with a cross or prime layer")
        logits = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
        return torch.softmax(logits if bias is None else logits + bias, dim=-1)
