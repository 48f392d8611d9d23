"""Decoding speed, compared with transformers' port of the published model: `jukebox bench sample` without a MODEL.

Both sides have the same random weights of one top prior in the published layout, which the importer converts from the peer. Our
side runs in float32 and in other dtypes, with compiled steps if this machine has a compiler. The peer has float32 only. Each
side has one process, and the sides run the cases alternately. The table also has the rate of the same matrix products alone in
torch's fastest form. It also compares the bytes of weights read per second with those of a plain sum over memory.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.bench.alternate import Side, best_seconds, check_sides, in_turn, median_cpu, median_ratio, serve, walls, write_rows
from launch.bench.prior import PEER, SHAPE, _conditions, _config, _make_job

if TYPE_CHECKING:
    import torch

    from jukebox.model.folder import ModelFolder
    from priors.autoregressive.model import AutoregressivePrior
    from priors.autoregressive.state import DecodeState
    from priors.conditioning.conditions import Conditions

DTYPES = ("float32", "bfloat16", "int8")


class Case(NamedTuple):
    name: str
    batch: int
    prime: int
    tokens: int


CASES = (
    Case("first 512", 1, 0, 512),
    Case("512 after 1,536", 1, 1536, 512),  # the time includes the prefill of the prompt
    Case("1 after 1,024", 1, 1024, 1),
    Case("batch 16, 256", 16, 0, 256),
)


def bench_sample(
    peer: str, repeats: int, threads: int, seed: int, out: str, device: str, shape: Mapping[str, Any] = SHAPE,
    cases: Sequence[Case] = CASES,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of the table, one per case and dtype. The peer is skipped if its python is not given."""
    import torch

    check_sides(peer, repeats, device)
    threads = threads or torch.get_num_threads()
    print(f"codes of a prior of width {shape['prior_width']}, depth {shape['prior_depth']}, n_ctx {shape['n_ctx']}, {device}, "
          f"{threads} threads, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        job = _make_job(Path(folder), shape, threads, seed, peer, device)
        command = [sys.executable, "-m", "launch.bench.sample"]
        sides = {dtype: Side(command, {**job, "dtype": dtype}) for dtype in DTYPES}
        if peer:
            sides["peer"] = Side([peer, PEER], {**job, "sample": True})
        times = {case: in_turn(sides, repeats, json.dumps(case._asdict())) for case in cases}
        reports = {name: side.close() for name, side in sides.items()}
    rows = [_row(case, dtype, times[case], reports, threads) for case in cases for dtype in DTYPES]
    _print_rows(rows, reports)
    return write_rows(rows, out)


def _row(case: Case, dtype: str, times: Mapping[str, Any], reports: Mapping[str, Any], threads: int) -> dict[str, Any]:
    ours, report = times[dtype], reports[dtype]
    seconds = statistics.median(walls(ours))
    row: dict[str, Any] = {
        **case._asdict(), "dtype": dtype, "compiled": report["compiled"], "threads": threads, "walls": walls(ours), "seconds": seconds,
        "cpu": median_cpu(ours), "codes_per_second": case.batch * case.tokens / seconds,
        "products_codes_per_second": case.batch / report["products"][str(case.batch)], "peak_mb": report["peak_mb"],
    }  # fmt: skip
    if case.prime == 0:
        row["share"] = row["codes_per_second"] / row["products_codes_per_second"]
        row["read_gb_per_second"] = report["weights_mb"] / 1e3 * case.tokens / seconds
    if "peer" in times:
        theirs = times["peer"]
        row |= {
            "peer_walls": walls(theirs), "peer_codes_per_second": case.batch * case.tokens / statistics.median(walls(theirs)),
            "peer_cpu": median_cpu(theirs), "peer_peak_mb": reports["peer"]["peak_mb"], "ratio": median_ratio(ours, theirs),
        }  # fmt: skip
    return row


def _print_rows(rows: Sequence[Mapping[str, Any]], reports: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'case':<17}{'dtype':<10}{'codes/s':>9}{'CPU s':>7}{'products':>10}{'share':>7}{'GB/s':>6}"
          + f"{'peer':>8}{'CPU s':>7}{'ratio':>7}" * ("ratio" in rows[0]))  # fmt: skip
    for row in rows:
        line = f"{row['name']:<17}{row['dtype']:<10}{row['codes_per_second']:>9.1f}{row['cpu']:>7.2f}"
        if "share" in row:
            line += f"{row['products_codes_per_second']:>10.0f}{row['share']:>7.0%}{row['read_gb_per_second']:>6.1f}"
        if "ratio" in row:
            line = f"{line:<66}{row['peer_codes_per_second']:>8.1f}{row['peer_cpu']:>7.2f}{row['ratio']:>7.2f}"
        print(line)
    for name, report in reports.items():
        line = f"{name}: {report['peak_mb']:.0f} MB at the most over all cases"
        if "reading_gb_per_second" in report:
            line += f"; steps {'compiled' if report['compiled'] else 'plain'}; a sum reads {report['reading_gb_per_second']:.1f} GB/s"
        print(line)


# ---- our side


