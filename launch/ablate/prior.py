"""`jukebox ablate prior`: what the top prior's letters are worth, as characters or as pieces of words, and its time bias.

Every arm is the top prior of a preset but for what its name says, trained by the same loop on the same windows of the
codes in DATA, and measured as `jukebox evaluate` does on the codes of songs it has not heard. A unit is an arm and a seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_prep.errors import UserError

if TYPE_CHECKING:
    from jukebox.evaluation.figures import HeldOut
    from jukebox.model.folder import Jukebox
    from launch.ablate.units import Figures

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
    units = []
    for seed in range(seeds):
        mine, codec = (Path(name.replace("{seed}", str(seed))) for name in (data, model))
        units += [PriorUnit(arm, seed, mine, codec, preset) for arm in ARMS]
    for unit in units:
        _held_out(_source(unit), unit.data, 2)
    return units


def run_unit(unit: PriorUnit, out: Path, steps: int, songs: int) -> Figures:
    """Train and measure one unit."""
    from launch.ablate.units import once

    folder = out / "units" / unit.name
    asked = {
        "steps": steps, "songs": songs, "windows": WINDOWS, "preset": unit.preset, "codec": _source(unit).codec_hash()
    }  # fmt: skip
    return once(folder, asked, lambda: _train_and_measure(unit, folder, steps, songs))


def _train_and_measure(unit: PriorUnit, folder: Path, steps: int, songs: int) -> Figures:
    from jukebox.evaluation.figures import prior_figures
    from jukebox.model.presets import find
    from launch.ablate.units import train_whole
    from launch.training.tasks import PriorTask

    model, preset, arm = _open(unit, folder / "model"), find(unit.preset), ARMS[unit.arm]
    level, labels = len(model.hops) - 1, model.labels
    config = preset.prior(level, len(labels.artists), len(labels.genres), model.vocabulary.size)
    config = replace(config, trunk=replace(config.trunk, time_bias=arm.time_bias))
    recipe = replace(preset.prior_recipes[level], steps=steps, max_minutes=0.0, save_every=max(1, steps // 4))
    task = PriorTask(model, config, unit.data, recipe, unit.seed, "cpu")
    train_whole(task, recipe, folder / "training", seed=unit.seed)
    held = _held_out(model, unit.data, songs)
    text = [row.lyrics for row in held.rows if row.lyrics]
    ids = sum(len(model.vocabulary.encode(t).ids) for t in text)
    figures = prior_figures(model, held, level, WINDOWS, 0)  # the same windows for every unit
    return {
        "arm": unit.arm, "seed": unit.seed, **figures,
        "vocabulary": model.vocabulary.size, "characters_an_id": sum(map(len, text)) / max(ids, 1),
    }  # fmt: skip


def _source(unit: PriorUnit) -> Jukebox:
    from jukebox.model.folder import Jukebox

    return Jukebox.from_pretrained(unit.model)


def _open(unit: PriorUnit, folder: Path) -> Jukebox:
    """A model folder of the unit's own, with the codec and the labels of MODEL."""
    from jukebox.model.folder import CODEC, Jukebox
    from jukebox.model.presets import find
    from launch.verbs.lyrics import lyrics
    from priors.conditioning.lyrics import Characters

    source, preset = _source(unit), find(unit.preset)
    folder.mkdir(parents=True, exist_ok=True)
    if ARMS[unit.arm].pieces and not (folder / "lyrics.json").is_file():
        lyrics("train", str(unit.data), out=str(folder))
    shutil.copyfile(source.folder / CODEC, folder / CODEC)
    model = Jukebox.create(folder, source.codec_config, Characters(preset.symbols))
    model.save_labels(source.labels)
    return model


def _held_out(model: Jukebox, data: Path, songs: int) -> HeldOut:
    """The first `songs` songs of the split "test" that have codes of the top level."""
    from data_prep.codes import CodesReader
    from data_prep.manifest import load_manifest
    from jukebox.evaluation.figures import HeldOut

    level, codes = len(model.hops) - 1, CodesReader(data / "codes" / model.codec_hash())
    coded = set(codes.songs_with((level,)))
    rows = [row for row in load_manifest(data) if row.split == "test" and row.song in coded][:songs]
    if len(rows) < 2:
        raise UserError(
            f"{data} has codes of {len(rows)} songs of the split test, expected 2 or more; run `jukebox encode {data} "
            f"{model.folder} --levels {level}`, after preparing it with a larger --test_share if need be"
        )
    return HeldOut(rows, [], [{level: codes.read(row.song, level)} for row in rows])


# ---- the table


def summarise(units: Sequence[Figures]) -> list[Figures]:
    """Mean, spread and least z of every figure of every arm, and what each arm costs beside characters, seed by seed."""
    from launch.demo.evidence import prior_rows, row

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


def ablate_prior(
    data: str, model: str, out: Path, seeds: int, steps: int, songs: int, processes: int, preset: str
) -> None:
    """Run what is not there yet, print the table and keep it as ablation.json."""
    from jukebox.model.folder import write_json
    from launch.ablate.units import run_in_processes
    from launch.demo.evidence import rows_table

    units = units_of(data, model, seeds, preset)
    out.mkdir(parents=True, exist_ok=True)
    figures = run_in_processes([partial(run_unit, unit, out, steps, songs) for unit in units], processes)
    rows = summarise(figures)
    write_json(out / "ablation.json", {"steps": steps, "songs": songs, "units": figures, "rows": rows})
    print("\n" + rows_table(rows))
    print(f"\nwritten to {out / 'ablation.json'}; the models are in {out / 'units'}")
