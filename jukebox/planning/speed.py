"""Measure the decoding speed of this machine in half a second, before any model is loaded.

`Speed` (jukebox/planning/sampling.py) has three numbers:

    layer       fixed seconds per layer, from sampling steps of narrow priors of two depths
    bandwidth   bytes per second at which a few rows read the matrices, from sampling steps of a wide prior
    products    operations per second of a large matrix product, as in a prefill

The matrices of the wide prior have the size of the model's matrices, up to a limit. Smaller matrices would fit into the cache
of the processor and would be read faster.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from jukebox.model.folder import hollow
from jukebox.planning.sampling import Speed
from priors.autoregressive.config import AutoregressiveConfig, AutoregressiveParams
from priors.conditioning.conditions import Conditions
from priors.noise import Generators
from priors.prior import HasTrunk, Known, Window
from priors.transformer.config import LOCAL, TrunkConfig

MOST = 128_000_000  # largest number of bytes of matrices that are read
SECONDS = 0.05  # time per measurement, which has at least two calls
WIDTH, ROWS = 1024, 512  # size of large products


def measure(device: str, dtype: str, rows: int, matrices: int, compiled: bool) -> Speed:
    """Measure the speed of a device for a model with matrices of `matrices` bytes that decodes `rows` rows in parallel.

    compiled: whether sampling steps are compiled
    """
    stored = torch.bfloat16 if dtype == "int8" else getattr(torch, dtype)  # int8 is assumed to have the bandwidth of bfloat16
    depth = max(1, min(matrices, MOST) // (_numbers(_trunk(WIDTH, 1)) * stored.itemsize))
    return _measure(device, stored, rows, depth, torch.get_num_threads(), compiled)


@functools.lru_cache
@torch.no_grad()
def _measure(device: str, dtype: torch.dtype, rows: int, depth: int, threads: int, compiled: bool) -> Speed:
    few, many = (_step_seconds(_trunk(64, layers), device, dtype, rows, compiled) for layers in (3, 15))
    layer = max(1e-7, (many - few) / 12)
    wide = _trunk(WIDTH, depth)
    reading = _step_seconds(wide, device, dtype, rows, compiled) - few - (depth - 3) * layer
    bandwidth = _numbers(wide) * dtype.itemsize / max(reading, 1e-7)
    x, w = (torch.ones(n, WIDTH, device=device, dtype=dtype) for n in (ROWS, WIDTH))
    return Speed(bandwidth, 2 * ROWS * WIDTH * WIDTH / _seconds(lambda: x @ w, device), layer)


def _trunk(width: int, depth: int) -> TrunkConfig:
    return TrunkConfig(64, width, depth, order=LOCAL, blocks=8)


def _numbers(trunk: TrunkConfig) -> int:
    return sum(rows * columns for rows, columns in trunk.products())


def _step_seconds(trunk: TrunkConfig, device: str, dtype: torch.dtype, rows: int, compiled: bool) -> float:
    """Measure the seconds per sampling step of a prior with this trunk and constant weights."""
    prior = hollow(AutoregressiveConfig("vq.0", 64, 8, 22050, trunk)).to_empty(device=device).to(dtype)
    for parameter in prior.parameters():
        parameter.fill_(0.01)
    assert isinstance(prior, HasTrunk)
    prior.compiled, prior.block = compiled, 1
    known = Known.prefix("vq.0", torch.zeros(rows, 0, dtype=torch.long, device=device), trunk.n_ctx)
    noise = Generators([torch.Generator() for _ in range(rows)])
    window = Window(0, trunk.n_ctx, trunk.n_ctx)
    codes = prior.sample(prior.start(window, known, Conditions(), noise, {"vq.0": AutoregressiveParams()}))
    next(codes)  # the prefill has computed the logits of the first step
    return _seconds(lambda: next(codes), device, trunk.n_ctx - 2)


def _seconds(function: Callable[[], object], device: str, most: int = 1000) -> float:
    """Shortest time of one call in seconds. Calls repeat for SECONDS, at least twice and at most `most` times."""

    def done() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    best, end, calls = float("inf"), time.perf_counter() + SECONDS, 0
    while calls < 2 or (time.perf_counter() < end and calls < most):
        began = done()
        function()
        best, calls = min(best, done() - began), calls + 1
    return best
