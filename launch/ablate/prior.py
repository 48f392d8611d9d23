"""`jukebox ablate prior`: what the top prior's letters are worth, as characters or as pieces of words, and its time bias.

Every arm is the top prior of a preset but for what its name says, trained by the same loop on the same windows of the
codes in DATA, and measured as `jukebox evaluate` does on the codes of songs it has not heard. A unit is an arm and a seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.errors import UserError
from launch.ablate.units import Figures, once, seed_folders, train_whole

if TYPE_CHECKING:
    from jukebox.evaluation.held_out import HeldOut
    from jukebox.model.folder import ModelFolder

WINDOWS = 96  # of held-out codes


class Arm(NamedTuple):
    """How an arm differs: pieces of words in place of characters, no time bias."""

    pieces: bool = False
    time_bias: bool = True


ARMS = {"characters": Arm(), "pieces": Arm(pieces=True), "no time bias": Arm(time_bias=False)}


class PriorUnit(NamedTuple):
    """One training: an arm, a seed, and what it reads."""

    arm: str
    seed: int
    data: Path
    model: Path
    preset: str

    @property
    def name(self) -> str:
        return f"{self.arm.replace(' ', '_')}_{self.seed}"


def units_of(data: str, model: str, seeds: int, preset: str) -> list[PriorUnit]:
    """Every arm with every seed; `{seed}` in the names of the folders is the seed. UserError where there is none."""
    units = [PriorUnit(arm, seed, *seed_folders(data, model, seed), preset) for seed in range(seeds) for arm in ARMS]
    for unit in units:
        _held_out(_source(unit), unit.data, 2)
    return units


def run_unit(unit: PriorUnit, out: Path, steps: int, songs: int) -> Figures:
    """Train and measure one unit."""
    from data_prep.files import file_hash
    from jukebox.model.folder import CODEC

    folder, codec = out / "units" / unit.name, file_hash(unit.model / CODEC)
    asked = {"steps": steps, "songs": songs, "windows": WINDOWS, "preset": unit.preset, "codec": codec}
    return once(folder, asked, lambda: _train_and_measure(unit, folder, steps, songs))


def _train_and_measure(unit: PriorUnit, folder: Path, steps: int, songs: int) -> Figures:
    from jukebox.evaluation.figures import prior_figures
    from jukebox.model.presets import find
    from launch.training.tasks.prior import PriorTask
    from launch.training.tasks.task import TaskSetup

    model, preset, arm = _open(unit, folder / "model"), find(unit.preset), ARMS[unit.arm]
    name, labels = f"prior_{len(model.hops) - 1}", model.labels
    config: Any = preset.priors[name].for_corpus(len(labels.artists), len(labels.genres), model.vocabulary.size)
    config = replace(config, trunk=replace(config.trunk, time_bias=arm.time_bias))
    recipe = replace(preset.prior_recipes[name], steps=steps, max_minutes=0.0, save_every=max(1, steps // 4))
    task = PriorTask(TaskSetup(model, name, unit.data, recipe, unit.seed, "cpu", config))
    train_whole(task, recipe, folder / "training", seed=unit.seed)
    held = _held_out(model, unit.data, songs)
    text = [row.lyrics for row in held.rows if row.lyrics]
    ids = sum(len(model.vocabulary.encode(t).ids) for t in text)
    figures = prior_figures(model, held, name, WINDOWS, 0)  # the same windows for every unit
    return {
        "arm": unit.arm, "seed": unit.seed, **figures,
        "vocabulary": model.vocabulary.size, "characters_an_id": sum(map(len, text)) / max(ids, 1),
    }  # fmt: skip


def _source(unit: PriorUnit) -> ModelFolder:
    from jukebox.model.folder import ModelFolder

    return ModelFolder.from_pretrained(unit.model)


def _open(unit: PriorUnit, folder: Path) -> ModelFolder:
    """A model folder of the unit's own, with the codec and the labels of MODEL."""
    from jukebox.model.folder import CODEC, ModelFolder
    from jukebox.model.presets import find
    from launch.verbs.lyrics import lyrics
    from priors.conditioning.vocabulary import Characters

    source, preset = _source(unit), find(unit.preset)
    folder.mkdir(parents=True, exist_ok=True)
    if ARMS[unit.arm].pieces and not (folder / "lyrics.json").is_file():
        lyrics("train", str(unit.data), out=str(folder))
    shutil.copyfile(source.folder / CODEC, folder / CODEC)
    model = ModelFolder.create(folder, source.info.codecs[0].config, Characters(preset.symbols))
    model.save_labels(source.labels)
    return model


def _held_out(model: ModelFolder, data: Path, songs: int) -> HeldOut:
    """The first `songs` songs of the split "test" that have codes of the top level."""
    from data_prep.manifest import load_manifest
    from jukebox.evaluation.held_out import HeldOut
    from jukebox.model.codes import open_codes

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


# ---- the table


def summarise(units: Sequence[Figures]) -> list[Figures]:
    """Mean, spread and least z of every figure of every arm, and what each arm costs beside characters, seed by seed."""
    from launch.ablate.units import prior_rows, row

    by_arm = {arm: [u for u in units if u["arm"] == arm] for arm in dict.fromkeys(u["arm"] for u in units)}
    rows = []
    for arm, same in by_arm.items():
        rows.append(row(f"{arm}: characters an id", [u["characters_an_id"] for u in same]))
        rows += prior_rows(arm, same)
    base = {u["seed"]: u for u in by_arm["characters"]}
    for arm, same in by_arm.items():
        if arm != "characters":
            pairs = [(u, base[u["seed"]]) for u in same]
            rows.append(row(f"{arm} - characters: bits", [u["bits"] - b["bits"] for u, b in pairs]))
    return rows
