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
from jukebox.model.presets import Preset, find
from jukebox.model.recipe import Recipe
from jukebox.planning.sampling import spell
from launch.training.defaults import GPU_BYTES
from launch.training.expected import step_seconds
from launch.training.tasks.task import TaskSetup
from priors.spec import PriorConfig
from vqvae.spectral.config import TOKENS

# shares of the hours; the rest is for decoding and encoding the music, the evaluation and the songs
CODEC, PRIOR = 0.30, 0.52
LEAST = 0.2  # of the codec, if transposed songs take long to encode
SIZES = ((4.0, "recordings_large"), (0.75, "recordings"), (0.0, "recordings_small"))  # least hours -> preset, on a CPU
SPARE = 1.25  # factor on the steps that fit into the time
PASSES = 5.0  # of a prior over the training music: with more, held-out songs take more bits
SEMITONES = (-2.0, 2.0)  # training songs are also encoded transposed, if the prior has time for more music
FEWEST = 100  # steps of a prior, also with little music
FAST = {"prepare": 150.0, "encode": 100.0}  # approximate seconds of music per second and core
SONGS = {"evaluate": 60.0, "sample": 30.0, "continue": 30.0}  # approximate seconds


@dataclass(frozen=True)
class LearnPlan:
    """A preset, the steps and minutes of codec and prior, and the transpositions of the training songs in semitones."""

    preset: str
    codec_steps: int
    codec_minutes: float
    prior_steps: int
    prior_minutes: float
    semitones: tuple[float, ...] = ()


def preset_for(given: str, hours: float, device: str) -> str:
    """Return the given preset, or the preset for this machine and time; UserError if a given preset has no spectral route."""
    if given:
        preset = find(given)
        if TOKENS not in preset.priors or preset.codec.kind != "spectral":
            raise UserError(f"--preset {given}: expected one of the spectral codec alone, such as recordings or spectral")
        return given
    gpu = torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
    return "spectral" if gpu >= GPU_BYTES["spectral"] else next(name for least, name in SIZES if hours >= least)


def make_plan(name: str, hours: float, device: str, music: float) -> LearnPlan:
    """Plan codec and prior for `hours` of time and `music` seconds of training songs.

    The steps of the prior are limited by the music, for which transposed songs count too. The codec gets the time that the prior
    and the encoding of transposed songs do not need.
    """
    preset, minutes = find(name), 60 * hours
    recipe, config = preset.prior_recipes[TOKENS], preset.priors[TOKENS]
    prior_minutes, each = PRIOR * minutes, step_minutes(preset, recipe, config, device)
    prior_steps = fitting(recipe, prior_minutes, each)
    semitones = SEMITONES if prior_steps > most_steps(recipe, config, music) else ()
    more = len(semitones) * music
    prior_steps = min(prior_steps, most_steps(recipe, config, music + more))
    prior_minutes = min(prior_minutes, SPARE * prior_steps * each)
    codec_minutes = (CODEC + PRIOR) * minutes - prior_minutes - more / FAST["encode"] / usable_cores() / 60
    codec_minutes, codec = max(codec_minutes, LEAST * minutes), preset.codec_recipes[TOKENS]
    codec_steps = fitting(codec, codec_minutes, step_minutes(preset, codec, None, device))
    return LearnPlan(name, codec_steps, codec_minutes, prior_steps, prior_minutes, semitones)


def step_minutes(preset: Preset, recipe: Recipe, prior: PriorConfig | None, device: str) -> float:
    """Measure the minutes of a training step of the prior, or of the codec (None)."""
    model = ModelFolder(ModelInfo.of_shapes(preset.codecs, preset.priors))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return step_seconds(TaskSetup(model, TOKENS, Path(), recipe, 0, device, prior), enough=math.inf, most=20.0) / 60


def fitting(recipe: Recipe, minutes: float, each: float) -> int:
    """Return more steps than fit into the minutes: by the measured time of one, or as the recipe has them if those are more.

    The machine may have been busy during the measurement.
    """
    usual = recipe.steps * minutes / recipe.max_minutes if recipe.max_minutes else 0
    return max(1, round(max(SPARE * minutes / each, usual)))


def most_steps(recipe: Recipe, prior: PriorConfig, music: float) -> int:
    """Return the steps in which a prior reads `music` seconds PASSES times, at least FEWEST."""
    return max(FEWEST, round(PASSES * music * prior.sample_rate / (recipe.batch * prior.n_ctx * prior.hop)))


def plan_lines(plan: LearnPlan, songs: int, music: float, hours: float, prepared: bool) -> list[str]:
    """Return one line per stage, with its work and its approximate time; music of a data folder is `prepared`."""
    preset, cores = find(plan.preset), usable_cores()
    codec, prior = preset.codec, preset.priors[TOKENS]
    weights = [codec.parameter_count(TOKENS) / 1e6, prior.parameters().all / 1e6]
    encoded = music * (1 + len(plan.semitones))
    transposed = f", also of songs {' and '.join(f'{each:+g}' for each in plan.semitones)} semitones" if plan.semitones else ""
    first = {f"prepare   {songs} songs, {music / 3600:.3g} h of music": music / FAST["prepare"] / cores}
    stages = {
        **({} if prepared else first),
        f"codec     {weights[0]:.1f} million weights, up to {plan.codec_steps:,} steps": 60 * plan.codec_minutes,
        f"encode    {codec.spec.stream(TOKENS).books} codes a frame{transposed}": encoded / FAST["encode"] / cores,
        f"prior     {weights[1]:.1f} million weights, up to {plan.prior_steps:,} steps": 60 * plan.prior_minutes,
        **SONGS,
    }
    width = max(map(len, stages))
    lines = [f"  {what:<{width}}  {spell(seconds)}" for what, seconds in stages.items()]
    return [f"preset {plan.preset}, {codec.spec.sample_rate} Hz, for {spell(3600 * hours)}:", *lines]
