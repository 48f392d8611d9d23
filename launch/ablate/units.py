"""Units of an experiment: each trains and measures one thing, once; its words go to a log and its figures are kept.

So an experiment that was stopped goes on with the same command, and several units run side by side, a core each.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from data_prep.errors import keeping
from data_prep.files import write_json

Figures = dict[str, Any]


def once(folder: Path, asked: Figures, work: Callable[[], Figures]) -> Figures:
    """What `work` measured, from `figures.json` where it is there and was asked for with the same numbers."""
    done = folder / "figures.json"
    if done.is_file() and (kept := json.loads(done.read_text(encoding="utf-8")))["asked"] == asked:
        return kept
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        write_json(done, {"asked": asked, **work()})
    return json.loads(done.read_text(encoding="utf-8"))


def seed_folders(data: str, model: str, seed: int) -> tuple[Path, Path]:
    """The folders of a seed, whose number stands for `{seed}` in their names."""
    return Path(data.replace("{seed}", str(seed))), Path(model.replace("{seed}", str(seed)))


def train_whole(*given: Any, **options: Any) -> None:
    """`launch.training.loop.fit`, but what was stopped on the way is not measured: KeyboardInterrupt."""
    from launch.training.loop import fit

    if fit(*given, **options).ended == "stopped":
        raise KeyboardInterrupt


def measure_all(
    units: Sequence[Callable[[], Figures]], summarise: Callable[[Sequence[Figures]], list[Figures]], kept: Path, asked: Figures,
    processes: int,
) -> list[Figures]:  # fmt: skip
    """Run what is not there yet, print the table of all units and keep it in the json file `kept`; the figures."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    figures = run_in_processes(units, processes)
    rows = summarise(figures)
    write_json(kept, {**asked, "units": figures, "rows": rows})
    print("\n" + rows_table(rows))
    return figures


def run_in_processes(units: Sequence[Callable[[], Figures]], processes: int) -> list[Figures]:
    """The figures of all units, which must be fit for another process; `processes` 0: one a core."""
    from launch.cli.progress import progress

    kept, done = "the units that are measured are kept: the same command goes on", []
    with (
        keeping(kept, lambda: done),
        _pool(processes or os.cpu_count() or 1) as pool,
        progress(len(units), "ablation", unit="model") as bar,
    ):
        running = [pool.submit(unit) for unit in units]
        try:
            for future in as_completed(running):
                done.append(future.result())
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in running]


def _pool(processes: int) -> ProcessPoolExecutor:
    import multiprocessing

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the children, which begin afresh
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def mean_and_spread(values: Sequence[float]) -> dict[str, float | None]:
    import numpy as np

    return {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def rows_table(rows: Sequence[dict]) -> str:
    from jukebox.evaluation.metrics import table

    return table([["figure", "mean", "spread", "least z"], *[[r["what"], r["mean"], r["spread"], r["least_z"]] for r in rows]])


def row(what: str, values: Sequence[float | None], least_z: float | None = None) -> dict:
    """One figure over seeds; where a seed has none (a file says null), there is no mean."""
    values = [float("nan") if value is None else value for value in values]
    return {"what": what, **mean_and_spread(values), "least_z": least_z, "values": values}


def prior_rows(name: str, priors: Sequence[dict]) -> list[dict]:
    """The figures of one prior (`jukebox.evaluation.figures.prior_figures`) over seeds, each condition beside its control."""

    def least_z(trials: Sequence[dict]) -> float | None:
        return min((t["z"] for t in trials if t["z"] is not None), default=None)

    keys = [key for key in ("bits", "loss", "unigram_bits") if priors[0].get(key) is not None]
    rows = [row(f"{name}: {key.replace('_', ' ')}", [p[key] for p in priors]) for key in keys]
    for control in priors[0]["controls"]:
        trials = [p["controls"][control] for p in priors]
        rows.append(row(f"{name}: {control}, false - true", [t["difference"] for t in trials], least_z(trials)))
    if any(p["alignment"] is None for p in priors):
        return rows
    rows.append(row(f"{name}: attention on the word, by chance", [p["alignment"]["chance"] for p in priors]))
    for control in priors[0]["alignment"]["trials"]:
        trials = [p["alignment"]["trials"][control] for p in priors]
        what = f"{name}: attention on the word beside {control}"
        rows += [row(f"{what}, {key}", [t[key] for t in trials]) for key in ("score", "control")]
        rows.append(row(f"{what}, difference", [t["difference"] for t in trials], least_z(trials)))
    return rows
