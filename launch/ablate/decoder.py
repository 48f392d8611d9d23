"""`jukebox ablate decoder DATA MODEL`: effect of discriminators on the decoder of a trained spectral codec, at equal CPU time.

A step with discriminators needs the time of several steps without them. So the arm without discriminators is trained for more
steps. Each process first measures the time per step of both arms. The third arm is the unchanged codec.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.audio.audio import write_wav
from data_prep.beats import find_onsets
from data_prep.errors import UserError
from data_prep.manifest import audio_path
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.evaluation.metrics import frechet_distance, mel_distance, multiscale_distance, sound_features, sound_statistics
from jukebox.evaluation.reconstruction import false_partials, rise_times
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.model.recipe import Recipe
from launch.ablate.experiment import Arm, Comparison, Experiment, Figures, Unit
from launch.engines.engine import TorchEngine
from launch.render.decodings import SECONDS, reference_features, spectral_codec
from launch.training.tasks.decoder import DecoderTask
from launch.training.tasks.task import TaskSetup
from vqvae.spectral.config import TOKENS
from vqvae.spectral.model import SpectralCodec

TIMED = 8  # timed steps, after one warm-up step


def check(unit: Unit) -> None:
    if not find(unit.preset).more_recipes.get("decoder"):
        raise UserError(f"the preset {unit.preset} has no recipe of a decoder; give --preset demo")
    spectral_codec(ModelFolder.from_pretrained(unit.model))


def train_and_measure(unit: Unit) -> Figures:
    folder = unit.folder / "model"
    if not folder.is_dir():
        shutil.copytree(unit.model, folder, ignore=shutil.ignore_patterns("training"))
    base = find(unit.preset).more_recipes["decoder"][TOKENS]
    seconds = {adversary: seconds_per_step(unit, recipe_of(base, adversary)) for adversary in (True, False)}
    trained: Figures = {"steps_trained": 0}
    if unit.arm.changes is not None:
        steps = unit.steps if unit.arm.changes else round(unit.steps * seconds[True] / seconds[False])
        recipe = replace(recipe_of(base, unit.arm.changes), steps=steps, max_minutes=0.0)
        began = time.process_time()
        unit.train(new_task(unit, recipe))
        trained = {"steps_trained": steps, "cpu_minutes": (time.process_time() - began) / 60}
    return trained | measured(unit, spectral_codec(ModelFolder.from_pretrained(folder)))


def recipe_of(base: Recipe, adversary: bool) -> Recipe:
    return base if adversary else replace(base, phases={})


def new_task(unit: Unit, recipe: Recipe) -> DecoderTask:
    model = ModelFolder.from_pretrained(unit.folder / "model")
    return DecoderTask(TaskSetup(model, TOKENS, unit.data, recipe, unit.seed, "cpu"))


def seconds_per_step(unit: Unit, recipe: Recipe) -> float:
    """Measure the CPU seconds of a step of all phases of training."""
    task = new_task(unit, recipe)
    task.open()
    engine, began = TorchEngine(task.model, recipe, torch.device("cpu"), task.phases(recipe)), 0.0
    for step in range(1 + TIMED):
        batch = task.batch(step, 0, 1)
        began = began if step > 1 else time.process_time()
        shared = task.forward(batch, step)
        for phase in engine.phases:
            engine.step(
                lambda part, name=phase, shared=shared: task.phase_loss(name, part, 0, shared), [batch], step, phase=phase
            )
    return (time.process_time() - began) / TIMED


def measured(unit: Unit, codec: SpectralCodec) -> Figures:
    """Return the figures of a codec, averaged over held-out songs. Rise times are measured at onsets of the original."""
    reference, found = reference_features(unit.data, codec.config), []
    for number, row in enumerate(split_rows(unit.data, "test", unit.songs)):
        audio = read_wave(unit.data, row, codec.config.spec, SECONDS)
        made = codec.decode_long(codec.encode_long(audio[None], [TOKENS])[TOKENS], TOKENS)[0]
        if not number:
            for name, sound in (("true", audio), ("made", made)):
                write_wav(unit.folder / f"{name}.wav", sound.numpy(), codec.config.sample_rate)
        strokes = [second for second in find_onsets(audio_path(unit.data, row)) if second < SECONDS]
        found.append(figures_of(audio, made, codec.config.sample_rate, strokes, reference))
    return {name: float(np.nanmean([each[name] for each in found])) for name in found[0]}


def figures_of(
    audio: Float[Tensor, "c t"],
    made: Float[Tensor, "c t"],
    rate: int,
    strokes: Sequence[float],
    reference: Float[Tensor, "n d"],
) -> Figures:
    x, y = audio.mean(0), made.mean(0)
    rises = [float(np.median(found)) if (found := rise_times(sound, rate, strokes)) else np.nan for sound in (x, y)]
    return {
        "mel": mel_distance(x, y, rate), "multiscale": multiscale_distance(x, y),
        "rise_ms": rises[1], "rise_excess": rises[1] / rises[0],
        "false": false_partials(x, y, rate), "frechet": frechet_distance(reference, sound_features(made, rate)),
        "peakiness": sound_statistics(made, rate).peakiness / max(sound_statistics(audio, rate).peakiness, 1e-9),
    }  # fmt: skip


_AGAINST = {
    "mel": "mel, dB",
    "multiscale": "multi-scale, dB",
    "rise_excess": "rise, share of the original's",
    "frechet": "Frechet",
}
EXPERIMENT = Experiment(
    train_and_measure,
    [
        Arm("as it was", "none", {"adversary": "none"}),
        Arm("without discriminators", "plain", {"adversary": "without"}, changes=False),
        Arm("against discriminators", "adversary", {"adversary": "with"}, changes=True),
    ],
    check,
    {
        "mel": ("mel, dB", 2), "multiscale": ("multi-scale, dB", 2), "rise_ms": ("rise, ms", 1), "rise_excess": ("of the original's", 2),
        "false": ("false partials", 2), "peakiness": ("peakiness, of the original's", 2), "frechet": ("Frechet", 1),
        "steps_trained": ("steps", 0), "cpu_minutes": ("CPU minutes", 1),
    },
    comparisons=[
        Comparison(f"{title}: with less without", "against discriminators", "without discriminators", name, "below 0")
        for name, title in _AGAINST.items()
    ],
    artifacts="models and their reconstructions of a held-out song are",
)  # fmt: skip
