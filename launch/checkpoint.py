"""Checkpoints that a kill cannot spoil: written beside, synced, renamed; the one before is kept.

`checkpoint.pt` is the last, `checkpoint_previous.pt` the one before it, both loaded without running code from the file
(`weights_only`). Batches and noise are pure functions of (seed, step), so that no random state needs to be stored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

LAST, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` as the last checkpoint of `folder`; a whole one lies there at every moment."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "checkpoint.tmp"
    with fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(fresh, folder / LAST)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The newest whole checkpoint (None: there is none), and a sentence about a broken one passed over."""
    broken = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = torch.load(folder / name, map_location="cpu", weights_only=True)
        except Exception as error:  # a cut zip, a cut pickle, a bad read: torch raises many kinds
            broken.append(f"{folder / name} cannot be read ({type(error).__name__})")
            continue
        return state, f"{broken[0]}; going on from the one before it, step {state['step']}" if broken else ""
    return None, f"{' and '.join(broken)}; starting from step 0" if broken else ""


def drop_previous(folder: Path) -> None:
    """Leaves only the last checkpoint: a finished run keeps one, so that more steps can follow."""
    (folder / PREVIOUS).unlink(missing_ok=True)
