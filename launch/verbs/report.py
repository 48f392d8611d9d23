"""`jukebox report`: what a training did, as a page of curves; nothing of the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data_prep.errors import UserError


def report(what: Literal["train"], run: str, *, out: str = "", beside: str = "", only: str = "") -> Path:
    """Draw the curves of a training from its log.jsonl: losses, rate, gradient, throughput, and the newest examples.

    what: train
    run: a model folder (all its parts), or MODEL/training/PART
    out: the page to write, or with the ending .svg the curves alone; empty: RUN/training.html
    beside: more runs to draw in the same panels, with commas between them
    only: quantities to draw, such as bits,lr; empty: all that were logged
    """
    from jukebox.report.curves import figure_svg, labelled, training_html
    from jukebox.report.spectrograms import write_atomically

    runs = {Path(path).resolve().name: Path(path) for path in [run, *filter(None, beside.split(","))]}
    if len(runs) < 1 + len(list(filter(None, beside.split(",")))):
        raise UserError(f"{run} and --beside {beside}: runs are told apart by their folders' names; rename one")
    names, target = [name for name in only.split(",") if name], Path(out) if out else Path(run) / "training.html"
    if target.suffix == ".svg":
        parts = {label: lines for label, (_, lines) in labelled(runs).items()}
        text = figure_svg(parts, names)
    else:
        text = training_html(runs, names)
    write_atomically(target, text.encode("utf-8"))
    print(f"wrote {target}")
    return target
