"""The peak memory of real training steps compared with their plan.

    python -m tests.train_peak WIDTH DEPTH N_CTX ROWS [bf16] [recompute] [local]

A process of its own trains a prior of that shape for three steps with the engine of one process. The measurement is the
kernel's peak (VmHWM) minus the memory after steps of a tiny prior, which load torch's libraries. The C library is configured to
return freed memory; by default it keeps large blocks, which adds 50 % of unused resident memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from jukebox.model.presets import find
from jukebox.model.recipe import Recipe
from priors.autoregressive.config import AutoregressiveConfig
from priors.transformer.config import ORDERS


def config_of(width: int, depth: int, n_ctx: int, *flags: str) -> AutoregressiveConfig:
    """The demo's top prior in another size; `local`: published patterns and no lyrics."""
    prior = find("demo").priors["prior_2"].for_corpus(5, 4)
    assert isinstance(prior, AutoregressiveConfig)
    trunk = replace(prior.trunk, width=width, depth=depth, n_ctx=n_ctx, recompute="recompute" in flags)
    if "local" in flags:
        trunk = replace(trunk, order=ORDERS[2], blocks=n_ctx // 32, time_bias=False, m_attn=0.25, m_mlp=1.0)
        return replace(prior, trunk=trunk, lyrics=None)
    return replace(prior, trunk=trunk)


def train_steps(width: int, depth: int, n_ctx: int, rows: int, *flags: str) -> float:
    """Bytes that three steps of training add to this process at most."""
    import torch

    from jukebox.model.folder import build_prior
    from launch.bench.alternate import forget_peak, peak_mb
    from launch.engines.engine import TorchEngine
    from priors.conditioning.conditions import Conditions, Lyrics
    from priors.prior import Batch

    config = config_of(width, depth, n_ctx, *flags)
    forget_peak()
    before = peak_mb()
    prior = build_prior(config)
    engine = TorchEngine(prior, Recipe(10, rows, 1e-4, bf16="bf16" in flags), torch.device("cpu"))
    codes = torch.zeros(rows, n_ctx, dtype=torch.long)
    words = Lyrics(torch.ones(rows, config.n_tokens, dtype=torch.long), torch.zeros(rows, config.n_tokens))
    batch = Batch({config.stream: codes}, Conditions(lyrics=words if config.lyrics else None))
    for step in range(3):
        engine.step(prior.loss, [batch], step)
    return (peak_mb() - before) * 2**20


if __name__ == "__main__":
    if sys.argv[1] == "--here":
        shape = [int(n) for n in sys.argv[2:6]]
        train_steps(32, 2, 64, 1)
        print(train_steps(*shape, *sys.argv[6:]))
    else:
        from jukebox.planning.training import Training, memory

        width, depth, n_ctx, rows = (int(n) for n in sys.argv[1:5])
        flags = sys.argv[5:]
        command = [sys.executable, "-m", "tests.train_peak", "--here", *sys.argv[1:]]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        params = Training(rows, bf16="bf16" in flags, recompute="recompute" in flags)
        parts = memory(config_of(width, depth, n_ctx, *flags), params, 1, "cpu")
        seen, planned = float(out.stdout.split()[-1]), sum(parts.values())
        print(
            " ".join(sys.argv[1:]) + f": seen {seen / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB ({planned / seen - 1:+.0%})"
        )
        print("   ", {name: f"{size / 1e6:.0f} MB" for name, size in parts.items()})
