"""`jukebox ablate prompts`: what prompts make of held-out songs, over the masked priors of several seeds, beside noise and other controls.

Nothing is trained: MODEL is a folder a seed with a masked prior, DATA the songs that it did not hear. A unit is a seed; what was drawn is
kept as sound, to be listened to (`jukebox/evaluation/prompts.py` says what is measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from launch.ablate.units import Figures

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
    from jukebox.model.folder import MASKED_FILE, Jukebox
    from launch.ablate.units import once

    hashes = Jukebox.from_pretrained(unit.model).hashes()
    asked = {
        "songs": songs,
        "seconds": SECONDS,
        "masked": hashes.get(MASKED_FILE),
        "codec": hashes["codec.safetensors"],
        "temperatures": list(TEMPERATURES),
    }
    return once(out / "units" / f"prompts_{unit.seed}", asked, lambda: _measure(unit, out, songs))


def _measure(unit: PromptUnit, out: Path, songs: int) -> Figures:
    from data_prep.audio.audio import write_wav
    from jukebox.evaluation.figures import hold_out
    from jukebox.evaluation.prompts import prompt_figures, verdicts
    from jukebox.model.folder import Jukebox
    from vqvae.jukebox.stream import decode_long

    model = Jukebox.from_pretrained(unit.model)
    codec, folder = model.codec([0]), out / "units" / f"prompts_{unit.seed}"

    def keep(name: str, codes: Tensor) -> None:
        for i, row in enumerate(codes[:SAVED_PROMPTS]):
            sound = decode_long(codec, row[None], 0)[0].numpy()
            write_wav(folder / f"song_{i}_{name.replace(', ', '_').replace(' ', '_')}.wav", sound, model.sample_rate)

    held = hold_out(model, unit.data, songs, SECONDS)
    figures = prompt_figures(model, held, seconds=SECONDS, seed=unit.seed, kept=keep)
    return {"seed": unit.seed, **figures, "verdicts": verdicts(figures)}


def summarise(units: Sequence[Figures]) -> list[Figures]:
    """Mean and spread of every figure over seeds."""
    from launch.demo.evidence import row

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
    from data_prep.files import write_json
    from jukebox.model.folder import Jukebox
    from launch.ablate.units import run_in_processes
    from launch.demo.evidence import rows_table

    named = [(seed, *(Path(name.replace("{seed}", str(seed))) for name in (data, model))) for seed in range(seeds)]
    units = [PromptUnit(*each) for each in named]
    for unit in units:
        Jukebox.from_pretrained(unit.model).masked()  # one line now, rather than from a process
    out.mkdir(parents=True, exist_ok=True)
    figures = run_in_processes([partial(run_unit, unit, out, songs) for unit in units], processes)
    rows = summarise(figures)
    write_json(out / "prompts.json", {"songs": songs, "seconds": SECONDS, "units": figures, "rows": rows})
    print("\n" + rows_table(rows) + "\n")
    for what in figures[0]["verdicts"]:
        held = sum(unit["verdicts"][what] for unit in figures)
        print(f"{what}: {held} of {len(figures)} seeds")
    print(f"\nwritten to {out / 'prompts.json'}; the sound is in {out / 'units'}")
