"""`jukebox ablate masked`: evaluation of masked priors of several seeds. Each figure has a control.

A unit is a seed. It trains a masked prior in a copy of MODEL, with the preset's recipe, on the songs of DATA that have codes of
all levels. The prior is measured on held-out songs (`jukebox/evaluation/masked.py`). The copies are kept for sampling and
editing.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from data_prep.errors import UserError
from jukebox.evaluation.held_out import hold_out
from jukebox.evaluation.masked import masked_figures
from jukebox.model.codes import folders_with
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from launch.ablate.experiment import Arm, Comparison, Experiment, FigureRows, Figures, Unit, preset_and_codec, titled

CLIPS = 64  # held-out windows
SECONDS = 20.0  # of each held-out song


def check(unit: Unit) -> None:
    """Raise UserError if the preset has no masked prior, or DATA has no codes of the model."""
    if not find(unit.preset).parts("masked"):
        raise UserError(f"the preset {unit.preset} has no masked prior; take one that has, such as demo")
    info = ModelInfo.read(unit.model)
    if not folders_with(unit.data, info, info.spec.names[-1]):
        raise UserError(f"{unit.data} holds no codes of {unit.model}; run `jukebox encode {unit.data} {unit.model}` first")


def train_and_measure(unit: Unit) -> Figures:
    preset, model = find(unit.preset), _copy(unit.model, unit.folder / "model")
    sizes = len(model.labels.artists), len(model.labels.genres), model.vocabulary.size
    unit.train(unit.new_task(model, "masked", preset.prior_recipes["masked"], preset.priors["masked"].for_corpus(*sizes)))
    model = ModelFolder.from_pretrained(unit.folder / "model")
    held = hold_out(model, unit.data, unit.songs, SECONDS)
    return masked_figures(model, held, count=CLIPS)  # the same windows for every seed


def _copy(source: Path, folder: Path) -> ModelFolder:
    """Copy MODEL without its training folder, unless the copy exists, and open the copy."""
    if not (folder / "config.json").is_file():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("training", ".lock"), dirs_exist_ok=True)
    return ModelFolder.from_pretrained(folder)


_DISTANCES, _REGION = ("mel", "frechet"), "level {}, masked region, music after it"
EXPERIMENT = Experiment(
    train_and_measure,
    [Arm("", "masked")],
    check,
    rows=[
        FigureRows({
            **titled("level {}, half hidden: ", "half.{}", "bits", "unigram_bits", "ratio"),
            f"{_REGION}: last columns, with": "suffix.{}.last_with",
            f"{_REGION}: last columns, without": "suffix.{}.last_without",
            f"{_REGION}: last columns, ratio": "suffix.{}.last_ratio",
            f"{_REGION}: first columns, ratio": "suffix.{}.first_ratio",
        }, "half", descending=True),
        FigureRows(titled("bottom from the levels above: mel, ", "parents", "own", "other", "ratio")),
        FigureRows(titled("middle and bottom in {} passes each: ", "passes.{}", *_DISTANCES), "passes"),
        FigureRows(titled("middle and bottom autoregressively: ", "one_by_one", *_DISTANCES)),
        FigureRows(titled("another song: ", "other_song", *_DISTANCES)),
    ],
    comparisons=[
        Comparison(f"frechet of {a} passes / of {b}", "", "", f"passes.{a}.frechet", ratio=True, other=f"passes.{b}.frechet")
        for a, b in ((12, 1), (36, 12))
    ],
    asked=partial(preset_and_codec, clips=CLIPS),
)  # fmt: skip
