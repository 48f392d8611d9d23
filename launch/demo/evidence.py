"""The same figures over several seeds: mean and spread (standard deviation over seeds), as a table and as json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.files import write_json


def mean_and_spread(values: Sequence[float]) -> dict[str, float | None]:
    import numpy as np

    return {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None}


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


def rows_table(rows: Sequence[dict]) -> str:
    from jukebox.evaluation.metrics import table

    return table([["figure", "mean", "spread", "least z"], *[[r["what"], r["mean"], r["spread"], r["least_z"]] for r in rows]])


def gather(out: Path, demos: Mapping[int, Path]) -> None:
    """Read evaluation.json of every demo (seed -> folder), print the table over seeds and write it to evidence.json."""
    figures = [json.loads((demo / "evaluation.json").read_text(encoding="utf-8")) for demo in demos.values()]
    rows: list[dict] = []
    for level in sorted(figures[0]["codec"]):
        keys = ("spectral_convergence_db", "untrained_db", "codes_used", "entropy_bits")
        for key in filter(figures[0]["codec"][level].__contains__, keys):  # latents have no codebook
            rows.append(row(f"codec level {level}: {key.replace('_', ' ')}", [f["codec"][level][key] for f in figures]))
    for key in sorted(figures[0]["priors"], reverse=True):
        rows += prior_rows(f"prior level {key}" if key.isdigit() else key, [f["priors"][key] for f in figures])
    for sound in figures[0]["sound"]:
        same = [r for f in figures for r in f["sound"] if r["what"] == sound["what"]]
        rows += [row(f"{sound['what']}: {key}", [r[key] for r in same]) for key in ("peakiness", "onsets", "frechet")]
    write_json(out / "evidence.json", {"seeds": list(demos), "rows": rows})
    print(f"\nover {len(figures)} seeds")
    print(rows_table(rows))
    print(f"\nwritten to {out / 'evidence.json'}")