def main(job: dict[str, Any]) -> None:
    """Run a case for each line on stdin, then measure the limits of the machine."""
    import torch

    from priors.autoregressive import native

    torch.set_num_threads(job["threads"])
    device = job["device"]
    prior = _prior(job).to(device)
    prior.compiled = native.why_not(job["dtype"], device) is None
    one, batches = _conditions(job), {1}

    def run(line: str) -> None:
        case = Case(**json.loads(line))
        batches.add(case.batch)
        cond = one.map(lambda x: x.repeat(case.batch, *[1] * (x.ndim - 1))).to(device)
        prompt = torch.tensor([job["codes"][: case.prime]], dtype=torch.long, device=device).repeat(case.batch, 1)
        for _ in prior.sample(start_window(prior, prompt, cond, case.prime + case.tokens)):
            pass

    def report() -> dict[str, Any]:
        weights, some = _matrices(prior), torch.ones(64_000_000, device=device)
        products = {batch: _products_seconds(weights, batch, job["dtype"]) for batch in batches}
        sizes = {"compiled": prior.compiled, "weights_mb": sum(w.nbytes for w in weights) / 1e6}
        return {"products": products, **sizes, "reading_gb_per_second": some.nbytes / 1e9 / best_seconds(some.sum)}

    serve(run, report)


def start_window(prior: AutoregressivePrior, prompt: torch.Tensor, cond: Conditions, length: int, seed: int = 0) -> DecodeState:
    """Return the state of a window of `length` codes that begins with a prompt. The generator of row i has seed `seed` + i."""
    import torch

    from priors.autoregressive.config import AutoregressiveParams
    from priors.noise import Generators
    from priors.prior import Known, Window

    noise = Generators([torch.Generator().manual_seed(seed + i) for i in range(len(prompt))])
    known = Known.prefix(prior.stream, prompt, length)
    return prior.start(Window(0, length, length), known, cond, noise, {prior.stream: AutoregressiveParams()})


def _prior(job: Mapping[str, Any]) -> AutoregressivePrior:
    """Load the prior in its dtype from a model folder, as other commands do."""
    import torch

    from jukebox.model.folder import ModelFolder
    from jukebox.model.presets import PRESETS
    from priors.autoregressive.model import AutoregressivePrior

    with tempfile.TemporaryDirectory() as folder:
        model = ModelFolder.create(folder, PRESETS["test"].codec)
        prior = AutoregressivePrior(_config(job["shape"]))
        prior.load_state_dict(torch.load(job["ours"], weights_only=True))
        model.save_prior("prior_2", prior)
        again = model.prior("prior_2", job["dtype"])
        assert isinstance(again, AutoregressivePrior)
        return again


def _matrices(prior: AutoregressivePrior) -> list[torch.Tensor]:
    """Return the matrices that a step multiplies with, each (out, in)."""
    import torch

    from priors.autoregressive.int8 import Int8Linear

    found = []
    for block in prior.trunk.blocks:
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            found.append(linear.w if isinstance(linear, Int8Linear) else linear.w.t())
    head = prior.table
    table = head.w if isinstance(head, Int8Linear) else head.weight
    assert isinstance(table, torch.Tensor)
    return [*found, table]


def _products_seconds(weights: Sequence[torch.Tensor], rows: int, dtype: str) -> float:
    """Return the seconds of the matrix products of one step alone, in torch's fastest form."""
    import torch

    like = {"dtype": torch.bfloat16 if dtype == "int8" else weights[0].dtype, "device": weights[0].device}
    inputs = {w.shape[1]: torch.ones(rows, w.shape[1], **like) for w in weights}
    bias = {w.shape[0]: torch.ones(w.shape[0], **like) for w in weights}
    if dtype == "int8" and weights[0].is_cuda:
        forms: list[Callable[[], Any]] = [lambda: [inputs[w.shape[1]] @ w.to(like["dtype"]).t() for w in weights]]
    elif dtype == "int8":
        op = torch.ops.aten._weight_int8pack_mm
        forms = [lambda: [op(inputs[w.shape[1]], w, bias[w.shape[0]]) for w in weights]]
    else:
        forms = []
        for layout in (lambda w: w.contiguous().t(), lambda w: w.t().contiguous()):
            laid = [layout(w) for w in weights]
            forms.append(lambda laid=laid: [torch.addmm(bias[w.shape[1]], inputs[w.shape[0]], w) for w in laid])
    return min(map(best_seconds, forms))


# ---- bits per code by dtype


def bits_of_dtypes(model: ModelFolder, data: str, device: str, count: int = 48) -> list[dict[str, Any]]:
    """Measure and print the bits per code of every prior over windows of held-out songs, in each dtype."""
    from jukebox.evaluation.figures import window_bits
    from jukebox.evaluation.held_out import PriorWindows, hold_out

    held, rows = hold_out(model, Path(data), 16), []
    for level in reversed(model.info.levels_with_prior):
        name = f"prior_{level}"
        drawn = PriorWindows.draw(model, model.info.priors[name].config, held, count, seed=0)
        (codes,), cond = drawn.sequences().values(), drawn.conditions()
        row: dict[str, Any] = {"level": level, "windows": count}
        row |= {dtype: float(window_bits(model.prior(name, dtype).to(device), codes, cond).mean()) for dtype in DTYPES}
        rows.append(row)
        changes = ", ".join(f"{d} {row[d]:.4f} ({row[d] / row['float32'] - 1:+.2%})" for d in DTYPES[1:])
        print(f"level {level}: {row['float32']:.4f} bits per code in float32; {changes}")
    return rows


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
