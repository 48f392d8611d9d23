"""The state of a window in progress, saved now and then, so that a kill costs seconds or a minute and not the window.

Codes on disk do not restore a window: caches rebuilt from them by one parallel pass would differ in rounding, and then in
codes. Sampling it again by the same steps is exact, and for a small prior a matter of seconds; for a large one on a CPU it is hours, and a
process that is killed more often than that would never finish. So the state itself is written (KV caches, or masks and codes of masked
decoding) with the frames that are final: every ten seconds, or so seldom that no more than RATE bytes a second are written on average.

    states/level_2_sample_0.pt    of the batch whose first sample is 0; gone when the level is done

The file is never needed. Where it is of another window, not whole, or where there is no room for it, the window is sampled
from its beginning.
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

EVERY = 10.0  # seconds between two states at least
RATE = 5e6  # bytes a second: of a disk that writes 100 MB a second a twentieth, and in a day not what wears it out


class WindowCheckpoint:
    """What is saved of a window (or of parallel windows) of a batch: rows of (sample, first frame of the window).

    `state` is as `start` of a prior has made it.
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
        """Bring the state to where the saved one was, and return the frames that were final; None where none is saved."""
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
        except Exception as error:  # a reader of files meets anything
            why = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{self.path} is damaged ({why}): the window is sampled from its beginning", file=sys.stderr)
            return None

    def save(self, frames: Shaped[np.ndarray, "b t *frame"]) -> None:
        """Save the state and the frames that are final, if it is time to, and if there is room: codes and audio come first."""
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
        except (OSError, RuntimeError) as error:  # the second: what torch makes of a full disk
            print(f"{self.path} could not be saved ({str(error).splitlines()[0]}); the run goes on", file=sys.stderr)


def state_path(run: Run, level: int, sample: int) -> Path:
    return run.folder / "states" / f"level_{level}_sample_{sample}.pt"


def forget(run: Run, level: int, samples: Sequence[int]) -> None:
    """Remove what is saved of the windows of a level that is done."""
    for sample in samples:
        for path in (state_path(run, level, sample), state_path(run, level, sample).with_suffix(".part")):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or another process has states there
        (run.folder / "states").rmdir()


def _checksum(tensors: dict[str, Tensor]) -> int:
    """CRC-32 over names and bytes; whatever the dtype, without a copy."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].cpu().flatten().view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return crc
