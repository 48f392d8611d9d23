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

from data_prep.files import write_json
from launch.demo.evidence import rows_table

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

    with _pool(processes or os.cpu_count() or 1) as pool, progress(len(units), "ablation", unit="model") as bar:
        running = [pool.submit(unit) for unit in units]
        try:
            for future in as_completed(running):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in running]


def _pool(processes: int) -> ProcessPoolExecutor:
    import multiprocessing

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the children, which begin afresh
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
