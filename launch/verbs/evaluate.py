"""The verb evaluate: what a model learned, on songs it never heard, each figure beside its control."""

from __future__ import annotations

from pathlib import Path

from data_prep.errors import UserError
from jukebox.device import choose_device

MOST_WINDOWS = 1_000_000


def evaluate(
    model: str, data: str, *, out: str = "", windows: int = 96, songs: int = 16, seed: int = 0, threads: int = 0,
    device: str = "auto",
) -> None:  # fmt: skip
    """Measure a model on the held-out songs of a data folder: a table, and the same figures as json.

    model: folder of a trained model
    data: data folder made by `prepare`, whose split "test" is used
    out: json file to write (empty: evaluation.json in the model folder)
    windows: windows of codes to measure each prior on
    songs: held-out songs to use (0: all)
    seed: number that the choice of windows and of false conditions follows from
    threads: CPU threads (0: all)
    device: cpu, cuda, or auto: a GPU if there is one; the priors run there
    """
    import torch

    from data_prep.files import write_json
    from jukebox.evaluation.figures import evaluate_model, tables
    from jukebox.model.folder import ModelFolder

    if not 2 <= windows <= MOST_WINDOWS or songs < 0:
        raise UserError(
            f"--windows {windows} and --songs {songs}: expected 2 to {MOST_WINDOWS:,} windows and 0 (all) or more songs"
        )
    if threads:
        torch.set_num_threads(threads)
    opened, chosen = ModelFolder.from_pretrained(model), choose_device(device)
    figures = evaluate_model(opened, Path(data), windows=windows, songs=songs, seed=seed, device=chosen)
    target = Path(out) if out else opened.folder / "evaluation.json"
    write_json(target, figures)
    print(tables(figures))
    print(f"\nwritten to {target}")
