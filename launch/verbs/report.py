"""The verbs report (training curves as a page) and save (a take of a run as a file for other programs)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from data_prep.errors import UserError
from data_prep.files import write_bytes
from launch.cli.parse import read_list


def report(what: Literal["train"], run: str, *, out: str = "", beside: str = "", only: str = "") -> Path:
    """Draw the curves of a training from its log.jsonl: losses, rate, gradient, throughput, and the newest examples.

    what: train
    run: a model folder (all its parts), or MODEL/training/PART
    out: the page to write, or with the ending .svg the curves alone; empty: RUN/training.html
    beside: more runs to draw in the same panels, joined by commas
    only: quantities to draw, such as bits,lr; empty: all logged ones
    """
    from jukebox.report.curves import figure_svg, labelled, training_html

    runs = {Path(path).resolve().name: Path(path) for path in [run, *read_list(beside)]}
    if len(runs) < 1 + len(read_list(beside)):
        raise UserError(f"{run} and --beside {beside}: runs are distinguished by their folders' names; rename one")
    names, target = read_list(only), Path(out) if out else Path(run) / "training.html"
    if target.suffix == ".svg":
        text = figure_svg({label: lines for label, (_, lines) in labelled(runs).items()}, names)
    else:
        text = training_html(runs, names)
    write_bytes(target, text.encode("utf-8"))
    print(f"wrote {target}")
    return target


def save(run: str, *, out: str, take: int = 1, bits: int = 0, model: str = "") -> Path:
    """Save a take of a run as a file for other programs: its audio, with its request in the tags and cue markers in a wav.

    run: run folder, or x.run of an edit
    out: file to write, .wav, .flac (24 bits) or .mp3
    take: number of the sample, counted from 1 as on the page
    bits: for a wav 16, 24 or 32 (floats), decoded from the codes if more than 16 (0: 16)
    model: folder of the run's model, if it was moved
    """
    from jukebox.api import Jukebox
    from jukebox.runs.run import Run

    opened = Run.open(run)
    target = Jukebox.from_pretrained(model or opened.request["model"]).export(opened, out, take, bits=bits)
    print(f"take {take} of {run} is saved as {target}")
    return target
