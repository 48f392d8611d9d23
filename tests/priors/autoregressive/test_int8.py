"""Products of int8 weights on a GPU: the kernel is the plain product, is used for a few rows, and is checked before."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from priors.autoregressive import int8
from priors.autoregressive.int8 import Int8Linear, product_on_gpu

SHAPES = ((1, 48, 16), (3, 50, 300), (16, 7, 512), (5, 64, 257))  # rows, outputs, inputs
KERNEL = "priors.autoregressive.int8_kernel"


def exact(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.linear(x.double(), w.double()) * scale.double()


def inputs(rows: int, n_out: int, n_in: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(rows)
    x, w = torch.randn(rows, n_in, generator=g), torch.randint(-127, 128, (n_out, n_in), generator=g).to(torch.int8)
    return x.to(dtype), w, (0.01 * torch.rand(n_out, generator=g)).to(dtype)


def largest_errors(dtypes: tuple[torch.dtype, ...], device: str) -> list[float]:
    """Errors of the kernel relative to the largest output."""
    from priors.autoregressive.int8_kernel import int8_product

    found = []
    for given in (inputs(*shape, dtype) for dtype in dtypes for shape in SHAPES):
        y = exact(*given)
        found.append(float((int8_product(*(x.to(device) for x in given)).cpu() - y).abs().max() / y.abs().max()))
    return found


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")
def test_the_interpreted_kernel_equals_the_product_of_the_converted_weights():
    """In a process of its own, for Triton decides when it is imported; it interprets no products of bfloat16."""
    code = f"import torch; from {__name__} import largest_errors; print(max(largest_errors((torch.float32, torch.float16), 'cpu')))"
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    assert float(subprocess.check_output([sys.executable, "-c", code], text=True, env=env)) < 2e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_kernel_equals_the_product_of_the_converted_weights_on_a_gpu():
    assert max(largest_errors((torch.float32,), "cuda")) < 1e-5
    assert max(largest_errors((torch.float16, torch.bfloat16), "cuda")) < 2e-2
    assert product_on_gpu(torch.device("cuda", 0), torch.bfloat16) is not None
    x, w, scale = (x.cuda() for x in inputs(16, 50, 300, torch.bfloat16))
    product = product_on_gpu(x.device, x.dtype)
    assert product is not None
    assert torch.equal(product(x, w, scale)[:5], product(x[:5].contiguous(), w, scale))  # whatever the other rows are


@pytest.mark.parametrize("rows", [1, 16, 17])
def test_a_few_rows_of_a_device_that_is_not_a_cpu_go_to_the_kernel(rows, monkeypatch):
    called = []

    def product(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        called.append(tuple(x.shape))
        return x.new_empty(len(x), len(w))

    monkeypatch.setattr(int8, "product_on_gpu", lambda device, dtype: product)
    linear = Int8Linear(torch.randn(24, 32), torch.zeros(24)).to("meta")
    assert linear(torch.empty(rows, 1, 32, device="meta")).shape == (rows, 1, 24)
    assert called == [(rows, 32)] * (rows <= 16)


@pytest.mark.parametrize(("kernel", "reason"), [
    (SimpleNamespace(int8_product=exact), None),
    (SimpleNamespace(int8_product=lambda x, w, scale: 1.05 * exact(x, w, scale)), "its results differ from an exact product"),
    (SimpleNamespace(int8_product=lambda *_: 1 / 0), "division by zero"),
    (None, "int8_kernel"),  # the import fails
])  # fmt: skip
def test_a_kernel_that_does_not_work_is_not_used_and_one_line_says_why(kernel, reason, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, KERNEL, kernel)
    product_on_gpu.cache_clear()
    found = [product_on_gpu(torch.device("cpu"), torch.float32) for _ in range(2)]
    product_on_gpu.cache_clear()
    error = capsys.readouterr().err
    assert (found[0] is found[1] is None) == (reason is not None)
    assert error.count("\n") == (reason is not None) and (reason or "") in error
