"""The linear layer: the same result and gradients whether what stands before it is kept or made again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from priors.transformer.linear import LayerNorm, Linear, layer_norm, quick_gelu

BEFORE = {"norm": (layer_norm, 2), "gelu": (quick_gelu, 0)}  # a function and how many vectors it is given


def made(dtype: torch.dtype) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    linear, x = Linear(6, 5, std=0.5).to(dtype), torch.randn(2, 3, 6, dtype=dtype, requires_grad=True)
    linear.b.data.normal_()
    return linear, x


def before(kind: str, dtype: torch.dtype) -> tuple:
    torch.manual_seed(1)
    function, vectors = BEFORE[kind]
    return function, *(torch.randn(6, dtype=dtype, requires_grad=True) for _ in range(vectors))


@pytest.mark.parametrize("kind", BEFORE)
def test_gradients_are_those_of_the_two_in_a_row(kind):
    linear, x = made(torch.float64)
    function, *given = before(kind, torch.float64)
    wanted, weight = [x, *linear.parameters(), *given], torch.randn(2, 3, 5, dtype=torch.float64)
    ours, plain = linear(x, function, *given), linear(function(x, *given))
    assert torch.equal(ours, plain)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), wanted) for y in (ours, plain)), strict=True):
        assert b.abs().max() > 0.01 and (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("kind", BEFORE)
def test_under_autocast_the_product_is_bf16_and_gradients_keep_the_dtype_of_what_they_are_of(kind):
    linear, x = made(torch.float32)
    function, *given = before(kind, torch.float32)
    wanted = [x, *linear.parameters(), *given]
    exact = torch.autograd.grad(linear(function(x, *given)).square().sum(), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear(x, function, *given)
    assert y.dtype == torch.bfloat16
    for a, b in zip(torch.autograd.grad(y.float().square().sum(), wanted), exact, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 0.03 * b.norm()


@pytest.mark.parametrize("kind", BEFORE)
def test_only_what_goes_in_is_kept(kind):
    linear, x = made(torch.float32)
    function, *given = before(kind, torch.float32)

    def bytes_kept(run: Callable[[], object]) -> int:
        kept: dict[int, int] = {}

        def keep(t: torch.Tensor) -> torch.Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with saved_tensors_hooks(keep, lambda t: t):
            result = run()
        del result
        return sum(kept.values())

    needed = sum(t.numel() * 4 for t in (x, linear.w, *given))
    assert bytes_kept(lambda: linear(x, function, *given)) == needed
    assert bytes_kept(lambda: linear(function(x, *given))) >= needed + x.numel() * 4


def test_a_norm_that_is_not_trained_is_left_alone():
    linear, x = made(torch.float32)
    norm = LayerNorm(6).requires_grad_(False)
    linear.after(norm, x).sum().backward()
    assert x.grad is not None and norm.weight.grad is None
    assert torch.equal(linear.after(norm, x), linear(norm(x)))
