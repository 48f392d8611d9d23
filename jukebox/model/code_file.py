"""codes.npz: a file with the streams of one recording, which `jukebox codec encode` writes.

The file holds one array per stream (frames first) under the name of the stream, `sample_rate`, `samples` and `hashes`. The
entry `hashes` is json that maps each stream to its codes hash. A file of version 1 holds the arrays `level_0` .. and `codec`,
the hash of the whole codec file.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.errors import UserError
from data_prep.files import check_archive, replacing

if TYPE_CHECKING:
    from jukebox.model.info import ModelInfo

OLD = "level_"


@dataclass(frozen=True)
class Codes:
    """Content of a codes.npz.

    `hashes` maps each stream to its codes hash. For a file of version 1 `hashes` maps "" to the hash of the codec file.
    """

    streams: dict[str, np.ndarray]  # (samples // hop, ...)
    sample_rate: int
    samples: int
    hashes: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        arrays: dict[str, Any] = {**self.streams, "hashes": json.dumps(dict(self.hashes))}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, sample_rate=self.sample_rate, samples=self.samples)

    @staticmethod
    def load(path: Path) -> Codes:
        """Read a codes.npz; raise UserError for any other file."""
        try:
            check_archive(path)
            with np.load(path, allow_pickle=False) as file:
                if "hashes" in file:
                    hashes = dict(json.loads(str(file["hashes"])))
                    streams = {name: file[name] for name in file.files if name not in ("sample_rate", "samples", "hashes")}
                else:
                    hashes = {"": str(file.get("codec", ""))}
                    streams = {f"vq.{name[len(OLD) :]}": file[name] for name in file.files if name.startswith(OLD)}
                codes = Codes(streams, int(file["sample_rate"]), int(file["samples"]), hashes)
        except (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no codes.npz of `jukebox codec encode` ({error})") from error
        kinds, most = ("ui", 1) if "" in hashes else ("uif", 2)  # a frame of latents or of several books is a row
        if not streams or not all(1 <= x.ndim <= most and x.dtype.kind in kinds for x in streams.values()):
            raise UserError(f"{path}: expected streams of numbers, such as vq.0; encode the song again")
        return codes

    def is_of(self, info: ModelInfo) -> bool:
        """Whether a model's codec may have written these codes: the model has the streams, and all known hashes match."""
        if self.sample_rate != info.sample_rate or not set(self.streams) <= set(info.spec.names):
            return False
        of_model = info.old_codes_hash if "" in self.hashes else info.codes_hash
        here = {stream: self.hashes.get(stream, self.hashes.get("", "")) for stream in self.streams}
        return all(not known or of_model(stream) in ("", known) for stream, known in here.items())
