"""The verb evaluate: evaluation of a model on held-out songs. Each figure has a control."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import check_target, file_hash, write_json
from data_prep.manifest import MANIFEST
from jukebox.device import choose_device

MOST_WINDOWS = 1_000_000


def evaluate(
    model: str, data: str, *, out: str = "", windows: int = 96, songs: int = 16, seed: int = 0, threads: int = 0,
    device: str = "auto", export: str = "", export_seconds: float = 10.0,
) -> None:  # fmt: skip
    """Measure a model on the held-out songs of a data folder: a table, and the same figures as json.

    model: folder of a trained model
    data: data folder made by `prepare`, whose split "test" is used
    out: json file to write (empty: evaluation.json in the model folder); figures of other data are not overwritten
    windows: number of windows of codes on which each prior is measured
    songs: held-out songs to use (0: all)
    seed: seed of the choice of windows and of the false conditions that serve as controls
    threads: CPU threads (0: all)
    device: cpu, cuda, or auto: a GPU if there is one; the priors run there
    export: folder to write instead, for metrics of other programs: each held-out song, its reconstructions, and a generated
        song with the same conditions, as wav files of floats, with a table (pairs.csv)
    export_seconds: exported length of each song, in seconds
    """
    import torch

    from jukebox.evaluation.figures import evaluate_model, tables
    from jukebox.model.folder import ModelFolder

    if not 2 <= windows <= MOST_WINDOWS or songs < 0:
        raise UserError(
            f"--windows {windows} and --songs {songs}: expected 2 to {MOST_WINDOWS:,} windows and 0 (all) or more songs"
        )
    if threads:
        torch.set_num_threads(threads)
    opened, chosen = ModelFolder.from_pretrained(model), choose_device(device)
    if export:
        from jukebox.exports import export_pairs

        if not 0 < export_seconds <= 600:
            raise UserError(f"--export_seconds {export_seconds:g}: expected seconds above 0, up to 600")
        return print(f"pairs are in {export_pairs(opened, Path(data), Path(export), songs, export_seconds, chosen)}")
    target = Path(out) if out else opened.folder / "evaluation.json"
    check_target(target)
    identity = data_identity(Path(data), target)
    check_figures(target, identity)
    figures = evaluate_model(opened, Path(data), windows=windows, songs=songs, seed=seed, device=chosen)
    write_json(target, figures | {"data": identity})
    print(tables(figures))
    print(f"\nwritten to {target}")


def data_identity(data: Path, target: Path) -> dict[str, str]:
    """Identify the data of figures: path relative to the file of figures, and hash of the manifest. One of them may change."""
    path = data / MANIFEST
    place = os.path.relpath(data.resolve(), target.parent.resolve())
    return {"path": Path(place).as_posix(), "manifest": file_hash(path) if path.is_file() else ""}


def check_figures(target: Path, identity: Mapping[str, str]) -> None:
    """Raise UserError if the file `target` exists and has figures of other data, or other content."""
    if not target.is_file():
        return
    try:
        before = json.loads(target.read_text(encoding="utf-8")).get("data", {})
    except (ValueError, AttributeError):
        before = {}
    if not any(before.get(name) == value for name, value in identity.items()):
        other = before.get("path", "data that it does not name")
        raise UserError(f"{target} holds figures of {other}, not of {identity['path']}; name another --out, or delete it")
