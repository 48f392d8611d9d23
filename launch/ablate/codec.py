"""`jukebox ablate codec`: ablation study of the codec.

The base has the widths of the preset `demo`, 2048 codes, restarts, spectral loss, separate autoencoders, and no warm-up without
the quantiser. Every variant changes one of these. All variants are trained by the same loop on the same crops with several
seeds, and measured on held-out songs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.audio.audio import write_wav
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.evaluation.metrics import codebook_use, mono, spectral_convergence
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from jukebox.model.recipe import Recipe
from launch.ablate.experiment import Arm, Comparison, Experiment, Figures, Unit
from launch.corpus.pcm import open_pcm
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.nested import NestedVQVAE
from vqvae.stft import magnitudes

# variant -> (changed settings, levels to train); the top level is the hardest
VARIANTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "base": ({}, (2, 1, 0)),
    "no restarts": ({"threshold": 0.0}, (2,)),
    "no spectral loss": ({"multispectral": 0.0}, (2, 1, 0)),
    "256 codes": ({"bins": 256}, (2,)),
    "nested": ({}, (-1,)),  # -1: all levels in one model
}
# Samples of a crop by level; -1: all levels. A batch has 16 crops.
CROPS = {2: 4096, 1: 2048, 0: 2048, -1: 4096}
ABOVE_HZ = 2000.0


def arm_of(variant: str, level: int) -> Arm:
    title, name = f"{variant}, {'top alone' if level < 0 else f'level {level}'}", "all" if level < 0 else level
    return Arm(title, f"{variant.replace(' ', '_')}_{name}", {"variant": variant, "level": level}, VARIANTS[variant][0])


def shape_of(arm: Arm) -> tuple[VQVAEConfig, int]:
    """Return the configuration of an arm, and its crop in samples."""
    codec: Any = find("demo").codec
    config, crop = replace(codec, **{"bins": 2048, **arm.changes}), CROPS[arm.keys["level"]]
    codes = 16 * crop / config.hops[arm.keys["level"]]
    # a code is dead below a quarter of the mean use; the threshold is in uses per batch
    return replace(config, threshold=arm.changes.get("threshold", 0.25 * codes / config.bins)), crop


def recipe_of(arm: Arm) -> Recipe:
    return replace(find("demo").codec_recipes["vq.2"], batch=16, crop=shape_of(arm)[1], delay_quantiser=0.0, log_every=50)


def check(unit: Unit) -> None:
    """Decode the corpus to samples before the processes start; UserError if a split is empty."""
    config, _ = shape_of(unit.arm)
    split_rows(unit.data, "test")
    open_pcm(unit.data, split_rows(unit.data, "train"), config.sample_rate, config.channels)


def train_and_measure(unit: Unit) -> Figures:
    config, _ = shape_of(unit.arm)
    nested, top = unit.arm.keys["level"] < 0, config.spec.names[unit.arm.keys["level"]]  # -1: the coarsest
    task = unit.new_task(ModelFolder.create(unit.folder, config), top, recipe_of(unit.arm))
    if nested:
        nest(task, unit, config)
    unit.train(task)
    codec: Any = task.model.eval()
    held = [read_wave(unit.data, row, config.spec, 10.0)[None] for row in split_rows(unit.data, "test", unit.songs)]
    if nested:
        codes = [codec.encode(wave) for wave in held]
        made = [codec.decode(each, [top]) for each in codes]
        whole = [codec.decode(each, config.spec.names) for each in codes]
    else:
        codes = [codec.encode_long(wave, [top]) for wave in held]
        made = whole = [codec.decode_long(each[top], top) for each in codes]
    for name, audio in (("true", held[0]), ("made", made[0])):
        write_wav(unit.folder / f"{name}.wav", audio[0].numpy(), config.sample_rate)
    share, entropy = codebook_use(torch.cat([each[top].flatten() for each in codes]), config.bins)
    figures = _errors(held, made, config.sample_rate) | {"codes_used": share * config.bins, "entropy_bits": entropy}
    if nested:
        figures |= {f"whole_{name}": value for name, value in _errors(held, whole, config.sample_rate).items()}
    return figures


def nest(task: Any, unit: Unit, config: VQVAEConfig) -> None:
    """Change a task so that it trains all levels in one hierarchy."""
    torch.manual_seed(unit.seed)
    task.name, task.model = "nested", NestedVQVAE(config)
    task.save = lambda model: save_file(model.state_dict(), unit.folder / "nested.safetensors")


def _errors(true: Sequence[Tensor], made: Sequence[Tensor], sample_rate: int) -> dict[str, float]:
    """Return the spectral convergence in dB and the relative spectral error above 2 kHz, averaged over songs."""
    whole, high = [], []
    for x, y in zip(true, made, strict=True):
        whole.append(spectral_convergence(x, y).item())
        m_x, m_y = (magnitudes(mono(each), 2048, 512, pad=True) for each in (x, y))
        above = torch.linspace(0, sample_rate / 2, m_x.shape[-2]) >= ABOVE_HZ
        high.append(((m_x - m_y)[:, above].norm() / m_x[:, above].norm().clamp(min=1e-6)).item())
    return {"convergence_db": float(20 * np.log10(np.mean(whole))), "error_above_2khz": float(np.mean(high))}


_in_db = partial(Comparison, path="convergence_db", aim="below 0")
EXPERIMENT = Experiment(
    train_and_measure,
    [arm_of(variant, level) for variant, (_, levels) in VARIANTS.items() for level in levels],
    check,
    {
        "convergence_db": ("convergence, dB", 2), "error_above_2khz": ("error above 2 kHz", 3),
        "codes_used": ("codes used", 0), "entropy_bits": ("entropy, bits", 2),
        "whole_convergence_db": ("all levels, dB", 2), "whole_error_above_2khz": ("all levels, above 2 kHz", 3),
    },
    comparisons=[
        Comparison("restarts: codes used, with / without", "base, level 2", "no restarts, level 2", "codes_used", "at least 1.5", True),
        *(Comparison(f"spectral loss: error above 2 kHz, level {level}, with / without", f"base, level {level}",
                     f"no spectral loss, level {level}", "error_above_2khz", "at most 0.8", True) for level in (2, 1, 0)),
        _in_db("separate: dB of the top level less than nested", "base, level 2", "nested, top alone"),
        _in_db("2048 codes: dB of the top level less than with 256", "base, level 2", "256 codes, level 2"),
        _in_db("levels: dB of level 0 less than level 1", "base, level 0", "base, level 1"),
        _in_db("levels: dB of level 1 less than level 2", "base, level 1", "base, level 2"),
    ],
    artifacts="the reconstructions of a held-out song are",
)  # fmt: skip
