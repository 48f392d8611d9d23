"""The run folder: everything about one sampling, written as it goes, so that nothing made is ever lost.

    run.json           the whole request: model, seed, songs, lengths, choices, machine, versions
    codes/level_2.u16  codes as they come: uint16, little endian, one row of n_samples codes a step
    progress.jsonl     one line a finished window, with the checksum of the codes file up to there
    audio/ images/ index.html

Codes are appended and flushed before the line that vouches for them; what lies behind the last line is cut off on opening. A
window draws from generators that are a pure function of (seed, sample, level, first code), so a run killed at any moment and opened
again gives the codes of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zlib
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from data_prep.errors import UserError
from jukebox.model import write_json

REQUEST, PROGRESS = "run.json", "progress.jsonl"


def generator(seed: int, sample: int, level: int, start: int) -> torch.Generator:
    """The generator of one sample in one window: independent streams from a hash of where they are used."""
    digest = hashlib.sha256(f"{seed}/{sample}/{level}/{start}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def machine() -> dict:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict:
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "numpy", "jukebox-music")
    }


class Run:
    """One sampling on disk."""

    def __init__(self, folder: Path, request: dict, progress: list[dict]):
        self.folder, self.request, self.progress = Path(folder), request, progress

    @classmethod
    def create(cls, folder: str | Path, request: dict) -> Run:
        """Begin a run; a folder that already holds one is refused, so that nothing is overwritten."""
        folder = Path(folder)
        if (folder / REQUEST).exists():
            raise UserError(
                f"{folder} already holds a run; go on with it by `jukebox resume {folder}`, or name another --out"
            )
        (folder / "codes").mkdir(parents=True, exist_ok=True)
        write_json(folder / REQUEST, {"version": 1, **request, "machine": machine(), "versions": versions()})
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a run, cut off what no progress line vouches for, and check the rest."""
        folder = Path(folder)
        if not (folder / REQUEST).is_file():
            raise UserError(
                f"{folder} holds no {REQUEST}; expected a run folder made by `jukebox sample` or `jukebox continue`"
            )
        try:
            request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"{folder / REQUEST} is damaged ({error}); the run cannot be resumed, sample it again"
            ) from error
        run = cls(folder, request, _read_progress(folder / PROGRESS))
        for level in {line["level"] for line in run.progress}:
            run._settle(level)
        return run

    def _settle(self, level: int) -> None:
        path, last = self.codes_path(level), [line for line in self.progress if line["level"] == level][-1]
        size = last["codes_total"] * self.n_samples * 2
        if not path.is_file() or path.stat().st_size < size:
            raise UserError(
                f"{path} is shorter than {PROGRESS} says; the run is damaged: delete the folder and sample it again"
            )
        with open(path, "r+b") as file:
            file.truncate(size)
            if zlib.crc32(file.read()) != last["crc32"]:
                raise UserError(
                    f"{path} does not match its checksum; the run is damaged: delete the folder and sample it again"
                )

    def update(self, **changes) -> None:
        """Change the request (levels added by `upsample`, say)."""
        self.request |= changes
        write_json(self.folder / REQUEST, self.request)

    @property
    def n_samples(self) -> int:
        return len(self.request["samples"])

    def codes_path(self, level: int) -> Path:
        return self.folder / "codes" / f"level_{level}.u16"

    def audio_path(self, level: int, sample: int) -> Path:
        return self.folder / "audio" / f"level_{level}_sample_{sample}.wav"

    def count(self, level: int) -> int:
        """Codes of a level that are on disk (of each sample)."""
        totals = [line["codes_total"] for line in self.progress if line["level"] == level]
        return totals[-1] if totals else 0

    def codes(self, level: int) -> Int[np.ndarray, "b t"]:
        """Codes of a level so far, one row a sample."""
        if not self.count(level):
            return np.zeros((self.n_samples, 0), np.uint16)
        return np.fromfile(self.codes_path(level), dtype="<u2").reshape(-1, self.n_samples).T

    def append(self, level: int, start: int, codes: Int[np.ndarray, "b t"], took: float) -> None:
        """Add codes of a window (or of the prompt) that took `took` seconds to make."""
        rows = np.ascontiguousarray(codes.T.astype("<u2"))
        last = [line for line in self.progress if line["level"] == level]
        crc = zlib.crc32(rows.tobytes(), last[-1]["crc32"] if last else 0)
        _append(self.codes_path(level), rows.tobytes())
        line = {
            "level": level, "start": start, "rows": len(rows), "codes_total": self.count(level) + len(rows), "took": round(took, 4),
            "music_seconds": len(rows) * self.request["hops"][level] / self.request["sample_rate"], "crc32": crc,
        }  # fmt: skip
        _append(self.folder / PROGRESS, (json.dumps(line) + "\n").encode())
        self.progress.append(line)


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_progress(path: Path) -> list[dict]:
    """Lines of the progress file; a last line cut in the middle is dropped from the file as well."""
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); the run cannot be resumed, sample it again") from error
