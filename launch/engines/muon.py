"""Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): an optimiser that orthogonalises the
momentum of each matrix.

The update is scaled to the RMS of an update of AdamW (Liu et al. 2025, arXiv:2502.16982). So learning rates of Muon and AdamW
have the same order of magnitude. The scale does not depend on the layout of a matrix: (in, out) as here, or (out, in). The
class torch.optim.Muon has the same update, but always in bf16. On processors without bf16 units, bf16 would take half of the
training time. So float32 is used there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from launch.engines.speed import has_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a quintic polynomial; five iterations map singular values to about 1
ROUNDS = 5


def orthogonalised(matrices: Sequence[Float[Tensor, "m n"]], dtype: torch.dtype) -> list[Float[Tensor, "m n"]]:
    """Approximate the nearest semi-orthogonal matrix of each matrix by Newton-Schulz iterations.

    Matrices of the same shape, transposed or not, are computed as a batch.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[tuple(sorted(matrix.shape))].append(i)
    made = list(matrices)
    for places in alike.values():
        wide = [matrices[i] if matrices[i].shape[0] <= matrices[i].shape[1] else matrices[i].T for i in places]
        for i, x in zip(places, _newton_schulz(torch.stack(wide).to(dtype)), strict=True):
            made[i] = (x if matrices[i].shape == x.shape else x.T).to(matrices[i].dtype)
    return made


def _newton_schulz(x: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    a, b, c = COEFFICIENTS
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]  # singular values at most 1
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; ValueError for parameters that are not matrices."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if flat := [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]:
            raise ValueError(f"Muon trains matrices, and here are parameters of shapes {flat}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            updates = [self._momentum(p, group["momentum"]) for p in moved]
            dtype = torch.bfloat16 if moved and has_bf16(moved[0].device) else torch.float32
            for p, update in zip(moved, orthogonalised(updates, dtype), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))
        return loss

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        buffer = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
