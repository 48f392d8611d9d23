"""codes.npz: the codes of one recording as a file of its own, what `jukebox codec encode` writes.

It holds `level_0` .. (uint16, one code for `hop` samples), `sample_rate`, `samples`, and `codec`, the hash of the weights that wrote it.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError


@dataclass(frozen=True)
class Codes:
    """What a codes.npz holds."""

    levels: dict[int, np.ndarray]  # uint16 (samples // hop,)
    sample_rate: int
    samples: int
    codec: str  # hash of the codec's weights; empty: not known

    def save(self, path: Path) -> None:
        """Write at once or not at all."""
        arrays: dict[str, Any] = {f"level_{level}": c.astype(np.uint16) for level, c in sorted(self.levels.items())}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays, sample_rate=self.sample_rate, samples=self.samples, codec=self.codec)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @staticmethod
    def load(path: Path) -> Codes:
        """Read a codes.npz; UserError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                levels = {int(name[6:]): file[name] for name in file.files if name.startswith("level_")}
                codes = Codes(levels, int(file["sample_rate"]), int(file["samples"]), str(file.get("codec", "")))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no codes.npz of `jukebox codec encode` ({error})") from error
        if not levels or any(each.ndim != 1 or each.dtype.kind not in "ui" for each in levels.values()):
            raise UserError(f"{path}: expected level_0, level_1, .. of whole numbers; encode the song again")
        return codes
