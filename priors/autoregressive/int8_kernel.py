"""Triton kernel for the product of a few rows with int8 weights on a GPU.

The kernel reads the weights once, as int8, and converts them in registers. torch has such a product (`_weight_int8pack_mm`).
But up to version 2.13 each of its threads computes one output, and its reads are not coalesced. Converting the whole matrix in
each step would move five times as many bytes. Triton is installed with torch for CUDA. Tests compile the kernel for GPUs and
run it in Triton's interpreter. The kernel has not run on a GPU, and its tile sizes are not tuned. The result of a row does not
depend on other rows.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int8
from torch import Tensor

ROWS, OUTPUTS, INPUTS = 16, 16, 256  # sizes of a tile; a tensor core needs at least 16 rows


@triton.jit
def _product(
    x, w, scale, y, rows, n_out, n_in, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    r, o = tl.arange(0, ROWS), tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, n_in, INPUTS):
        i = first + tl.arange(0, INPUTS)
        given = tl.load(x + r[:, None] * n_in + i[None, :], mask=(r[:, None] < rows) & (i[None, :] < n_in), other=0.0)
        weights = tl.load(w + o[None, :] * n_in + i[:, None], mask=(o[None, :] < n_out) & (i[:, None] < n_in), other=0)
        total = tl.dot(given, weights.to(given.dtype), total, input_precision="ieee")  # every dtype represents int8 exactly
    scales = tl.load(scale + o, mask=o < n_out, other=0.0).to(tl.float32)
    places = r[:, None] * n_out + o[None, :]
    tl.store(y + places, (total * scales[None, :]).to(y.dtype.element_ty), mask=(r[:, None] < rows) & (o[None, :] < n_out))


def int8_product(x: Float[Tensor, "n i"], w: Int8[Tensor, "o i"], scale: Float[Tensor, " o"]) -> Float[Tensor, "n o"]:
    """Return x (w scale)^T for at most ROWS rows. All tensors must be contiguous. Sums are float32."""
    y, compiled = x.new_empty(len(x), len(w)), cast(Any, _product)
    kernel = compiled[(triton.cdiv(len(w), OUTPUTS),)]
    with torch.cuda.device_of(x):
        kernel(x, w, scale, y, len(x), *w.shape, ROWS, OUTPUTS, INPUTS, num_stages=4)
    return y
