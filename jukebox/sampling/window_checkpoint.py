"""Checkpoints of a window in progress, so that a kill loses seconds of work instead of the whole window.

The codes on disk cannot restore a window. A parallel pass over these codes would compute KV caches with other rounding, and
the next codes would differ. The same sequential steps from the beginning of the window are exact, but take hours with a large
prior on a CPU. So a checkpoint has the decoding state (KV caches, or masks and codes of masked decoding) and the final frames.
A checkpoint is written at most every ten seconds, and at most RATE bytes per second on average.

    states/level_2_sample_0.pt    checkpoint of the batch whose first sample is 0; removed when the level is finished

The file is optional. Without a valid checkpoint of the window, the window is sampled from its beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from data_prep.files import replacing
from jukebox.runs.run import Run
from priors.prior import Known

EVERY = 10.0  # minimum seconds between two checkpoints
RATE = 5e6  # bytes per second, a twentieth of the rate of a disk that writes 100 MB per second


class WindowCheckpoint:
    """Checkpoint of a window (or of parallel windows) of a batch.

    Each of `rows` is a batch row (sample, first frame of its window). `state` is the result of `Prior.start`.
    """

    def __init__(self, run: Run, level: int, rows: Sequence[tuple[int, int]], known: Known, state: Any):
        self.path = state_path(run, level, rows[0][0])
        identity = [
            level,
            rows,
            _checksum(dict(known.sequences)),
            _checksum(dict(known.mask)),
            run.request["params"][str(level)],
        ]
        identity += [run.request[name] for name in ("seed", "dtype", "model_hash")]
        self.key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.state, self.at = state, time.monotonic()
        self.wait = max(EVERY, state.nbytes / RATE)

    def load(self) -> Shaped[np.ndarray, "b t *frame"] | None:
        """Restore the saved state and return the final frames; None if the window has no valid checkpoint."""
        if not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, weights_only=True, mmap=True)
            if saved["key"] != self.key:
                return None
            if _checksum(saved["tensors"]) != saved["crc32"]:
                raise ValueError("it does not match its checksum")
            self.state.load_state_dict(saved["tensors"])
            return saved["tensors"]["frames"].numpy().copy()
        except Exception as error:  # a damaged file may raise any error
            why = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{self.path} is damaged ({why}): the window is sampled from its beginning", file=sys.stderr)
            return None

    def save(self, frames: Shaped[np.ndarray, "b t *frame"]) -> None:
        """Save the state and the final frames, if the last checkpoint is old enough.

        Nothing is saved on a nearly full disk, because codes and audio have priority.
        """
        if time.monotonic() - self.at < self.wait:
            return
        self.at = time.monotonic()
        if shutil.disk_usage(self.path.parents[1]).free < 2 * self.state.nbytes:
            return
        tensors, part = self.state.state_dict(), self.path.with_suffix(".part")
        tensors["frames"] = torch.from_numpy(frames.copy())
        try:
            with replacing(self.path, part) as temporary, open(temporary, "wb") as file:
                torch.save({"key": self.key, "crc32": _checksum(tensors), "tensors": tensors}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
            print(f"{self.path} could not be saved ({str(error).splitlines()[0]}); the run goes on", file=sys.stderr)


def state_path(run: Run, level: int, sample: int) -> Path:
    return run.folder / "states" / f"level_{level}_sample_{sample}.pt"


def forget(run: Run, level: int, samples: Sequence[int]) -> None:
    """Remove the checkpoints of the windows of a finished level."""
    for sample in samples:
        for path in (state_path(run, level, sample), state_path(run, level, sample).with_suffix(".part")):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder does not exist, or has checkpoints of another process
        (run.folder / "states").rmdir()


def _checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 over the names and bytes of tensors of any dtype, without a copy."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].cpu().flatten().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return crc
