"""Experiments over seeds. Each pair of an arm and a seed is a unit, which is trained and measured once.

An `Experiment` has data (arms, figures of its table, comparisons of arms) and a function that measures a unit. A unit writes
its output to a log and its figures to a file, so a stopped experiment resumes with the same command. Units run in parallel, one
core each.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data_prep.errors import keeping
from data_prep.files import file_hash, write_json
from data_prep.pool import usable_cores
from jukebox.evaluation.metrics import table
from jukebox.model.folder import CODEC, ModelFolder
from jukebox.model.recipe import Recipe
from launch.cli.progress import progress
from launch.cluster.agent import die_with_parent
from launch.training.tasks.registry import TASKS
from launch.training.tasks.task import TaskSetup
from launch.training.trainer import fit
from priors.spec import PriorConfig

Figures = dict[str, Any]


class Arm(NamedTuple):
    """A variant of an experiment."""

    title: str  # in tables
    name: str  # of folders
    keys: Figures = {}  # identify the arm in json
    changes: Any = None  # difference from the base, in the form that the experiment defines


class Unit(NamedTuple):
    """An arm and a seed, with folders and options."""

    arm: Arm
    seed: int
    data: Path  # input
    model: Path  # input
    folder: Path  # output
    steps: int
    songs: int
    preset: str

    def new_task(
        self, model: ModelFolder, part: str, recipe: Recipe, config: PriorConfig | None = None, cache: Path | None = None
    ) -> Any:
        """Return a task that trains `part` with `recipe` for the steps of the unit.

        part: a stream of the codec or, with `config`, the name of a prior
        cache: the folder of the codes
        """
        recipe = replace(recipe, steps=self.steps, max_minutes=0.0, save_every=max(1, self.steps // 4))
        kind = config.kind if config else model.info.codec_of(part).config.kind
        return TASKS.load(kind)(TaskSetup(model, part, self.data, recipe, self.seed, "cpu", config, cache=cache))

    def train(self, task: Any, name: str = "training") -> None:
        """Train a task in the folder `name`. A stopped training raises KeyboardInterrupt, so that the unit is not measured."""
        if fit(task, task.recipe, self.folder / name, seed=self.seed).ended == "stopped":
            raise KeyboardInterrupt


class FigureRows(NamedTuple):
    """Rows of a table."""

    paths: Mapping[str, str]  # title -> path of a figure (see `found`)
    each: str = ""  # path of a mapping; each of its keys replaces `{}` in titles and paths
    descending: bool = False  # order of these keys

    def over(self, arm: Arm, units: Sequence[Figures]) -> list[Figures]:
        """Return a row for each figure that units have. The row of a difference has the least z of the units."""
        keys = next(iter(found(units, self.each)), ()) if self.each else ("",)
        rows = []
        for key in sorted(keys, reverse=True) if self.descending else keys:
            for title, path in self.paths.items():
                if values := found(units, path, key):
                    what = f"{arm.title}: {title}" if arm.title else title
                    z = found(units, path.removesuffix("difference") + "z", key) if path.endswith("difference") else ()
                    rows.append(_row(what.replace("{}", key), values, min(filter(math.isfinite, z), default=None)))
        return rows


class Comparison(NamedTuple):
    """Comparison of a figure of two arms, seed by seed: left minus right."""

    what: str  # title in the table
    left: str  # title of an arm
    right: str  # title of an arm
    path: str  # of the figure
    aim: str = ""  # expected result, for the table
    ratio: bool = False  # left over right instead of the difference
    other: str = ""  # path of the figure in `right`, if it differs

    def values(self, arms: Mapping[str, Sequence[Figures]]) -> list[float]:
        right = {u["seed"]: x for u in arms[self.right] for x in found([u], self.other or self.path)}
        pairs = [(x, right[u["seed"]]) for u in arms[self.left] if u["seed"] in right for x in found([u], self.path)]
        return [a / max(b, 1e-9) if self.ratio else a - b for a, b in pairs]


def steps_and_songs(unit: Unit) -> Figures:
    return {"steps": unit.steps, "songs": unit.songs}


def preset_and_codec(unit: Unit, **numbers: Any) -> Figures:
    """Return the preset, the hash of the codec in MODEL, and `numbers`, the constants of an experiment."""
    return {**numbers, "preset": unit.preset, "codec": file_hash(unit.model / CODEC)}


@dataclass(frozen=True)
class Experiment:
    """An experiment. Its functions are module-level functions, because units run in other processes.

    measure: trains and measures a unit
    check: raises UserError before the first unit if the folders of a unit cannot be used
    columns: figure -> title and digits, in a table with a row per arm
    rows: rows of a table with a row per figure; instead of `columns`
    header: returns the options, which are stored with all figures
    asked: returns other inputs of a unit; if options or inputs change, the unit is measured again
    kept: name of the file of all figures
    artifacts: description of the files in the folders of units, for the last line of output
    """

    measure: Callable[[Unit], Figures]
    arms: Sequence[Arm]
    check: Callable[[Unit], object]
    columns: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    rows: Sequence[FigureRows] = ()
    comparisons: Sequence[Comparison] = ()
    header: Callable[[Unit], Figures] = steps_and_songs
    asked: Callable[[Unit], Figures] | None = None
    kept: str = "ablation.json"
    artifacts: str = "the models are"

    def units(self, data: str, model: str, out: Path, seeds: int, steps: int, songs: int, preset: str = "demo") -> list[Unit]:
        """Return a unit for each arm and seed. The seed replaces `{seed}` in the names of the folders."""
        units = []
        for seed in range(seeds):
            given, asked = [Path(each.replace("{seed}", str(seed))) for each in (data, model)], (steps, songs, preset)
            units += [Unit(arm, seed, given[0], given[1], out / "units" / f"{arm.name}_{seed}", *asked) for arm in self.arms]
        return units

    def run(self, unit: Unit) -> Figures:
        """Measure a unit, or read its figures from `figures.json` if that has the same options and inputs."""
        done, asked = unit.folder / "figures.json", self.header(unit) | (self.asked(unit) if self.asked else {})
        if done.is_file() and (figures := json.loads(done.read_text(encoding="utf-8")))["asked"] == asked:
            return figures
        torch.set_num_threads(1)
        unit.folder.mkdir(parents=True, exist_ok=True)
        with (unit.folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            write_json(done, {"asked": asked, **unit.arm.keys, "seed": unit.seed, **self.measure(unit)})
        return json.loads(done.read_text(encoding="utf-8"))

    def run_all(self, units: Sequence[Unit], out: Path, processes: int) -> None:
        """Run the missing units, print the tables and write them."""
        for unit in {(unit.data, unit.model): unit for unit in units}.values():
            self.check(unit)
        out.mkdir(parents=True, exist_ok=True)
        figures = run_in_processes([partial(self.run, unit) for unit in units], processes)
        summary = self.summary(figures)
        write_json(out / self.kept, {**self.header(units[0]), "units": figures, **summary})
        print("\n" + self.tables(summary))
        for what in figures[0].get("verdicts", ()):
            print(f"{what}: {sum(each['verdicts'][what] for each in figures)} of {len(figures)} seeds")
        print(f"\nwritten to {out / self.kept}; {self.artifacts} in {out / 'units'}")

    def summary(self, units: Sequence[Figures]) -> Figures:
        """Return mean and standard deviation over seeds, for each figure of an arm and for each comparison of arms."""
        arms = [(arm, [u for u in units if arm.keys.items() <= u.items()]) for arm in self.arms]
        compared = [(each, each.values({arm.title: same for arm, same in arms})) for each in self.comparisons]
        if not self.columns:
            rows = [row for arm, same in arms for each in self.rows for row in each.over(arm, same)]
            return {"rows": [*rows, *(_row(each.what, values) for each, values in compared if values)]}
        return {
            "rows": [
                {**arm.keys, "seeds": len(same), **{n: mean_and_spread(x) for n in self.columns if (x := found(same, n))}}
                for arm, same in arms if same
            ],
            "worth": [{"what": c.what, **mean_and_spread(x), "aim": c.aim, "values": x} for c, x in compared if x],
        }  # fmt: skip

    def tables(self, summary: Figures) -> str:
        if not self.columns:
            return table([["figure", "mean", "spread", "least z"], *([*row.values()][:4] for row in summary["rows"])])
        body = [
            [arm.title, *(_shown(row[name], digits) if name in row else None for name, (_, digits) in self.columns.items())]
            for row in summary["rows"] for arm in self.arms if arm.keys.items() <= row.items()
        ]  # fmt: skip
        effects = [[each["what"], _shown(each, 2), each["aim"]] for each in summary["worth"]]
        head = ["variant", *(title for title, _ in self.columns.values())]
        return table([head, *body]) + "\n\n" + table([["", "mean +- spread", "aim"], *effects])


# ---- figures over seeds


def found(units: Sequence[Any], path: str, key: str = "") -> list[Any]:
    """Return the values at a path of the units that have this path. None becomes nan.

    A path has names joined by dots. `key` replaces the name `{}`.
    """
    for part in re.split(r"(?<! )\.", path):  # a key may hold a decimal fraction, as in "error .5-2 kHz"
        name = key if part == "{}" else part
        units = [unit[name] for unit in units if isinstance(unit, dict) and name in unit]
    return [math.nan if each is None else each for each in units]


def titled(title: str, path: str, *keys: str) -> dict[str, str]:
    """Return title -> path of the figures `keys` in the mapping at `path`, for `FigureRows`."""
    return {f"{title}{key.replace('_', ' ')}": f"{path}.{key}" for key in keys}


def mean_and_spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _row(what: str, values: Sequence[float], least_z: float | None = None) -> Figures:
    return {"what": what, **mean_and_spread(values), "least_z": least_z, "values": values}


def _shown(figure: Figures, digits: int) -> str:
    return " +- ".join(f"{figure[key]:.{digits}f}" for key in ("mean", "spread") if figure[key] is not None)


# ---- running units

PATIENCE = 20.0  # seconds in which an interrupted worker ends


def run_in_processes(units: Sequence[Callable[[], Figures]], processes: int) -> list[Figures]:
    """Measure all units in `processes` processes (0: one per core) and return their figures. Units must be picklable."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # spawned processes inherit it
    afresh, count = multiprocessing.get_context("spawn"), processes or usable_cores()
    kept, done = "measured units are kept: the same command goes on", []
    with (
        keeping(kept, lambda: done),
        ProcessPoolExecutor(count, mp_context=afresh, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool,
        progress(len(units), "ablation", unit="model") as bar,
    ):
        running = [pool.submit(unit) for unit in units]
        try:
            for future in as_completed(running):
                done.append(future.result())
                bar.update()
        except BaseException:
            children = multiprocessing.active_children()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()  # a child gets Ctrl-C of a terminal, but not a signal to this process
            for child in children:  # a training writes a checkpoint before it ends
                child.join(PATIENCE)
                child.kill()
            raise
    return [future.result() for future in running]


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent dies: a worker that goes on would write the folders of a restarted experiment, too."""
    if end := die_with_parent(signal.SIGKILL):
        end()
    if os.getppid() != parent:  # it died before
        os._exit(1)
