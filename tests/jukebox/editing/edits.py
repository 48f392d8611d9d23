"""What tests of edits begin with: a model with a masked prior, a song in a file, settings as keywords, an edit that is interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from jukebox import Jukebox
from jukebox.editing.job import edit_route
from jukebox.editing.verbs import EditSettings
from jukebox.model.presets import find
from jukebox.params import EditOptions, MachineOptions, SamplingOptions, SamplingParams
from jukebox.runs.request import RunSettings
from jukebox.runs.run import Run
from jukebox.sampling.sampler import Written
from tests.conftest import make_model, random_prior

RATE, HOP = 22050, 128
RATIOS = {"vq.0": 16, "vq.1": 4, "vq.2": 1}


class Interrupted(Exception):
    """Raised by a report in place of an interruption."""


def with_masked(folder: Path, lyrics: bool = True, preset: str = "test") -> Jukebox:
    """A model of random weights with a masked prior, conditioned on lyrics or not."""
    model = make_model(folder, presets=(preset,))
    name, config = next((name, each) for name, each in find(preset).priors.items() if each.kind == "masked")
    if not lyrics:
        config = replace(config, lyrics=None, trunk=replace(config.trunk, order=("full", "full"), time_bias=False))  # type: ignore[call-arg]
    torch.manual_seed(1)
    model.save_prior(name, random_prior(config))
    return Jukebox.from_pretrained(folder)


def passes_of(model: Jukebox) -> tuple[int, ...]:
    """Two passes of each level of an edit by a masked prior."""
    return (2,) * len(edit_route(model.info).priors)


def ratios_of(model: Jukebox) -> dict[str, int]:
    """Frames per column of each stream of an edit, finest first."""
    streams = [model.spec.stream(name) for name in reversed(edit_route(model.info).priors)]
    return {stream.name: model.spec.unit // stream.hop for stream in streams}


def write_song(path: Path, rate: int = 44100, channels: int = 2, seconds: float = 4.0, **params) -> Path:
    at = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, (len(at), channels))
    tones = [0.4 * np.sin(2 * np.pi * (220 + 60 * c) * at * (1 + 0.1 * at)) for c in range(channels)]
    soundfile.write(path, np.stack(tones, axis=1) + noise, rate, **params)
    return path


def samples(path: Path) -> np.ndarray:
    """(n, c) in float64, which holds every sample of 16, 24 and 32 bits exactly."""
    return soundfile.read(path, dtype="float64", always_2d=True)[0]


def settings_of(
    *, words=None, report=None, temperature: float = 1.0, passes: tuple[int, ...] = (2, 2, 2), dtype: str = "float32",
    device: str = "cpu", **options: Any,
) -> EditSettings:  # fmt: skip
    """Settings of an edit, its options as keywords; few passes, one thread."""
    finer = {"temperature_lower": temperature} if len(passes) > 1 else {}  # a route of one level has no lower ones
    params = SamplingParams(temperature, passes=passes, **finer)
    ours = {each.name for each in fields(EditOptions)}
    edit = EditOptions(**{k: v for k, v in options.items() if k in ours})
    sampling = SamplingOptions(**{k: v for k, v in options.items() if k not in ours})
    return EditSettings(
        words, RunSettings(sampling, params, MachineOptions(threads=1, device=device, dtype=dtype)), edit, report
    )


def interrupt(edit: Callable[[Callable[[Written], None]], object], after: int) -> list[Written]:
    """Begin an edit whose report raises at its update number `after`; the updates until then."""
    seen: list[Written] = []

    def report(written: Written) -> None:
        seen.append(written)
        if len(seen) >= after:
            raise Interrupted

    with pytest.raises(Interrupted):
        edit(report)
    return seen


def assert_same_codes(a: Run, b: Run) -> None:
    for level in a.request["levels"]:
        assert a.count(level) == b.count(level) == a.total(level)
        assert np.array_equal(a.codes(level), b.codes(level))
