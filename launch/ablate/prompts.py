"""`jukebox ablate prompts`: what prompts make of held-out songs, over the masked priors of several seeds, beside noise and other controls.

Nothing is trained: MODEL is a folder a seed with a masked prior, DATA the songs that it did not hear. A unit is a seed; what was drawn is
kept as sound, to be listened to (`jukebox/evaluation/prompts.py` says what is measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launch.ablate.units import Figures, measure_all, once, seed_folders

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 8.0  # of each song
SAVED_PROMPTS = 2  # songs that are kept as sound


class PromptUnit(NamedTuple):
    """One model, and the data it is measured on."""

    seed: int
    data: Path
    model: Path


def run_unit(unit: PromptUnit, out: Path, songs: int) -> Figures:
    """Measure one unit."""
    from jukebox.evaluation.prompts import TEMPERATURES
    from jukebox.model.folder import CODEC, ModelFolder

    model = ModelFolder.from_pretrained(unit.model)
    hashes = model.hashes()
    weights = {"masked": hashes[model.entry("masked").file], "codec": hashes[CODEC]}
    asked = {"songs": songs, "seconds": SECONDS, **weights, "temperatures": list(TEMPERATURES)}
    return once(out / "units" / f"prompts_{unit.seed}", asked, lambda: _measure(unit, out, songs))


def _measure(unit: PromptUnit, out: Path, songs: int) -> Figures:
    from data_prep.audio.audio import write_wav
    from jukebox.evaluation.held_out import hold_out
    from jukebox.evaluation.prompts import prompt_figures, verdicts
    from jukebox.model.folder import ModelFolder

    model = ModelFolder.from_pretrained(unit.model)
    finest, folder = model.spec.names[0], out / "units" / f"prompts_{unit.seed}"
    codec = model.codec([finest])

    def keep(name: str, codes: Tensor) -> None:
        for i, row in enumerate(codes[:SAVED_PROMPTS]):
            sound = codec.decode_long(row[None], finest)[0].numpy()
            write_wav(folder / f"song_{i}_{name.replace(', ', '_').replace(' ', '_')}.wav", sound, model.sample_rate)

    held = hold_out(model, unit.data, songs, SECONDS)
    figures = prompt_figures(model, held, seconds=SECONDS, seed=unit.seed, kept=keep)
    return {"seed": unit.seed, **figures, "verdicts": verdicts(figures)}


def summarise(units: Sequence[Figures]) -> list[Figures]:
    """Mean and spread of every figure over seeds."""
    from launch.ablate.units import row

    rows = []
    for name in units[0]["dial"]:
        for key in ("bits_per_second", "mel", "frechet"):
            rows.append(row(f"kept {name}: {key.replace('_', ' ')}", [u["dial"][name][key] for u in units]))
        for key in ("share", "mel", "frechet"):
            rows.append(row(f"noise as far as {name}: {key}", [u["noise"][name][key] for u in units]))
    rows.append(row("rank correlation of period and mel", [u["spearman"] for u in units]))
    rows.append(row("columns kept at beats", [u["tempo"]["kept_columns"] for u in units]))
    for name in units[0]["tempo"]["prompts"]:
        for key in ("share_within", "mel", "frechet"):
            what = f"tempo around {name}: {key.replace('_', ' ')}" + (" 4 %" if key == "share_within" else "")
            rows.append(row(what, [u["tempo"]["prompts"][name][key] for u in units]))
    return rows


def ablate_prompts(data: str, model: str, out: Path, seeds: int, songs: int, processes: int) -> None:
    """Run what is not there yet, print the table and what it says, and keep them as prompts.json."""
    from jukebox.model.folder import ModelFolder

    units = [PromptUnit(seed, *seed_folders(data, model, seed)) for seed in range(seeds)]
    for unit in units:
        ModelFolder.from_pretrained(unit.model).entry("masked")  # one line now, rather than from a process
    runs, asked = [partial(run_unit, unit, out, songs) for unit in units], {"songs": songs, "seconds": SECONDS}
    figures = measure_all(runs, summarise, out / "prompts.json", asked, processes)
    print()
    for what in figures[0]["verdicts"]:
        held = sum(unit["verdicts"][what] for unit in figures)
        print(f"{what}: {held} of {len(figures)} seeds")
    print(f"\nwritten to {out / 'prompts.json'}; the sound is in {out / 'units'}")
