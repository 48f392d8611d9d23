"""Decoding steps in three implementations with equal results: plain torch, CUDA graph, or compiled C++ (`native.cpp`) on a CPU.

All implementations use the same ring buffers. Their only other state is the position. So one implementation can continue after
another. The C++ implementation also samples the codes, so that a block of codes is one call.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from priors.autoregressive.state import ConditioningInputs, DecodeState, Step
from priors.autoregressive.step import Captured, Plain
from priors.logits import draw
from priors.wavenet.config import WaveNetParams
from priors.wavenet.stack import RingBuffers
from vqvae.compiled import library

SOURCE = Path(__file__).with_name("native.cpp")
WEIGHTS = ("embedding", "gates", "residual", "skip", "skip_bias", "hidden", "hidden_bias", "out", "out_bias")
SIZES = ("depth", "kernel", "channels", "gate", "skips", "bins", "batch", "frame", "frames", "threads")


class Stepwise:
    """Samples codes by torch, step by step."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, code: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        """Return the logits after one more code."""
        return self.step(code)

    def codes(self, code: Int[Tensor, " b"], numbers: Float[Tensor, "b n"], params: WaveNetParams) -> Int[Tensor, "b n"]:
        """Sample the codes that follow `code`, one per uniform number."""
        made = []
        for number in numbers.unbind(1):
            code = draw(self.step(code), number, params)
            made.append(code)
        return torch.stack(made, dim=1)


class _Net(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in (*WEIGHTS, "conditions", "buffers", "dilations", "first")] + [
        (n, ctypes.c_int64) for n in SIZES
    ]


class _Params(ctypes.Structure):
    _fields_ = [("temperature", ctypes.c_double), ("top_p", ctypes.c_double), ("top_k", ctypes.c_int64)]


class NativeSteps(Stepwise):
    """The steps of one window in C++. They use the float32 weights and the ring buffers in place."""

    def __init__(self, prior: Any, conditioning: ConditioningInputs, buffers: RingBuffers, position: int) -> None:
        super().__init__(self._logits)
        assert conditioning.steps is not None
        stack, config, head = prior.stack, prior.config.stack, (prior.hidden, prior.x_out)
        weights = (
            prior.x_emb.weight,
            stack.gates,
            stack.residual,
            stack.skip,
            stack.skip_bias,
            *(x for h in head for x in (h.w, h.b)),
        )
        dilations = torch.tensor(config.dilations, device="cpu")
        # keeps the tensors alive whose addresses the library has
        self.held = [x.detach().contiguous() for x in (*weights, conditioning.steps, buffers.values, dilations, buffers.first)]
        self.position, self.batch, self.bins = position, len(conditioning.steps), prior.config.bins
        sizes = (
            config.depth,
            config.kernel,
            config.channels,
            config.gate,
            config.skip,
            self.bins,
            self.batch,
            prior.config.frame,
        )
        frames, threads = conditioning.steps.shape[1], torch.get_num_threads()
        self.net = _Net(*(x.data_ptr() for x in self.held), *sizes, frames, threads)
        self.logits, self.call = torch.empty(self.batch, self.bins, device="cpu"), library(SOURCE).codes

    def _run(self, code: Int[Tensor, " b"], n: int, params: _Params, numbers: Tensor | None, made: Tensor | None) -> None:
        code = code.contiguous()
        pointers = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in (code, numbers, made, self.logits)]
        self.call(ctypes.byref(self.net), ctypes.byref(params), ctypes.c_int64(self.position), ctypes.c_int64(n), *pointers)
        self.position += n

    def _logits(self, code: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
        self._run(code, 1, _Params(), None, None)
        return self.logits.clone()

    def codes(self, code: Int[Tensor, " b"], numbers: Float[Tensor, "b n"], params: WaveNetParams) -> Int[Tensor, "b n"]:
        made, numbers = torch.empty(numbers.shape, dtype=torch.long, device="cpu"), numbers.contiguous()
        self._run(code, numbers.shape[1], _Params(params.temperature, params.top_p, params.top_k), numbers, made)
        return made


def stepper(prior: Any, state: DecodeState[WaveNetParams]) -> Stepwise:
    """Return the steps of a window of a `WaveNetPrior`, from its current state on."""
    if not isinstance(state.step, Stepwise):
        where: Any = (prior, state.conditioning, state.caches, state.position)
        device, dtype = state.conditioning.start.device.type, state.conditioning.start.dtype
        if prior.compiled and device == "cpu" and dtype == torch.float32:
            state.step = NativeSteps(prior, state.conditioning, state.caches[0], state.position)
        else:
            state.step = Stepwise((Captured if prior.compiled and device == "cuda" else Plain)(*where))
    return state.step
