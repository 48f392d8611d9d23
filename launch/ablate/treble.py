"""`jukebox ablate treble DATA`: fidelity of the three-level codec on recordings at equal CPU time, with and without changes.

    flat      upsampling without tones at multiples of the code rates (`VQVAEConfig.flat_upsampling`)
    relative  waveform errors relative to the level of their clip (`relative_waveform`)
    gain      crops of random gain, some of them silent (`Recipe.gain_db`)
    chosen    these three changes, as in the preset `recordings_levels`; variants add a distance of log magnitudes
              (`log_spectral`), pre-emphasis, or both

The base is the codec of --preset. An arm with slower steps is trained for fewer steps. The time per step is measured before
training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from data_prep.audio.audio import write_wav
from jukebox.evaluation.fidelity import fidelity_figures, silence_level
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.evaluation.metrics import band_energy_db, codebook_use, mel_distance, spectral_convergence, to_db
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.model.presets.demo import FOR_RECORDINGS, RECORDINGS_GAIN_DB
from jukebox.model.recipe import Recipe
from launch.ablate.experiment import Arm, Comparison, Experiment, Figures, Unit
from launch.corpus.pcm import open_pcm
from launch.engines.engine import TorchEngine
from vqvae.jukebox.config import VQVAEConfig

SECONDS, TIMED, WRITTEN = 20.0, 30, 3  # seconds of a held-out song; timed steps, after two warm-up steps; songs written as wav
STEPS = (2, 1)  # factor of --steps at levels 0 and 1, for about equal CPU time
FLAT: dict[str, Any] = {"flat_upsampling": True}
RELATIVE: dict[str, Any] = {"relative_waveform": True}
GAIN: dict[str, Any] = {"gain_db": RECORDINGS_GAIN_DB}  # a field of the recipe
CHOSEN: dict[str, Any] = {**FOR_RECORDINGS, **GAIN}
VARIANTS: Mapping[str, dict[str, Any]] = {
    "base": {}, "chosen": CHOSEN, "flat": FLAT, "relative": RELATIVE, "gain": GAIN,
    "chosen and emphasis": CHOSEN | {"pre_emphasis": 0.6},
    "chosen and log": CHOSEN | {"log_spectral": 0.3}, "chosen and both": CHOSEN | {"log_spectral": 0.3, "pre_emphasis": 0.6},
}  # fmt: skip

AT_BOTH_LEVELS = ("base", "chosen", "chosen and emphasis")


def arm_of(variant: str, level: int) -> Arm:
    name = f"{variant.replace(' ', '_')}_{level}"
    return Arm(f"{variant}, level {level}", name, {"variant": variant, "level": level}, VARIANTS[variant])


def shape_of(unit: Unit, changes: Mapping[str, Any]) -> tuple[VQVAEConfig, Recipe]:
    """Return the codec of the preset and the recipe of the level, both with `changes`."""
    preset: Any = find(unit.preset)
    recipe, codec = preset.codec_recipes[f"vq.{unit.arm.keys['level']}"], preset.codec
    of_recipe = {key: value for key, value in changes.items() if key in GAIN}
    of_codec = {key: value for key, value in changes.items() if key not in GAIN}
    return replace(codec, **of_codec), replace(recipe, **of_recipe)


def check(unit: Unit) -> None:
    """Decode the corpus to samples before the processes start; UserError if a split is empty."""
    config, _ = shape_of(unit, {})
    split_rows(unit.data, "test")
    open_pcm(unit.data, split_rows(unit.data, "train"), config.sample_rate, config.channels)


def new_task(unit: Unit, changes: Mapping[str, Any], name: str = "model") -> Any:
    config, recipe = shape_of(unit, changes)
    return unit.new_task(ModelFolder.create(unit.folder / name, config), config.spec.names[unit.arm.keys["level"]], recipe)


def cost(unit: Unit) -> float:
    """Return the CPU time of a step of the arm over the CPU time of a step of the base.

    The result is the median of TIMED pairs. Steps of both alternate, because the machine may be busy.
    """
    tasks = [new_task(unit, changes, name) for changes, name in (({}, "timed"), (unit.arm.changes, "model"))]
    engines = [TorchEngine(task.model.train(), task.recipe, torch.device("cpu"), task.phases(task.recipe)) for task in tasks]
    seconds = np.zeros((2 + TIMED, 2))
    for task in tasks:
        task.open()
    for step in range(2 + TIMED):
        for i, (task, engine) in enumerate(zip(tasks, engines, strict=True)):
            began = time.process_time()
            engine.step(lambda part, task=task: task.loss(part, task.recipe.steps), [task.batch(step, 0, 1)], step)
            seconds[step, i] = time.process_time() - began
    return float(np.median(seconds[2:, 1] / seconds[2:, 0]))


def train_and_measure(unit: Unit) -> Figures:
    steps = unit.steps * STEPS[unit.arm.keys["level"]]
    if any(key not in GAIN for key in unit.arm.changes):
        steps = round(steps / cost(unit))
    task = new_task(unit._replace(steps=steps), unit.arm.changes)
    began = time.process_time()
    unit.train(task)
    return {"steps_trained": steps, "cpu_minutes": (time.process_time() - began) / 60, **measured(unit, task.model.eval())}


def measured(unit: Unit, codec: Any) -> Figures:
    """Return the figures of a codec of one level, averaged over held-out songs. A pooled figure is of all songs joined."""
    stream, rate = codec.spec.streams[unit.arm.keys["level"]], codec.spec.sample_rate
    found, codes, songs = [], [], []
    for number, row in enumerate(split_rows(unit.data, "test", unit.songs)):
        true = read_wave(unit.data, row, codec.spec, SECONDS)[None]
        codes.append(codec.encode_long(true, [stream.name])[stream.name])
        made = codec.decode_long(codes[-1], stream.name)
        songs.append((true, made))
        if number < WRITTEN:
            for name, audio in (("true", true), ("made", made)):
                write_wav(unit.folder / f"{name}_{number}.wav", audio[0].numpy(), rate)
        figures = fidelity_figures(codec, stream.name, true, made)
        found.append({
            **figures, "above_2khz_abs_db": abs(figures["above_2khz_db"]),
            "convergence_db": to_db(spectral_convergence(true, made)).item(),
            "mel_db": mel_distance(true[0].mean(0), made[0].mean(0), rate),
        })  # fmt: skip
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    true, made = (torch.cat(each, dim=-1) for each in zip(*songs, strict=True))
    pooled = band_energy_db(true, made, rate, (2000, rate / 2)).item()
    _, entropy = codebook_use(torch.cat([each.flatten() for each in codes]), stream.bins)
    return means | {
        "above_2khz_pooled_db": pooled, "snr_lost_db": means["snr_db 0"] - means["snr_db -20"],
        "silence_db": silence_level(codec, stream.name), "entropy_bits": entropy,
    }  # fmt: skip


_EFFECTS = [
    ("comb, dB, less than the base", "comb_db", "at most 3 dB left"),
    ("above 2 kHz, pooled, dB, more than the base", "above_2khz_pooled_db", ""),
    ("dB of SNR lost at -20 dB gain, less than the base", "snr_lost_db", "at most 2 dB left"),
    ("silence, dBFS, less than the base", "silence_db", "below -70 dBFS"),
    ("convergence, dB, less than the base", "convergence_db", "below 0"),
    ("mel, dB, less than the base", "mel_db", "below 0"),
]
EXPERIMENT = Experiment(
    train_and_measure,
    [arm_of(variant, level) for level in (0, 1) for variant in VARIANTS if level == 0 or variant in AT_BOTH_LEVELS],
    check,
    {
        "comb_db": ("comb, dB", 1), "comb_true_db": ("original", 1), "above_2khz_db": ("above 2 kHz, dB", 1),
        "above_2khz_pooled_db": ("pooled", 1), "above_2khz_abs_db": ("absolute", 1), "energy_db above 5 kHz": ("above 5 kHz", 1),
        "snr_db 0": ("SNR, dB", 1), "snr_db -20": ("at -20", 1), "snr_db -40": ("at -40", 1), "silence_db": ("silence, dBFS", 0),
        "convergence_db": ("convergence, dB", 2), "mel_db": ("mel, dB", 2), "error 2-5 kHz": ("error 2-5 kHz", 2),
        "error above 5 kHz": ("above 5 kHz", 2), "steps_trained": ("steps", 0), "cpu_minutes": ("CPU minutes", 1),
    },
    comparisons=[
        Comparison(f"level {level}: {what}", f"chosen, level {level}", f"base, level {level}", name, aim)
        for level in (0, 1) for what, name, aim in _EFFECTS
    ],
    artifacts="models, and their reconstructions of held-out songs, are",
)  # fmt: skip
