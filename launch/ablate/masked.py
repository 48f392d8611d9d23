"""`jukebox ablate masked`: what a masked prior learned over seeds, each figure beside its control.

A unit is a seed: a copy of MODEL in which a masked prior is trained by the preset's recipe, on the songs of DATA that have codes of
all levels, and measured on held-out songs (`jukebox/evaluation/masked.py`). The copies stay, to be sampled and edited with.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.errors import UserError
from launch.ablate.units import Figures, once, seed_folders, train_whole

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

CLIPS = 64  # held-out windows
SECONDS = 20.0  # of each held-out song


class MaskedUnit(NamedTuple):
    """One training: a seed, and what it reads."""

    seed: int
    data: Path
    model: Path
    preset: str

    @property
    def name(self) -> str:
        return f"masked_{self.seed}"


def units_of(data: str, model: str, seeds: int, preset: str) -> list[MaskedUnit]:
    """A unit a seed, with the seed in place of `{seed}` in the folders' names; UserError where they cannot be trained on."""
    from jukebox.model.codes import folders_with
    from jukebox.model.info import ModelInfo
    from jukebox.model.presets import find

    if not find(preset).parts("masked"):
        raise UserError(f"the preset {preset} has no masked prior; take one that has, such as demo")
    units = [MaskedUnit(seed, *seed_folders(data, model, seed), preset) for seed in range(seeds)]
    for unit in units:
        info = ModelInfo.read(unit.model)
        if not folders_with(unit.data, info, info.spec.names[-1]):
            raise UserError(f"{unit.data} holds no codes of {unit.model}; run `jukebox encode {unit.data} {unit.model}` first")
    return units


def run_unit(unit: MaskedUnit, out: Path, steps: int, songs: int) -> Figures:
    """Train and measure one unit."""
    from data_prep.files import file_hash
    from jukebox.model.folder import CODEC

    folder, codec = out / "units" / unit.name, file_hash(unit.model / CODEC)
    asked = {"steps": steps, "songs": songs, "clips": CLIPS, "preset": unit.preset, "codec": codec}
    return once(folder, asked, lambda: _train_and_measure(unit, folder, steps, songs))


def _train_and_measure(unit: MaskedUnit, folder: Path, steps: int, songs: int) -> Figures:
    from jukebox.evaluation.held_out import hold_out
    from jukebox.evaluation.masked import masked_figures
    from jukebox.model.presets import find
    from launch.training.tasks.prior import PriorTask
    from launch.training.tasks.task import TaskSetup

    preset, model = find(unit.preset), _copy(unit.model, folder / "model")
    recipe = replace(preset.prior_recipes["masked"], steps=steps, max_minutes=0.0, save_every=max(1, steps // 4))
    sizes = len(model.labels.artists), len(model.labels.genres), model.vocabulary.size
    setup = TaskSetup(model, "masked", unit.data, recipe, unit.seed, "cpu", preset.priors["masked"].for_corpus(*sizes))
    train_whole(PriorTask(setup), recipe, folder / "training", seed=unit.seed)
    model = type(model).from_pretrained(folder / "model")
    held = hold_out(model, unit.data, songs, SECONDS)
    return {"seed": unit.seed, **masked_figures(model, held, count=CLIPS)}  # the same windows for every seed


def _copy(source: Path, folder: Path) -> ModelFolder:
    """A model folder of the unit's own, with all there is of MODEL but what its training left."""
    from jukebox.model.folder import ModelFolder

    if not (folder / "config.json").is_file():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("training", ".lock"), dirs_exist_ok=True)
    return ModelFolder.from_pretrained(folder)


# ---- the table


def summarise(units: Sequence[Figures]) -> list[Figures]:
    """Mean and spread of every figure over seeds."""
    from launch.ablate.units import row

    rows = []
    for level in sorted(units[0]["half"], reverse=True):
        for key in ("bits", "unigram_bits", "ratio"):
            what = f"level {level}, half hidden: {key.replace('_', ' ')}"
            rows.append(row(what, [u["half"][level][key] for u in units]))
        for key in ("last_with", "last_without", "last_ratio", "first_ratio"):
            what = f"level {level}, hole, music behind it: {key.replace('_', ' columns, ', 1)}"
            rows.append(row(what, [u["suffix"][level][key] for u in units]))
    for key in ("own", "other", "ratio"):
        rows.append(row(f"bottom from the levels above: mel, {key}", [u["parents"][key] for u in units]))
    arms = [(f"middle and bottom in {n} passes each", [u["passes"][n] for u in units]) for n in units[0]["passes"]]
    for key, what in (("one_by_one", "middle and bottom one code after another"), ("other_song", "another song")):
        if found := [u[key] for u in units if key in u]:  # not every model has priors of the lower levels
            arms.append((what, found))
    for what, found in arms:
        rows += [row(f"{what}: {key}", [f[key] for f in found]) for key in ("mel", "frechet")]
    if {"1", "12", "36"} <= set(units[0]["passes"]):
        for a, b in (("12", "1"), ("36", "12")):
            ratios = [u["passes"][a]["frechet"] / u["passes"][b]["frechet"] for u in units]
            rows.append(row(f"frechet of {a} passes / of {b}", ratios))
    return rows
