"""Training speed of a prior, compared with transformers' port of the published prior: `jukebox bench prior`.

A training step is the forward and backward pass of one top prior in the published layout, without the optimiser. Our side runs
it in float32 and in bf16 autocast, the peer in float32. All have the same random weights, which the importer converts from the
peer. A large matrix product in each precision is timed in the same turns. Its rate is the current speed of the machine, and the
rate of the training step is reported as a share of it. Loss and gradients are compared.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.bench.alternate import Side, check_sides, in_turn, median_cpu, median_ratio, run_peer, serve, walls, write_rows

if TYPE_CHECKING:
    from torch import Tensor

    from priors.autoregressive.config import AutoregressiveConfig
    from priors.conditioning.conditions import Conditions

PEER = Path(__file__).parent / "peers" / "prior.py"
PRECISIONS = ("float32", "bf16")
# published settings (jukebox/model/settings.py) of a top prior of 24.5 M parameters without lyrics
SHAPE: dict[str, Any] = {
    "level": 2, "sr": 44100, "n_ctx": 2048, "prior_width": 512, "prior_depth": 24, "heads": 8, "blocks": 32,
    "attn_order": 2, "merged_decoder": True, "y_bins": (120, 4111), "t_bins": 128, "max_bow_genre_size": 5,
    "min_duration": 0.0, "max_duration": 600.0,
}  # fmt: skip
BINS, SQUARE = 2048, 2048  # number of codes; rows and columns of the matrices of the large product


def bench_prior(
    peer: str, repeats: int, threads: int, seed: int, out: str, device: str, shape: Mapping[str, Any] = SHAPE
) -> list[dict[str, Any]]:
    """Return the rows of the table, one per precision. The peer is skipped if its python is not given."""
    import torch

    check_sides(peer, repeats, device)
    threads = threads or torch.get_num_threads()
    print(f"a training step of a prior of width {shape['prior_width']}, depth {shape['prior_depth']}, n_ctx {shape['n_ctx']}, "
          f"batch 1, {device}, {threads} threads, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        job = _make_job(Path(folder), shape, threads, seed, peer, device)
        command = [sys.executable, "-m", "launch.bench.prior"]
        sides = {p: Side(command, {**job, "precision": p, "out": f"{folder}/{p}.pt"}) for p in PRECISIONS}
        sides |= {f"{p} product": Side(command, {**job, "precision": p, "product": True}) for p in PRECISIONS}
        if peer:
            sides["peer"] = Side([peer, PEER], {**job, "out": f"{folder}/peer.pt"})
        times, reports = in_turn(sides, repeats), {name: side.close() for name, side in sides.items()}
        rows = [_row(precision, shape, times, reports, Path(folder)) for precision in PRECISIONS]
    _print_rows(rows)
    return write_rows(rows, out)


def _config(shape: Mapping[str, Any]) -> AutoregressiveConfig:
    from jukebox.model.settings import prior_config

    return prior_config(shape, {"l_bins": BINS, "downs_t": (3, 2, 2), "strides_t": (2, 2, 2)})


def _make_job(folder: Path, shape: Mapping[str, Any], threads: int, seed: int, peer: str, device: str) -> dict[str, Any]:
    """Return the input of every side: the shape, a window of random codes with labels, and files of the same weights."""
    import torch

    from priors.autoregressive.model import AutoregressivePrior

    rng, n_ctx = random.Random(seed), shape["n_ctx"]
    job: dict[str, Any] = {
        "shape": dict(shape), "bins": BINS, "threads": threads, "device": device, "codes": [rng.randrange(BINS) for _ in range(n_ctx)],
        "timing": [100 * shape["sr"], 0, n_ctx * 128], "artist": 10, "genres": [1] + [-1] * (shape["max_bow_genre_size"] - 1),
        "weights": str(folder / "peer_weights.pt"), "ours": str(folder / "our_weights.pt"),
    }  # fmt: skip
    if peer:
        run_peer(peer, PEER, {**job, "make": job["weights"]})
        state = _from_port(torch.load(job["weights"], weights_only=True), _config(shape))
    else:
        torch.manual_seed(seed)
        state = AutoregressivePrior(_config(shape)).state_dict()
    torch.save(state, job["ours"])
    return job


def _from_port(tensors: Mapping[str, Tensor], config: AutoregressiveConfig) -> dict[str, Tensor]:
    from jukebox.importers.hf_port import published_prior_name
    from jukebox.importers.prior_keys import from_published

    return from_published({published_prior_name(name): tensor for name, tensor in tensors.items()}, config)


def _row(
    precision: str, shape: Mapping[str, Any], times: Mapping[str, Any], reports: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    ours, product, report = times[precision], times[f"{precision} product"], reports[precision]
    seconds = statistics.median(walls(ours))
    rate, machine = report["flops"] / seconds, 2 * SQUARE**3 / statistics.median(walls(product))
    row: dict[str, Any] = {
        "precision": precision, "walls": walls(ours), "seconds": seconds, "cpu": median_cpu(ours),
        "tokens_per_second": shape["n_ctx"] / seconds, "gflops_per_step": report["flops"] / 1e9,
        "gflops_per_second": rate / 1e9, "product_gflops_per_second": machine / 1e9, "share": rate / machine,
        "peak_mb": report["peak_mb"], "loss": report["loss"],
    }  # fmt: skip
    if "peer" in times:
        theirs = times["peer"]
        row |= {
            "peer_walls": walls(theirs), "peer_seconds": statistics.median(walls(theirs)), "peer_cpu": median_cpu(theirs),
            "peer_peak_mb": reports["peer"]["peak_mb"], "peer_loss": reports["peer"]["loss"],
            "ratio": median_ratio(ours, theirs), "memory_ratio": report["peak_mb"] / reports["peer"]["peak_mb"],
            "gradients_apart": _gradients_apart(folder, precision, _config(shape)),
        }  # fmt: skip
    return row


def _gradients_apart(folder: Path, precision: str, config: AutoregressiveConfig) -> float:
    """Return the norm of the difference of both sides' gradients, relative to the norm of the peer's gradients."""
    import torch

    ours = torch.load(folder / f"{precision}.pt", weights_only=True)
    theirs = _from_port(torch.load(folder / "peer.pt", weights_only=True), config)
    apart = sum((ours[name].double() - g.double()).square().sum() for name, g in theirs.items())
    return float((apart / sum(g.double().square().sum() for g in theirs.values())) ** 0.5)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'':<10}{'tokens/s':>9}{'s':>7}{'CPU s':>7}{'GFLOP/s':>9}{'product':>9}{'share':>7}{'MB':>7}")
    for row in rows:
        rates = f"{row['gflops_per_second']:>9.0f}{row['product_gflops_per_second']:>9.0f}{row['share']:>7.0%}"
        _print_row(row["precision"], row["tokens_per_second"], row["seconds"], row["cpu"], rates, row["peak_mb"])
    if "peer_seconds" in (first := rows[0]):
        tokens = first["tokens_per_second"] * first["seconds"] / first["peer_seconds"]
        _print_row("peer", tokens, first["peer_seconds"], first["peer_cpu"], "", first["peer_peak_mb"])
        for row in rows:
            print(
                f"{row['precision']}: {row['ratio']:.2f} times as fast as the peer in float32, {row['memory_ratio']:.2f} of its "
                f"memory; loss {row['loss']:.4f} and {row['peer_loss']:.4f}, gradients apart by {row['gradients_apart']:.1e}"
            )


def _print_row(name: str, tokens: float, seconds: float, cpu: float, rates: str, mb: float) -> None:
    print(f"{name:<10}{tokens:>9.0f}{seconds:>7.2f}{cpu:>7.2f}{rates:>25}{mb:>7.0f}", flush=True)


# -------------------- our sides


def main(job: dict[str, Any]) -> None:
    """One of our sides: training steps in one precision, or the large product alone."""
    import torch

    torch.set_num_threads(job["threads"])
    if job.get("product"):
        dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
        a, b = (torch.randn(SQUARE, SQUARE, dtype=dtype, device=job["device"]) for _ in range(2))
        serve(lambda _: a @ b, dict)
    else:
        _serve_steps(job)


def _serve_steps(job: Mapping[str, Any]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from priors.autoregressive.model import AutoregressivePrior
    from priors.prior import Batch

    prior, device = AutoregressivePrior(_config(job["shape"])), torch.device(job["device"])
    prior.load_state_dict(torch.load(job["ours"], weights_only=True, mmap=True))
    prior.to(device)
    batch = Batch({prior.stream: torch.tensor([job["codes"]])}, _conditions(job)).to(device)
    made: list[float] = []

    def step(_: str = "") -> None:
        prior.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=job["precision"] == "bf16"):
            loss = prior.loss(batch)["loss"]
        loss.backward()
        made[:] = [loss.item()]

    def report() -> dict[str, Any]:
        torch.save({name: p.grad.cpu() for name, p in prior.named_parameters() if p.grad is not None}, job["out"])
        with FlopCounterMode(display=False) as counter:
            step()
        return {"loss": made[0], "flops": counter.get_total_flops()}

    serve(step, report)


def _conditions(job: Mapping[str, Any]) -> Conditions:
    import torch

    from priors.conditioning.conditions import Conditions

    artist, genres, timing = (torch.tensor([job[name]]) for name in ("artist", "genres", "timing"))
    return Conditions(artist, genres, timing)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
