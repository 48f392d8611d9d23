"""The same figures over several seeds: mean and spread (standard deviation over seeds), as a table and as json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def gather(out: Path, demos: Sequence[Path]) -> None:
    """Read evaluation.json of every demo, print the table over seeds and write it to evidence.json."""
    import numpy as np

    from jukebox.metrics import table
    from jukebox.model import write_json

    figures = [json.loads((demo / "evaluation.json").read_text(encoding="utf-8")) for demo in demos]
    rows: list[dict] = []

    def add(what: str, values: Sequence[float], least_z: float | None = None) -> None:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(
            {"what": what, "mean": float(np.mean(values)), "spread": spread, "least_z": least_z, "values": list(values)}
        )

    for level in sorted(figures[0]["codec"]):
        for key in ("spectral_convergence_db", "untrained_db", "codes_used", "entropy_bits"):
            add(f"codec level {level}: {key.replace('_', ' ')}", [f["codec"][level][key] for f in figures])
    for level in sorted(figures[0]["priors"], reverse=True):
        priors = [f["priors"][level] for f in figures]
        for key in ("bits", "unigram_bits"):
            add(f"prior level {level}: {key.replace('_', ' ')}", [p[key] for p in priors])
        for name in priors[0]["controls"]:
            trials = [p["controls"][name] for p in priors]
            add(
                f"prior level {level}: {name}, false - true",
                [t["difference"] for t in trials],
                min((t["z"] for t in trials if t["z"] is not None), default=None),
            )
    for row in figures[0]["sound"]:
        same = [r for f in figures for r in f["sound"] if r["what"] == row["what"]]
        for key in ("peakiness", "onsets", "frechet"):
            add(f"{row['what']}: {key}", [r[key] for r in same])
    write_json(out / "evidence.json", {"seeds": [f["seed"] for f in figures], "rows": rows})
    print(f"\nover {len(figures)} seeds")
    print(
        table(
            [
                ["figure", "mean", "spread", "least z"],
                *[[r["what"], r["mean"], r["spread"], r["least_z"]] for r in rows],
            ]
        )
    )
    print(f"\nwritten to {out / 'evidence.json'}")
