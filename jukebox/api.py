"""The Python API: a model directory that samples and continues songs, with the same code as the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jukebox.model.folder import ModelFolder
from jukebox.sampling import walk
from jukebox.sampling.run import Run
from jukebox.song import Song


class Jukebox(ModelFolder):
    """A model directory opened, for `from jukebox import Jukebox`."""

    def sample(self, songs: Song | Sequence[Song], seconds: float, out: str | Path, **options) -> Run:
        """Sample songs into the run directory `out`; `options` as in `SamplingOptions`."""
        return walk.sample(self, _listed(songs), seconds, out, **options)

    def continue_(
        self, songs: Song | Sequence[Song], prompts: str | Path | Sequence[str | Path], prompt_seconds: float,
        seconds: float, out: str | Path, **options,
    ) -> Run:  # fmt: skip
        """Continue recordings into the run directory `out`; `options` as in `SamplingOptions`."""
        paths = [prompts] if isinstance(prompts, str | Path) else list(prompts)
        return walk.continue_(self, _listed(songs), paths, prompt_seconds, seconds, out, **options)


def _listed(songs: Song | Sequence[Song]) -> list[Song]:
    return list(songs) if isinstance(songs, Sequence) else [songs]
