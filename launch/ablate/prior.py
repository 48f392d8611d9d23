"""`jukebox ablate prior`: ablation of the top prior's time bias and of its lyrics, as characters or as SentencePiece tokens.

Every arm is the top prior of a preset with one change, which is in the name of the arm. All arms are trained by the same loop
on the same windows of the codes in DATA. They are measured as in `jukebox evaluate` on the codes of held-out songs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.manifest import load_manifest
from jukebox.evaluation.figures import prior_figures
from jukebox.evaluation.held_out import HeldOut
from jukebox.model.codes import open_codes
from jukebox.model.folder import CODEC, ModelFolder
from jukebox.model.presets import find
from launch.ablate.experiment import Arm, Comparison, Experiment, FigureRows, Figures, Unit, preset_and_codec, titled
from launch.verbs.lyrics import lyrics
from priors.conditioning.vocabulary import Characters

WINDOWS = 96  # of held-out codes


def arm_of(title: str, pieces: bool = False, time_bias: bool = True) -> Arm:
    """Return an arm, with SentencePiece tokens instead of characters if `pieces`, and with or without a time bias."""
    return Arm(title, title.replace(" ", "_"), {"arm": title}, {"pieces": pieces, "time_bias": time_bias})


def check(unit: Unit) -> None:
    """Raise UserError if there are too few held-out songs."""
    _held_out(ModelFolder.from_pretrained(unit.model), unit.data, 2)


def train_and_measure(unit: Unit) -> Figures:
    model, preset = _open(unit, unit.folder / "model"), find(unit.preset)
    name, labels = f"prior_{len(model.hops) - 1}", model.labels
    config: Any = preset.priors[name].for_corpus(len(labels.artists), len(labels.genres), model.vocabulary.size)
    config = replace(config, trunk=replace(config.trunk, time_bias=unit.arm.changes["time_bias"]))
    unit.train(unit.new_task(model, name, preset.prior_recipes[name], config))
    held = _held_out(model, unit.data, unit.songs)
    text = [row.lyrics for row in held.rows if row.lyrics]
    ids = sum(len(model.vocabulary.encode(t).ids) for t in text)
    figures = prior_figures(model, held, name, WINDOWS, 0)  # the same windows for every unit
    return {**figures, "vocabulary": model.vocabulary.size, "characters_an_id": sum(map(len, text)) / max(ids, 1)}


def _open(unit: Unit, folder: Path) -> ModelFolder:
    """Create a model folder of the unit with the codec and the labels of MODEL, and open it."""
    source, preset = ModelFolder.from_pretrained(unit.model), find(unit.preset)
    folder.mkdir(parents=True, exist_ok=True)
    if unit.arm.changes["pieces"] and not (folder / "lyrics.json").is_file():
        lyrics("train", str(unit.data), out=str(folder))
    shutil.copyfile(source.folder / CODEC, folder / CODEC)
    model = ModelFolder.create(folder, source.info.codecs[0].config, Characters(preset.symbols))
    model.save_labels(source.labels)
    return model


def _held_out(model: ModelFolder, data: Path, songs: int) -> HeldOut:
    """Return the first `songs` songs of the split "test" that have codes of the top level; UserError if fewer than two have."""
    level, top = len(model.hops) - 1, model.spec.names[-1]
    codes = open_codes(data, model.info, [top])
    coded = set(codes.songs_with([top]))
    rows = [row for row in load_manifest(data) if row.split == "test" and row.song in coded][:songs]
    if len(rows) < 2:
        raise UserError(
            f"{data} has codes of {len(rows)} songs of the split test, expected 2 or more; run `jukebox encode {data} "
            f"{model.folder} --levels {level}`, after preparing it with a larger --test_share if need be"
        )
    return HeldOut(rows, [], [{top: codes.read(row.song, top)} for row in rows])


_TRIAL = ("score", "control", "difference")
EXPERIMENT = Experiment(
    train_and_measure,
    [arm_of("characters"), arm_of("pieces", pieces=True), arm_of("no time bias", time_bias=False)],
    check,
    rows=[
        FigureRows({"characters an id": "characters_an_id", "bits": "bits", "loss": "loss", "unigram bits": "unigram_bits"}),
        FigureRows({"{}, false - true": "controls.{}.difference"}, "controls"),
        FigureRows({"attention on the word, by chance": "alignment.chance"}),
        FigureRows(titled("attention on the word beside {}, ", "alignment.trials.{}", *_TRIAL), "alignment.trials"),
    ],
    comparisons=[Comparison(f"{each} - characters: bits", each, "characters", "bits") for each in ("pieces", "no time bias")],
    asked=partial(preset_and_codec, windows=WINDOWS),
)
