"""Count of the operations of a training step, and speed of a matrix product on a device."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 units. Without these units bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack this function: use float32
        return any(bool(known.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """Run `work()`. Return its result and the number of floating-point operations of its matrix products and convolutions.

    Operations of backward passes are included.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        made = work()
    return made, counter.get_total_flops()


@functools.cache
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations per second of a square matrix product on `device`, the best of five runs."""
    on_gpu = device.type == "cuda"
    side, repeats = (8192, 10) if on_gpu else (512, 1)
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        if on_gpu:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, a)
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - started) / repeats)
    return 2 * side**3 / best
