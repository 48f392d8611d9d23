"""Measure the decoding speed of this machine in half a second, before any model is loaded.

`Speed` (jukebox/planning/sampling.py) has three numbers. All are measured by sampling from small priors. They are the fixed cost of a
layer, from two depths; the rate at which matrices are read for a few rows, from a wide prior; the rate of large products, as in
a prefill. The matrices together are as large as the model's own, up to a limit, because what fits into a processor's cache is
read faster.
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

MOST = 128_000_000  # bytes of matrices that are read
SECONDS = 0.05  # time per measurement, at least two calls
WIDTH, ROWS = 1024, 512  # of large products


def measure(device: str, dtype: str, rows: int, matrices: int, compiled: bool) -> Speed:
    """The speed of a device for `rows` decoded in parallel by a model of so many bytes of `matrices`, its steps compiled or not."""
    stored = torch.bfloat16 if dtype == "int8" else getattr(torch, dtype)  # int8 is assumed to be read as fast
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
    """Seconds that a small prior with this trunk takes per step of sampling; its weights are meaningless."""
    prior = hollow(AutoregressiveConfig("vq.0", 64, 8, 22050, trunk)).to_empty(device=device).to(dtype)
    for parameter in prior.parameters():
        parameter.fill_(0.01)
    assert isinstance(prior, HasTrunk)
    prior.compiled, prior.block = compiled, 1
    known = Known.prefix("vq.0", torch.zeros(rows, 0, dtype=torch.long, device=device), trunk.n_ctx)
    noise = Generators([torch.Generator() for _ in range(rows)])
    window = Window(0, trunk.n_ctx, trunk.n_ctx)
    codes = prior.sample(prior.start(window, known, Conditions(), noise, {"vq.0": AutoregressiveParams()}))
    next(codes)  # its logits come with the start of the window
    return _seconds(lambda: next(codes), device, trunk.n_ctx - 2)


def _seconds(function: Callable[[], object], device: str, most: int = 1000) -> float:
    """Seconds of one call: the best of those that fit into SECONDS, at least two and at most `most`."""

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
