"""The transformer trunk of all priors: a stack of blocks. Each block has an attention with a pattern, and an MLP.

A block computes a = Attention(LN(x)), m = MLP(LN(x + a)) and returns x + a + m. There is no norm after the last block. Norms
are computed in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from priors.transformer.attention import Attention, attend
from priors.transformer.cache import Cache, CachePlace, Caches, CrossCache
from priors.transformer.config import TrunkConfig
from priors.transformer.linear import LayerNorm, Linear, quick_gelu
from priors.transformer.rotary import rotary_table


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, std: float, out_std: float):
        super().__init__()
        self.c_fc = Linear(width, hidden, std)
        self.c_proj = Linear(hidden, width, out_std)

    def forward(self, x: Tensor, norm: LayerNorm | None = None) -> Tensor:
        return self.c_proj(self.c_fc.after(norm, x), quick_gelu)


class Block(nn.Module):
    def __init__(self, config: TrunkConfig, layer: int):
        super().__init__()
        pattern, init = config.pattern(layer), config.init
        # the output of a cross attention is initially zero, so that lyrics can be added to a trained prior (section 6.2)
        out_std = 0.0 if pattern == "cross" and not config.time_bias else init.linear * init.residual
        self.attn = Attention(
            config.width, config.state, config.heads, pattern, block=config.block, prime=config.prime_reach,
            std=init.linear, out_std=out_std, time_bias=config.time_bias, rope=config.rope, n_ctx=config.n_ctx,
        )  # fmt: skip
        self.ln_0 = LayerNorm(config.width)
        self.mlp = MLP(config.width, config.hidden, init.linear, out_std)
        self.ln_1 = LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.scale = 1 / config.depth if config.res_scale else 1.0

    def finish(self, x: Tensor, a: Tensor) -> Tensor:
        """Return the output of the block, given its input `x` and the output `a` of its attention."""
        a = self.dropout(a)
        y = x + a
        m = self.dropout(self.mlp(y, self.ln_1))
        return y + m if self.scale == 1.0 else x + self.scale * (a + m)

    def forward(self, x: Tensor, encoded: Tensor | None = None, distance: Tensor | None = None) -> Tensor:
        return self.finish(x, self.attn(x, encoded, distance, self.ln_0))

    def prefill(self, x: Tensor, cache: Cache | CrossCache) -> Tensor:
        """Compute all positions of a prompt in parallel, and store their keys and values in the cache."""
        attn, normed = self.attn, self.ln_0(x)
        if isinstance(cache, CrossCache):
            bias = None if cache.bias is None else cache.bias[:, :, : x.shape[1]]
            q = attn.split(attn.c_attn(normed))
            return self.finish(x, attn.merge(attend(q, cache.k[0], cache.v[0], "cross", bias=bias)))
        q, k, v = attn.project(normed)
        cache.fill(k, v)
        return self.finish(x, attn.merge(attend(q, k, v, attn.pattern, attn.block, attn.prime)))

    def step(self, x: Float[Tensor, "b 1 w"], cache: Cache | CrossCache, at: Tensor | CachePlace) -> Float[Tensor, "b 1 w"]:
        """Compute one step that follows the steps in the cache. `at` is the place of the step in the cache."""
        attn, normed = self.attn, self.ln_0(x)
        if isinstance(cache, CrossCache):
            bias = None if cache.bias is None else cache.bias.index_select(2, cast("Tensor", at))
            q = attn.split(attn.c_attn(normed))
            return self.finish(x, attn.merge(attend(q, cache.k[0], cache.v[0], "cross", bias=bias)))
        place = cast("CachePlace", at)
        q, k, v = attn.project(normed, position=place.position)
        seen = F.scaled_dot_product_attention(q, *cache.append(k[:, :, 0], v[:, :, 0], place), attn_mask=place.mask[None])
        if cache.pattern == "previous_row":
            seen = seen * place.some  # exactly zero if the step attends to nothing
        return self.finish(x, attn.merge(seen))


class Transformer(nn.Module):
    """A trunk over (b t width). Cross attention attends to `encoded` (b n width) at `distance` (b t n) in seconds."""

    def __init__(self, config: TrunkConfig):
        super().__init__()
        self.config = config
        self.bf16_stream = False  # whether the residual stream is also bf16 under bf16 autocast
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.depth))

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def compile_blocks(self, **options: Any) -> None:
        """Set up torch.compile for every block. Compilation happens at the first call; blocks of one pattern share kernels."""
        torch.compiler.assume_constant_result(rotary_table)  # otherwise each block computes the table in every step
        # torch counts the variants of all blocks together: each pattern, each width, and training or inference
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # type: ignore[attr-defined]
        for block in self.blocks:
            block.compile(dynamic=False, **options)

    def forward(self, x: Float[Tensor, "b t w"], encoded: Tensor | None = None, distance: Tensor | None = None) -> Tensor:
        device = x.device.type
        if self.bf16_stream and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            x = x.bfloat16()
        for block in self.blocks:
            if self.config.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, encoded, distance, use_reentrant=False)  # type: ignore[assignment]
            else:
                x = block(x, encoded, distance)
        return x

    def caches(self, x: Tensor, encoded: Tensor | None = None, distance: Tensor | None = None) -> list[Cache | CrossCache]:
        """Return empty buffers for a window, with the dtype and batch size of x (b t w)."""
        c, made = self.config, []
        for block in self.blocks:
            attn = block.attn
            if attn.cross:
                made.append(CrossCache(*attn.context(encoded, x.dtype), attn.bias(distance, x.dtype)))
            else:
                made.append(Cache(attn.pattern, x.shape[0], c.heads, c.head_width, c.n_ctx, attn.block, attn.prime, x))
        return made

    def prefill(self, x: Float[Tensor, "b t w"], caches: Caches) -> Tensor:
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block.prefill(x, cache)
        return x

    def step(self, x: Float[Tensor, "b 1 w"], caches: Caches, position: Int[Tensor, " 1"]) -> Float[Tensor, "b 1 w"]:
        """Compute one step that follows the steps in the caches. All shapes are fixed, and the position is a tensor."""
        at: dict[str, Tensor | CachePlace] = {"cross": position}
        for cache in caches:
            if isinstance(cache, Cache) and cache.pattern not in at:
                at[cache.pattern] = cache.place(position)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block.step(x, cache, at[block.attn.pattern])
        return x

    def hidden(self, x: Tensor, layer: int, encoded: Tensor | None = None, distance: Tensor | None = None) -> Tensor:
        """Return the residual stream before `layer`, for features and alignment."""
        for block in self.blocks[:layer]:
            x = block(x, encoded, distance)
        return x


def block_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the matrices of attention and MLP of every block of every trunk in a model, including the lyric encoder."""
    for block in (module for module in model.modules() if isinstance(module, Block)):
        yield from (module.w for module in block.modules() if isinstance(module, Linear))
