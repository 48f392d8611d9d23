"""A model directory whose weights stay in memory, and a lock for one job per process."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from priors.prior import Prior
from vqvae.codec import Codec

_JOB = threading.Lock()


class LoadedModel(ModelFolder):
    """A model directory that keeps each part in memory once it is read. A part is read again if its file has changed."""

    def __init__(self, info: ModelInfo) -> None:
        super().__init__(info)
        self._codecs: dict[tuple, Codec] = {}
        self._priors: dict[tuple, Prior] = {}

    def codec(self, streams: Collection[str] | None = None) -> Codec:
        names = tuple(sorted(self.trained_streams() if streams is None else streams))
        key = (names, *(self._stamp(self.info.codec_of(name).file) for name in names))
        if key not in self._codecs:
            self._codecs = {old: codec for old, codec in self._codecs.items() if old[0] != names}
            self._codecs[key] = super().codec(streams)
        return self._codecs[key]

    def prior(self, prior: str, dtype: str = "float32") -> Prior:
        key = (prior, dtype, self._stamp(self.entry(prior).file))
        if key not in self._priors:
            self._priors = {old: each for old, each in self._priors.items() if old[:2] != key[:2]}
            self._priors[key] = super().prior(prior, dtype)
        return self._priors[key]

    def to(self, device: str) -> None:
        """Move all loaded parts to a device."""
        for part in (*self._priors.values(), *self._codecs.values()):
            part.to(device)

    def _stamp(self, file: str) -> int:
        path = self.folder / file
        return path.stat().st_mtime_ns if path.is_file() else 0


@contextmanager
def one_job() -> Iterator[None]:
    """Allow one job of the Python API at a time, and restore torch's number of threads; raise UserError during another job."""
    if not _JOB.acquire(blocking=False):
        raise UserError("another job of this process is not finished; wait for it, or close its iterator, and call again")
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _JOB.release()
