"""The decoding step in C++ (`native.cpp`), compiled by the compiler of this machine (`vqvae/compiled.py`).

Only the trunk and the output table are in C++. Embeddings, conditions and sampling stay in torch. The caches are those of the
plain step, so that either implementation can continue after the other. Weights are float32, bfloat16 or int8 and are read in
place. Sums are float32.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor, nn

from priors.autoregressive.int8 import Int8Linear
from priors.autoregressive.state import ConditioningInputs, SteppedPrior
from priors.transformer.cache import Cache, Caches, CrossCache, places
from priors.transformer.linear import Linear
from priors.transformer.rotary import rotary_table
from vqvae.compiled import library

SOURCE = Path(__file__).with_name("native.cpp")
COMPILED = ("float32", "bfloat16", "int8")


def why_not(dtype: str = "float32", device: str = "cpu") -> str | None:
    """Return the reason why steps cannot be compiled (on a GPU: captured), or None if they can."""
    if device.startswith("cuda"):
        return None
    if device != "cpu":
        return f"steps are compiled on a CPU and captured on an NVIDIA GPU, not on {device}"
    if dtype not in COMPILED:
        return f"{dtype} is not compiled on a CPU; {', '.join(COMPILED)} are"
    try:
        library(SOURCE)
    except (RuntimeError, OSError) as error:
        return str(error)
    return None


class _Linear(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("w", "scale", "b")] + [(n, ctypes.c_int64) for n in ("n_in", "n_out")]


class _Layer(ctypes.Structure):
    _fields_ = (
        [(n, _Linear) for n in ("attn", "proj", "fc", "mlp")]
        + [(n, ctypes.c_void_p) for n in ("ln_0_w", "ln_0_b", "ln_1_w", "ln_1_b", "k", "v", "bias", "rotation", "places")]
        + [(n, ctypes.c_int64) for n in ("slots", "n_ctx")]
    )


class _Step(ctypes.Structure):
    _fields_ = (
        [("layers", ctypes.POINTER(_Layer)), ("head", _Linear)]
        + [(n, ctypes.c_int64) for n in ("depth", "batch", "width", "state", "heads", "hidden", "threads")]
        + [(n, ctypes.c_float) for n in ("scale", "eps")]
        + [(n, ctypes.c_void_p) for n in ("x", "qkv", "attended", "a", "m")]
    )


def rows_of(linear: Linear) -> Tensor:
    """Return the weight as (out, in), contiguous. The first call changes the memory layout of the weight in place."""
    if not linear.w.t().is_contiguous():
        linear.w.data = linear.w.data.t().contiguous().t()
    return linear.w.t()


class Native:
    """The steps of one window: from codes to the next logits, or to the trunk's output if the prior has no output table."""

    def __init__(self, prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int):
        self.prior, self.conditioning, self.caches, self.position = prior, conditioning, caches, position
        self.held: list[Tensor] = []  # keeps the tensors alive whose addresses the library has
        config, blocks, batch = prior.config.trunk, prior.trunk.blocks, conditioning.start.shape[0]
        self.layers = (_Layer * len(blocks))(*map(self._layer, blocks, caches))
        state, hidden = config.state, config.hidden
        room = [torch.empty(batch, n, device="cpu") for n in (config.width, 3 * state, state, config.width, hidden)]
        self.step = _Step(
            self.layers, self._head(prior.table, config.width), len(blocks), batch, config.width, state,
            config.heads, hidden, torch.get_num_threads(), blocks[0].scale, blocks[0].ln_0.eps, *map(self._hold, room),
        )  # fmt: skip
        self.bytes = next(tensor.element_size() for tensor in self.held)  # bytes per weight of the first layer
        self.call = library(SOURCE).step

    def _hold(self, tensor: Tensor | None, dtype: torch.dtype | None = torch.float32) -> int | None:
        """Return the address of a tensor, and keep the tensor alive. It is converted to `dtype` (None: not converted).

        Raise ValueError for a tensor on another device than the CPU, because the library cannot read its memory.
        """
        if tensor is None:
            return None
        if tensor.device.type != "cpu":
            raise ValueError(
                f"a compiled step was given a tensor on {tensor.device}; expected the prior and its caches on the CPU"
            )
        self.held.append(tensor.detach().to(dtype or tensor.dtype).contiguous())
        return self.held[-1].data_ptr()

    def _linear(self, module: nn.Module) -> _Linear:
        if isinstance(module, Int8Linear):
            w, scale, b = module.w, module.scale, module.b
        elif isinstance(module, Linear):
            w, scale, b = rows_of(module), None, module.b
        else:  # a table of embeddings, or a linear layer without bias
            w, scale, b = module.weight, None, None
        assert isinstance(w, Tensor)
        return _Linear(self._hold(w, None), self._hold(scale), self._hold(b), w.shape[1], w.shape[0])

    def _head(self, table: nn.Module | None, width: int) -> _Linear:
        """Return the output table of a prior. Without a table it has no weights, and the library copies the trunk's output."""
        return _Linear(None, None, None, width, width) if table is None else self._linear(table)

    def _layer(self, block, cache: Cache | CrossCache) -> _Layer:
        linears = [self._linear(m) for m in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)]
        norms = [self._hold(p) for ln in (block.ln_0, block.ln_1) for p in (ln.weight, ln.bias)]
        n_ctx, slots = self.prior.config.trunk.n_ctx, cache.k.shape[3]
        bias, table = None, places("cross", n_ctx, 1, slots)
        if isinstance(cache, Cache):
            table = cache.places
        elif cache.bias is not None:
            cache.bias, n_ctx = cache.bias.contiguous(), cache.bias.shape[2]
            bias = self._hold(cache.bias, None)
        where, attn = (self._hold(cache.k, None), self._hold(cache.v, None)), block.attn
        rotation = self._hold(rotary_table(attn.rope, cache.k.shape[4], attn.n_ctx)) if attn.rope else None
        return _Layer(*linears, *norms, *where, bias, rotation, self._hold(table, None), slots, n_ctx)

    def __call__(self, code: Tensor) -> Tensor:
        x, again = self.prior.inputs(self.conditioning, code, torch.tensor([self.position], device="cpu"))
        x = x.float().contiguous()
        again = None if again is None else again.float().contiguous()
        output = torch.empty(len(x), self.step.head.n_out, device="cpu")
        self.call(
            ctypes.byref(self.step), self.bytes, ctypes.c_int64(self.position), ctypes.c_void_p(x.data_ptr()),
            ctypes.c_void_p(None if again is None else again.data_ptr()), ctypes.c_void_p(output.data_ptr()),
        )  # fmt: skip
        self.position += 1
        return output
