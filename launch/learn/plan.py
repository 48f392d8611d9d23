"""The time plan of `jukebox learn`: a preset for the machine and the time, and the steps of each part from measured speeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.errors import UserError
from data_prep.pool import usable_cores
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find
from jukebox.planning.sampling import spell
from launch.training.defaults import GPU_BYTES
from launch.training.expected import step_seconds
from launch.training.tasks.task import TaskSetup
from vqvae.spectral.config import TOKENS

# shares of the hours; the rest is for decoding and encoding the music, the evaluation and the songs
CODEC, PRIOR = 0.30, 0.52
SIZES = ((4.0, "recordings_large"), (0.75, "recordings"), (0.0, "recordings_small"))  # least hours -> preset, on a CPU
SPARE = 1.25  # factor on the steps that fit into the time
FAST = {"prepare": 150.0, "encode": 60.0}  # approximate seconds of music per second and core
SONGS = {"evaluate": 60.0, "sample": 30.0, "continue": 30.0}  # approximate seconds


@dataclass(frozen=True)
class LearnPlan:
    """A preset, and the steps and minutes of codec and prior."""

    preset: str
    codec_steps: int
    codec_minutes: float
    prior_steps: int
    prior_minutes: float


def preset_for(given: str, hours: float, device: str) -> str:
    """Return the given preset, or the preset for this machine and time; UserError if a given preset has no spectral route."""
    if given:
        preset = find(given)
        if TOKENS not in preset.priors or preset.codec.kind != "spectral":
            raise UserError(f"--preset {given}: expected one of the spectral codec alone, such as recordings or spectral")
        return given
    gpu = torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
    return "spectral" if gpu >= GPU_BYTES["spectral"] else next(name for least, name in SIZES if hours >= least)


def make_plan(name: str, hours: float, device: str) -> LearnPlan:
    """Plan more steps than fit, from the measured time of one step; the minutes of each part end its training."""
    preset = find(name)
    model, found = ModelFolder(ModelInfo.of_shapes(preset.codecs, preset.priors)), []
    parts = ((CODEC, preset.codec_recipes[TOKENS], None), (PRIOR, preset.prior_recipes[TOKENS], preset.priors[TOKENS]))
    for share, recipe, config in parts:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            setup = TaskSetup(model, TOKENS, Path(), recipe, 0, device, config)
            each = step_seconds(setup, enough=math.inf, most=20.0)
        minutes = 60 * hours * share
        usual = (
            recipe.steps * minutes / recipe.max_minutes if recipe.max_minutes else 0
        )  # used if it is larger, because the machine may have been busy during the measurement
        found += [max(1, round(max(SPARE * 60 * minutes / each, usual))), minutes]
    return LearnPlan(name, *found)


def plan_lines(plan: LearnPlan, songs: int, music: float, hours: float, prepared: bool) -> list[str]:
    """Return one line per stage, with its work and its approximate time; music of a data folder is `prepared`."""
    preset, cores = find(plan.preset), usable_cores()
    codec, prior = preset.codec, preset.priors[TOKENS]
    weights = [codec.parameter_count(TOKENS) / 1e6, prior.parameters().all / 1e6]
    first = {f"prepare   {songs} songs, {music / 3600:.3g} h of music": music / FAST["prepare"] / cores}
    stages = {
        **({} if prepared else first),
        f"codec     {weights[0]:.1f} million weights, up to {plan.codec_steps:,} steps": 60 * plan.codec_minutes,
        f"encode    {codec.spec.stream(TOKENS).books} codes a frame": music / FAST["encode"] / cores,
        f"prior     {weights[1]:.1f} million weights, up to {plan.prior_steps:,} steps": 60 * plan.prior_minutes,
        **SONGS,
    }
    width = max(map(len, stages))
    lines = [f"  {what:<{width}}  {spell(seconds)}" for what, seconds in stages.items()]
    return [f"preset {plan.preset}, {codec.spec.sample_rate} Hz, for {spell(3600 * hours)}:", *lines]
