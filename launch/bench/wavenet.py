"""Sampling speed of a WaveNet by full passes, from ring buffers, and by compiled steps: `jukebox bench wavenet`.

The weights are random. The sides run alternately in one process, and must all sample the same codes. `naive` computes the whole
receptive field for each sample, as in training. `cached` computes one step from the ring buffers in torch. `compiled` does the
same in C++ (on a GPU: as a CUDA graph), as runs do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_prep.errors import UserError
from launch.bench.alternate import wait_for_gpu, write_rows
from priors.conditioning.conditions import Conditions
from priors.logits import draw
from priors.noise import Generators
from priors.prior import Known, Window
from priors.wavenet.config import StackConfig, WaveNetConfig, WaveNetParams
from priors.wavenet.model import WaveNetPrior
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig

STACKS = (StackConfig(8, 1), StackConfig(10, 2), StackConfig(10, 3, 128, 128, 128))
SAMPLES = {"naive": 4, "cached": 200, "compiled": 4000}  # number of samples in a run of each side


class SideRun(NamedTuple):
    """The codes of one run of a side, and the seconds that it took."""

    codes: Tensor
    seconds: float


def bench_wavenet(
    repeats: int, threads: int, seed: int, out: str, device: str, stacks: Sequence[StackConfig] = STACKS
) -> list[dict[str, Any]]:
    """Return one row per stack with the samples per second of each side (medians over turns) and ratios of the same turn."""
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected at least 1")
    if threads:
        torch.set_num_threads(threads)
    print(f"{device}, {torch.get_num_threads()} CPU threads, float32; samples per second, medians of {repeats} turns")
    heads = ("field", "undilated", *SAMPLES, "cached/naive", "compiled/cached")
    print(f"{'stack':>9}" + "".join(f"{head:>{len(head) + 4}}" for head in heads))
    return write_rows([_row(stack, repeats, seed, device) for stack in stacks], out)


def _row(stack: StackConfig, repeats: int, seed: int, device: str) -> dict[str, Any]:
    torch.manual_seed(seed)
    rate = MuLawConfig().sample_rate
    config = WaveNetConfig(MULAW, BINS, 1, rate, 64 * (-(-stack.receptive_field // 64) + 64), SILENCE, stack, 64)
    prior = WaveNetPrior(config).eval().to(device)
    known = torch.randint(BINS, (1, stack.receptive_field), device=device)
    sides: dict[str, Callable[[], SideRun]] = {
        "naive": lambda: _naive(prior, known, seed),
        **{side: lambda side=side: _cached(prior, known, seed, side) for side in ("cached", "compiled")},
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats + 1):  # the first turn is a warm-up
        made = {side: sides[side]() for side in list(sides)[:: 1 if turn % 2 else -1]}
        for side, (codes, seconds) in made.items():
            shared = min(codes.shape[1], made["compiled"].codes.shape[1])
            if not torch.equal(codes[:, :shared], made["compiled"].codes[:, :shared]):
                raise RuntimeError(f"{side} steps of a receptive field of {stack.receptive_field} draw other codes")
            rates[side] += [codes.shape[1] / seconds] * (turn > 0)
    row = {
        "depth": stack.depth, "channels": stack.channels, "receptive_field": stack.receptive_field,
        "undilated_receptive_field": stack.depth * (stack.kernel - 1) + 1,
        **{f"{side}_samples_per_second": statistics.median(each) for side, each in rates.items()},
        "cached_over_naive": statistics.median(a / b for a, b in zip(rates["cached"], rates["naive"])),
        "compiled_over_cached": statistics.median(a / b for a, b in zip(rates["compiled"], rates["cached"])),
        "threads": torch.get_num_threads(), "device": device, "torch": torch.__version__,
    }  # fmt: skip
    values, widths = list(row.values())[2:9], (9, 13, *(len(side) + 4 for side in SAMPLES), 16, 19)
    print(f"{stack.depth:>4} x {stack.channels:<3}" + "".join(f"{v:>{w}.4g}" for v, w in zip(values, widths)), flush=True)
    return row


def _cached(prior: WaveNetPrior, known: Tensor, seed: int, side: str) -> SideRun:
    """Sample from ring buffers after the known samples. The pass over the known samples is not timed."""
    n = min(SAMPLES[side], prior.config.n_ctx - known.shape[1])
    prior.compiled = side == "compiled"
    noise, window = Generators([torch.Generator().manual_seed(seed)]), Window(0, known.shape[1] + n, prior.config.n_ctx)
    state = prior.start(window, Known.prefix(MULAW, known, window.length), Conditions(), noise, {MULAW: WaveNetParams()})
    wait_for_gpu()
    began = time.perf_counter()
    codes = torch.cat([values for _, _, values in prior.sample(state)], dim=1)
    wait_for_gpu()
    return SideRun(codes, time.perf_counter() - began)


@torch.no_grad()
def _naive(prior: WaveNetPrior, known: Tensor, seed: int) -> SideRun:
    """Sample after the known samples. Each sample needs a pass over the receptive field, with only the last logits."""
    numbers = torch.rand(SAMPLES["naive"], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    conditioning, codes, field = prior.encode_conditions(Conditions(), 1), known, prior.config.memory
    assert conditioning.steps is not None
    wait_for_gpu()
    began = time.perf_counter()
    for number in numbers.to(known.device):
        skips = prior.stack(prior.x_emb(codes[:, -field:]), conditioning.steps, prior.config.frame)[:, -1]
        codes = torch.cat([codes, draw(prior.head(skips), number[None], WaveNetParams())[:, None]], dim=1)
    wait_for_gpu()
    return SideRun(codes[:, known.shape[1] :], time.perf_counter() - began)
