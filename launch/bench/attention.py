"""Memory of attention in training: `jukebox bench attention`.

A case is the forward and backward pass of one layer. The cases are all patterns of published models, and windows of 1,024 to
8,192 steps in blocks of 64. Each case has a fresh process. The result is its peak memory minus the memory before the pass. From
the shortest to the longest window, quadratic growth is 64-fold and linear growth 8-fold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from data_prep.errors import UserError
from launch.bench.alternate import forget_peak, peak_mb, write_rows

PATTERNS = ("row", "column", "previous_row", "dense", "prime", "cross")
LENGTHS = (1024, 2048, 4096, 8192)
WIDTH, HEADS, BLOCK, LYRIC_TOKENS, BATCH = 512, 8, 64, 512, 2


def bench_attention(
    threads: int, out: str, device: str, patterns: Sequence[str] = PATTERNS, lengths: Sequence[int] = LENGTHS
) -> list[dict[str, Any]]:
    """Return the rows of the table, one per pattern and precision, with MiB by length. Print them during the measurement."""
    print(f"memory of one training step of attention, MiB; width {WIDTH}, {HEADS} heads, blocks of {BLOCK}, batch {BATCH}")
    print(f"{'pattern':<14}{'precision':<11}" + "".join(f"{n:>8}" for n in lengths) + f"{'last/first':>12}")
    rows = []
    for precision in ("float32", "bf16"):
        for pattern in patterns:
            job = {"pattern": pattern, "precision": precision, "threads": threads, "device": device}
            mb = [_in_fresh_process({**job, "length": length}) for length in lengths]
            rows.append({"pattern": pattern, "precision": precision, "lengths": list(lengths), "mb": mb})
            line = "".join(f"{x:>8.1f}" for x in mb)
            print(f"{pattern:<14}{precision:<11}{line}{mb[-1] / mb[0]:>12.1f}", flush=True)
    return write_rows(rows, out)


def _in_fresh_process(job: dict[str, Any]) -> float:
    command = [sys.executable, "-m", "launch.bench.attention", json.dumps(job)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc then returns freed tensors to the system immediately
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env)
    if result.returncode:
        raise UserError("a process of the bench ended early; its own message is above")
    return float(result.stdout)


def main(job: dict[str, Any]) -> float:
    """Return the MiB that a forward and a backward pass of one layer need, without the layer and its input."""
    import torch

    from priors.transformer.attention import Attention

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    layer = Attention(WIDTH, WIDTH, HEADS, job["pattern"], block=BLOCK, prime=LYRIC_TOKENS).to(device)

    def step(length: int, batch: int) -> float:
        x = torch.randn(batch, length, WIDTH, requires_grad=True, device=device)
        lyric_tokens = torch.randn(batch, LYRIC_TOKENS, WIDTH, device=device) if layer.cross else None
        forget_peak()
        before = peak_mb()
        with torch.autocast(device.type, torch.bfloat16, enabled=job["precision"] == "bf16"):
            y = layer(x, lyric_tokens)
        y.backward(torch.ones_like(y))
        return peak_mb() - before

    step(2 * BLOCK, 1)  # a warm-up, because the first call loads libraries
    return step(job["length"], BATCH)


if __name__ == "__main__":
    print(main(json.loads(sys.argv[1])))
