"""Whether the sound of a sampled song changes where its windows join."""

from __future__ import annotations

from jukebox.evaluation.metrics import Seams, seams
from jukebox.model.folder import ModelFolder
from jukebox.report.spectrograms import read_wav
from jukebox.runs.run import Run


def joins(model: ModelFolder, run: Run, level: int) -> list[float]:
    """The seconds at which windows of a level join, those of the given codes left out."""
    given, hop = run.request["given"].get(str(level), 0), run.request["hops"][level]
    made = run.segments(level, given) if str(level) in run.request.get("planners", {}) else ()
    return [segment.begin * hop / model.sample_rate for segment in made if segment.begin]


def seam_figures(model: ModelFolder, run: Run, level: int) -> list[Seams]:
    """How restless each sample of a run is where its windows join, at one level; none where it is one window."""
    where = joins(model, run, level)
    waves = [read_wav(run.audio_path(level, i))[0] for i in range(run.n_samples)] if where else []
    return [seams(wave, model.sample_rate, where) for wave in waves]
