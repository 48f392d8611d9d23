"""Linear layers whose weights are int8 with one scale an output: a quarter of what a decoding step reads in float32.

Weight-only: inputs and sums keep their own dtype. Only the trunk and the head are so (what runs once a code); embeddings,
conditions and norms stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from priors.transformer.linear import Function, Linear

FEW = 8  # rows up to which torch has a faster product over int8 weights on a CPU (it needs inputs in sixteens)


class Int8Linear(nn.Module):
    """y = x (w scale) + b with w (out, in) in int8 and a scale for every output."""

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
        """Of x, or of before(x, *given)."""
        x = x if before is None else before(x, *given)
        b, rows = self.b, x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(rows) <= FEW and rows.shape[1] % 16 == 0:
            y = torch.ops.aten._weight_int8pack_mm(rows, self.w, self.scale)
            return (y if b is None else y + b).view(*x.shape[:-1], y.shape[-1])
        y = F.linear(x, self.w.to(x.dtype)) * self.scale.to(x.dtype)  # int8 is exact in every dtype
        return y if b is None else y + b.to(x.dtype)


def quantise(module: nn.Module) -> None:
    """Bring every linear layer of a trunk inside a module to int8, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, Int8Linear(child.w.t(), child.b))
