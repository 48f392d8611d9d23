"""Weight-only int8 quantisation of linear layers, with one scale per output.

A decoding step reads a quarter of the float32 bytes.

Inputs and sums keep their dtype. Only the trunk and the output table are quantised, because they run once per code. Embeddings,
conditions and norms do not change.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from priors.transformer.linear import Function, Linear

FEW = 8  # largest number of rows for torch's int8 product on a CPU (the input width must be a multiple of 16)
FEW_ON_GPU = 16  # largest number of rows for the Triton kernel; more rows use a plain matrix product


@functools.cache
def product_on_gpu(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Return the Triton kernel of `int8_kernel.py` after a check against an exact product.

    If the kernel fails or its results are wrong, print a line and return None.
    """
    x = torch.linspace(-1, 1, 3 * 80, device=device).view(3, 80).to(dtype)
    w = (torch.arange(48 * 80, device=device) % 255 - 127).to(torch.int8).view(48, 80)
    scale = torch.linspace(0.5, 1, 48, device=device).to(dtype)
    exact = (x.double() @ w.double().t()) * scale.double()
    try:
        from priors.autoregressive.int8_kernel import int8_product

        if (int8_product(x, w, scale) - exact).abs().max() < 0.01 * exact.abs().max():
            return int8_product
        reason = "its results differ from an exact product"
    except Exception as error:  # the import, the compiler or the driver may fail
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    print(
        f"no kernel for int8 weights on {device} ({reason}): the weights are converted in each step, which is slower",
        file=sys.stderr,
    )
    return None


class Int8Linear(nn.Module):
    """y = x (w scale) + b. The int8 weight w has shape (out, in), and there is one scale per output."""

    w: Tensor
    scale: Tensor
    b: Tensor | None

    def __init__(self, weight: Float[Tensor, "o i"], b: Float[Tensor, " o"] | None):
        super().__init__()
        scale = (weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127).to(weight.dtype)
        w = (weight.float() / scale.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("w", w.to(torch.int8).contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("b", b)

    after = Linear.after

    def forward(self, x: Float[Tensor, "... i"], before: Function | None = None, *given: Tensor) -> Float[Tensor, "... o"]:
        """Apply the layer to x, or to before(x, *given)."""
        x = x if before is None else before(x, *given)
        b, rows = self.b, x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(rows) <= FEW and rows.shape[1] % 16 == 0:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.w, self.scale)
            return (y if b is None else y + b).view(*x.shape[:-1], y.shape[-1])
        if x.device.type != "cpu" and len(rows) <= FEW_ON_GPU and (product := product_on_gpu(x.device, x.dtype)):
            y = product(rows.contiguous(), self.w, self.scale).view(*x.shape[:-1], len(self.w))
            return y if b is None else y + b.to(x.dtype)
        y = F.linear(x, self.w.to(x.dtype)) * self.scale.to(x.dtype)  # every dtype represents int8 exactly
        return y if b is None else y + b.to(x.dtype)


def quantise(module: nn.Module) -> None:
    """Quantise every `Linear` layer in a module to int8, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, Int8Linear(child.w.t(), child.b))
