"""Speed and memory of training on ranks: `jukebox bench train`.

The rows are codes per second and memory per rank, by ZeRO stage. The weights, gradients and optimiser of the prior need far
more memory than the activations, so that the effect of ZeRO is visible. Every case is a separate job, started by torchrun. The
cases are one process with torch's engine, then DeepSpeed on one and on two ranks. The peak memory is that of a rank during a
step, minus the memory before the model was built. The table also has the memory between two steps, counted by tensor: weights,
and the optimiser's float32 copies and moments.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from launch.bench.alternate import forget_peak, peak_mb, write_rows

SHAPE = {"width": 512, "depth": 8, "heads": 8, "n_ctx": 256, "bins": 1024, "batch": 4}
CASES = ((1, -1), *((ranks, zero) for ranks in (1, 2) for zero in range(4)))  # (ranks, ZeRO stage or -1: torch's engine)


def bench_train(repeats: int, threads: int, seed: int, out: str, device: str) -> list[dict[str, Any]]:
    """Return the rows of the table, one per number of ranks and stage. They are printed during the measurement."""
    print(f"a training step in float32: width {SHAPE['width']}, depth {SHAPE['depth']}, {SHAPE['batch']} windows of "
          f"{SHAPE['n_ctx']} codes in all; MiB are those of rank 0")  # fmt: skip
    print(f"{'engine':<12}{'ranks':>6}{'codes/s':>9}{'kept':>9}{'peak':>9}")
    rows = []
    for ranks, zero in CASES:
        job = {"ranks": ranks, "zero": zero, "repeats": repeats, "threads": threads or 1, "seed": seed, "device": device}
        row = measured(job)
        rows.append(row)
        name = "torch" if zero < 0 else f"ZeRO {zero}"
        print(
            f"{name:<12}{ranks:>6}{row['codes_per_second']:>9.0f}{row['kept_mb'][0]:>9.0f}{row['peak_mb'][0]:>9.0f}", flush=True
        )
    return write_rows(rows, out)


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a separate job and return its row."""
    from launch.cli.launch import free_port

    with tempfile.TemporaryDirectory() as temporary:
        job = {**job, "out": str(Path(temporary) / "row.json")}
        ranks, port = f"--nproc_per_node={job['ranks']}", f"--master_port={free_port()}"
        start = [sys.executable, "-m", "torch.distributed.run", ranks, port]
        env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run([*start, "-m", "launch.bench.train", json.dumps(job)], env=env, capture_output=True, text=True)
        if not Path(job["out"]).exists():
            raise UserError(f"a job of the bench ended early: {done.stderr.strip().splitlines()[-1:]}")
        return json.loads(Path(job["out"]).read_text())


def main(job: dict[str, Any]) -> None:
    """One rank of a case. Rank 0 writes the row."""
    import torch
    import torch.distributed as dist

    from jukebox.model.recipe import Recipe
    from launch.cluster.group import join, part, who
    from launch.engines.choose import open_engine
    from launch.engines.deepspeed_config import ParallelConfig
    from priors.autoregressive.config import AutoregressiveConfig
    from priors.autoregressive.model import AutoregressivePrior
    from priors.conditioning.conditions import Conditions
    from priors.prior import Batch
    from priors.transformer.config import TrunkConfig

    shape = SHAPE | job.get("shape", {})
    torch.set_num_threads(job["threads"])
    device = torch.device(join(job["device"]))
    recipe = Recipe(steps=100, batch=shape["batch"], lr=1e-4)
    if job["zero"] >= 0:
        from launch.engines.zero import start_deepspeed

        start_deepspeed(device)  # before the measurement, because the memory of its imports does not count
    torch.manual_seed(job["seed"])
    trunk = TrunkConfig(shape["n_ctx"], shape["width"], shape["depth"], shape["heads"], m_attn=1.0, m_mlp=4.0)
    forget_peak()
    before = peak_mb()
    prior = AutoregressivePrior(AutoregressiveConfig("vq.0", shape["bins"], 8, 44_100, trunk))
    parameters = sum(p.numel() for p in prior.parameters())
    engine = open_engine(prior, recipe, device, ParallelConfig(zero=job["zero"]))
    rows = shape["batch"] // engine.world
    codes = torch.randint(shape["bins"], (rows, shape["n_ctx"]), device=device)

    def step(number: int) -> float:
        started = time.perf_counter()
        engine.step(lambda part: prior.loss(Batch({prior.stream: part}, Conditions())), [codes], number)
        return time.perf_counter() - started

    step(0)
    forget_peak()
    seconds = min(step(number + 1) for number in range(job["repeats"]))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_mb() - before
    mine = {"peak_mb": peak, "kept_mb": kept_bytes(engine) / 2**20}
    gathered = [mine] * engine.world
    if engine.world > 1:
        dist.all_gather_object(gathered, mine)
    if who()[0] == 0:
        rate = shape["batch"] * shape["n_ctx"] / seconds
        row = {**job, "parameters": parameters, "seconds": seconds, "codes_per_second": rate}
        row |= {name: [each[name] for each in gathered] for name in mine}
        Path(job["out"]).write_text(json.dumps(row))
    part()


def kept_bytes(engine: Any) -> int:
    """Return the bytes of this rank's weights and optimiser state, including copies of weights. Each storage counts once."""
    import torch

    found = [*engine.model.parameters(), *engine.model.buffers()]
    found += [p.ds_tensor for p in engine.model.parameters() if hasattr(p, "ds_tensor")]
    inner = engine.inner.values() if hasattr(engine, "inner") else itertools.chain(*engine.optimisers.values())
    for optimiser in inner:
        found += list(optimiser.state)
        found += [t for state in optimiser.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}
    return sum(storages.values())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
