"""Runs as tests want them: options as keywords, one thread, every temperature 1 unless it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from jukebox.model.folder import ModelFolder
from jukebox.params import MachineOptions, SamplingOptions
from jukebox.runs import request
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling import walk
from jukebox.song import Song
from priors.registry import PRIOR_PARAMS


def pace(model: ModelFolder) -> float:
    """How many times as long a song of a model must be as one of the three test levels, for as many frames of the coarsest level."""
    return model.spec.unit / 128


def top_levels(model: ModelFolder, count: int = 2) -> tuple[int, ...]:
    """The first `count` levels of the default route, or as many as it has, coarsest first."""
    return tuple(model.spec.names.index(stream) for stream in model.info.route().priors)[:count]


def settings_of(
    model: ModelFolder, *, params: Mapping[int, Any] | None = None, passes: Sequence[int] = (), **options: Any
) -> RunSettings:
    """Settings of a run of a model; `params` are those of the prior of each level, `passes` of masked levels, coarsest first."""
    ours = {each.name for each in fields(SamplingOptions)}
    machine = MachineOptions(**{"threads": 1, **{k: v for k, v in options.items() if k not in ours}})
    settings = RunSettings(SamplingOptions(**{k: v for k, v in options.items() if k in ours}), None, machine)
    by_stream, left = {}, list(passes or (24, 12))
    for stream, name in settings.route(model.info).priors.items():
        if name in model.info.priors:
            kind = PRIOR_PARAMS.load(model.info.priors[name].config.kind)
            by_stream[stream] = (params or {}).get(model.spec.names.index(stream)) or kind()
            if "passes" in (each.name for each in fields(kind)) and left:
                by_stream[stream] = kind(**{**vars(by_stream[stream]), "passes": left.pop(0)})
    return RunSettings(settings.options, by_stream, machine)


def sample(model: ModelFolder, songs: Sequence[Song], seconds: float, out: str | Path, **options: Any) -> Run:
    """A run of songs from conditions alone."""
    return walk.resume(Run.create(out, request.sampled(model.info, songs, seconds, settings_of(model, **options))), model)


def continue_(
    model: ModelFolder, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, out: str | Path,
    **options: Any,
) -> Run:  # fmt: skip
    """A run that continues recordings, codes or runs."""
    asked = request.continued(model.info, songs, prompts, prompt_seconds, seconds, settings_of(model, **options))
    return walk.resume(Run.create(out, asked), model)
