"""The linear layer of the trunks. Weights have the published layout, and training saves memory.

A norm or an activation precedes most matrix products. Its output is as large as the residual stream, but cheap to compute.
Autograd would keep both its input and its output. `Linear(x, before)` keeps only the input and recomputes the output in the
backward pass (Chen et al. 2016, "sublinear memory cost"). Matrix products are not recomputed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Function = Callable[..., Tensor]


class _QuickGelu(torch.autograd.Function):
    """x sigmoid(1.702 x). Its derivative is that of silu at 1.702 x, which is one operation of torch instead of five."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (1.702 * x).sigmoid_().mul_(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradients[0], 1.702 * x)


def quick_gelu(x: Tensor) -> Tensor:
    return _QuickGelu.apply(x)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of norms and rotations for a residual stream in `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the layer norm in float32, or in float64 for float64. The result has the dtype of the input."""
    wide = x.to(wide_dtype(x.dtype))
    return F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias.to(wide.dtype)).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """before(x, ...) w + b, or x w + b without `before`. The backward pass keeps x but not before(x, ...)."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, b: Tensor, before: Function | None, *given: Tensor) -> Tensor:
        ctx.before = before
        ctx.save_for_backward(x, w, *given)
        with torch.autocast(x.device.type, enabled=False):
            y = x if before is None else before(x, *given)
            return torch.addmm(b.to(x.dtype), y.flatten(0, -2), w.to(x.dtype)).view(*x.shape[:-1], w.shape[1])

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, w, *given), gradient = ctx.saved_tensors, gradients[0].flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            inputs = [t.detach().requires_grad_() for t in (x, *given)]
            with torch.enable_grad():
                y = inputs[0] if ctx.before is None else ctx.before(*inputs)
            back = (gradient @ w.to(x.dtype).t()).view(x.shape)
            dx, *others = (back,) if ctx.before is None else torch.autograd.grad(y, inputs, back)
            dw = (y.detach().flatten(0, -2).t() @ gradient).to(w.dtype)
            return dx, dw, gradient.sum(0, dtype=w.dtype), None, *others


class Linear(nn.Module):
    """y = x w + b with w stored as (in, out). This is the published layout. It is also faster for a single row on a CPU."""

    def __init__(self, n_in: int, n_out: int, std: float = 0.02):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n_in, n_out) * std if std else torch.zeros(n_in, n_out))
        self.b = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Float[Tensor, "... i"], before: Function | None = None, *given: Tensor) -> Float[Tensor, "... o"]:
        """Apply the layer to x, or to before(x, *given).

        In training without autocast, before(x, *given) is not kept for the backward pass.
        """
        device, grad = x.device.type, torch.is_grad_enabled()
        autocast = grad and torch.is_autocast_enabled(device)  # only with `grad`, because the query raises on the meta device
        # torch.compile chooses what to recompute, and does not accept a function with a custom gradient
        if not grad or (torch.compiler.is_compiling() and not autocast):
            x = x if before is None else before(x, *given)
            y = torch.addmm(self.b.to(x.dtype), x.reshape(-1, x.shape[-1]), self.w.to(x.dtype))
            return y.view(*x.shape[:-1], self.w.shape[1])
        if autocast:  # the output of a norm is kept, because it is half as large as the input of the norm
            x = x if before is None else before(x, *given)
            return _Product.apply(x.to(torch.get_autocast_dtype(device)), self.w, self.b, None)
        return _Product.apply(x, self.w, self.b, before, *given)

    def after(self, norm: LayerNorm | None, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """Apply the layer to norm(x), or to x if `norm` is None."""
        return self(x) if norm is None else self(x, layer_norm, norm.weight, norm.bias)
