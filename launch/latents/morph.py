"""The verbs `morph` and `stretch`: mix or stretch recordings as latents (NSynth, arXiv:1704.01279, section 4.2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from launch.cli.usage import shared_flags


@shared_flags
def morph(
    model: str, first: str, second: str, *, out: str, alpha: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0), seed: int = 0,
    params: SamplingParams, machine: MachineOptions,
) -> None:  # fmt: skip
    """Mix two recordings as latents: a wav for each share of the second, with its latents in a file of codes beside it.

    The same command resumes interrupted decoding.

    model: folder of a model with a trained stream of latents, such as one of the preset nsynth
    first: the recording of alpha 0
    second: the recording of alpha 1; the longer one is cut to the length of the other
    out: folder to write
    alpha: shares of the second recording, such as 0,0.25,0.5,0.75,1
    seed: seed of all random numbers
    """
    from jukebox.editing import latents
    from jukebox.model.folder import ModelFolder
    from jukebox.runs.request import RunSettings

    opened, settings = ModelFolder.from_pretrained(model), RunSettings(SamplingOptions(seed=seed), params, machine)
    _report(lambda: latents.morph(opened, first, second, alpha, Path(out), settings))


@shared_flags
def stretch(
    model: str, song: str, *, out: str, factor: float = 2.0, seed: int = 0, params: SamplingParams, machine: MachineOptions
) -> None:
    """Make a recording longer or shorter at the same pitch: latents are repeated or left out, and decoded.

    The same command resumes interrupted decoding.

    model: folder of a model with a trained stream of latents, such as one of the preset nsynth
    song: the recording
    out: file to write (.wav, .flac, .mp3, ..); its latents are written beside it
    factor: length of the result divided by the length of the recording
    seed: seed of all random numbers
    """
    from jukebox.editing import latents
    from jukebox.model.folder import ModelFolder
    from jukebox.runs.request import RunSettings

    opened, settings = ModelFolder.from_pretrained(model), RunSettings(SamplingOptions(seed=seed), params, machine)
    _report(lambda: latents.stretch(opened, song, factor, Path(out), settings))


def _report(make: Callable[[], list[Path]]) -> None:
    """Call `make`, and print the paths of the written files and the time."""
    began = time.monotonic()
    for path in make():
        print(path)
    print(f"decoded in {time.monotonic() - began:.1f} s")
