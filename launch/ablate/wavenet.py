"""`jukebox ablate wavenet DATA`: evaluation of WaveNet and NSynth over seeds. Each figure has a control.

period .. nsynth    Small models of signals with known structure (`launch/probes/`). They do not use DATA.
table               Reconstruction of held-out songs of DATA by five models that are trained for equal CPU time.

The time of the table is the time of --steps steps of the coarsest level of the VQ-VAE of --preset. The models are this VQ-VAE,
this VQ-VAE with the argmax bottleneck, NSynth, a WaveNet that decodes the codes of the VQ-VAE, and a spectral autoencoder. The
latents of the spectral autoencoder have as many numbers per second as those of NSynth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.audio.audio import read, write_wav
from data_prep.files import write_bytes, write_json
from jukebox.evaluation.fidelity import BANDS, band_figures
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.evaluation.metrics import mel_distance
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import Preset, find
from jukebox.params import MachineOptions
from jukebox.report.curves import COLOURS, HEIGHT, WIDTH, panel_svg
from jukebox.runs.request import RunSettings, upsampled_codes
from jukebox.runs.run import Run
from jukebox.sampling.walk import resume
from jukebox.song import Song
from launch.ablate.experiment import Arm, Comparison, Experiment, FigureRows, Figures, Unit, titled
from launch.corpus.encode import encode
from launch.corpus.pcm import open_pcm
from launch.engines.engine import TorchEngine
from launch.probes import nsynth, wavenet
from vqvae.mulaw.config import MuLawConfig
from vqvae.nsynth.config import EMBEDDING
from vqvae.spectral.config import LATENTS, TOKENS

STEPS = {"period": 300, "notes": 200, "thread": 300, "nsynth": 1000}  # of the small models, at most
TIMED, SECONDS = 5, 2.0  # steps that are timed, after two that are not; of a held-out song


class TableModel(NamedTuple):
    """A trained model of the table."""

    model: ModelFolder
    stream: str
    decode: Callable[[Tensor, Path], Tensor]  # (wave (1, c, t), working folder) -> reconstruction from the stream
    receptive_field: int  # samples
    steps: int  # steps of training


# ---- small models


def small(unit: Unit) -> Figures:
    """Train and measure a small model of a signal with known structure."""
    what, options = unit.arm.keys["part"], unit.arm.changes or {}
    steps, seed = min(unit.steps, STEPS[what]), unit.seed
    if what == "period":
        return {"repetition": wavenet.period_figures(**options, steps=steps, seed=seed)}
    if what == "notes":
        return {"notes": wavenet.note_figures(wavenet.musician(steps, seed), seed)}
    if what == "thread":
        found = wavenet.thread_figures(steps, seed)
        write_bytes(unit.folder / "thread.svg", thread_svg(found).encode())
        return {"thread": found}
    model = nsynth.trained(steps, seed)
    return {
        "N1": nsynth.latent_figures(model, seed), "N2": nsynth.morph_figures(model, seed), "N3": nsynth.stretch_figures(model, seed),
        "N4": nsynth.pitch_figures(model, nsynth.spectral_baseline(steps, seed), seed),
    }  # fmt: skip


def thread_svg(found: Figures) -> str:
    """Plot the agreement with the true pitch by seconds after the prompt, as SVG."""
    curves = {
        name.replace("_", " "): ((np.arange(len(values)) + 0.5) * found["seconds"], np.array(values))
        for name, values in found["agreement"].items()
    }
    panel = panel_svg("pitch_agreement", curves, dict(zip(curves, COLOURS, strict=False)))
    size = f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{panel}</svg>'


# ---- the table


def check(unit: Unit) -> None:
    """Decode the corpus to samples before the processes start; UserError if a split is empty."""
    config = find(unit.preset).codec.spec
    split_rows(unit.data, "test")
    open_pcm(unit.data, split_rows(unit.data, "train"), config.sample_rate, config.channels)


def seconds_per_step(task: Any) -> float:
    """Measure the CPU time of a training step: the median of TIMED steps."""
    task.open()
    engine, took = TorchEngine(task.model.train(), task.recipe, torch.device("cpu"), task.phases(task.recipe)), []
    for step in range(2 + TIMED):
        began = time.process_time()
        engine.step(lambda part: task.loss(part, task.recipe.steps - 1), [task.batch(step, 0, 1)], step)
        took.append(time.process_time() - began)
    return float(np.median(took[2:]))


def train_equally(unit: Unit, new_task: Callable[[Unit], Any], name: str = "training") -> int:
    """Train a task for the CPU time that the VQ-VAE needs for the steps of the unit, and return the number of steps.

    The number of steps is measured once and stored.
    """
    measured, preset = unit.folder / f"{name}.json", find(unit.preset)
    if not measured.is_file():
        stream = preset.codec.spec.names[-1]
        base = unit.new_task(ModelFolder.create(unit.folder / "timed", preset.codec), stream, preset.codec_recipes[stream])
        steps = max(2, round(unit.steps * seconds_per_step(base) / seconds_per_step(new_task(unit))))
        write_json(measured, {"steps": steps})
    steps = json.loads(measured.read_text(encoding="utf-8"))["steps"]
    unit.train(new_task(unit._replace(steps=steps)), name)
    return steps


def trained_codec(unit: Unit) -> TableModel:
    """Train the coarsest level of the VQ-VAE with the bottleneck of the arm."""
    preset = find(unit.preset).with_bottleneck(unit.arm.changes["bottleneck"])
    model, stream = ModelFolder.create(unit.folder / "model", preset.codec), preset.codec.spec.names[-1]

    steps = train_equally(unit, lambda unit: unit.new_task(model, stream, preset.codec_recipes[stream]))
    return TableModel(model, stream, by_codec(model, stream), 2 * preset.codec.receptive_field(stream), steps)


def trained_spectral(unit: Unit) -> TableModel:
    """Train the spectral autoencoder without quantiser. Its latents have as many numbers per second as those of NSynth."""
    preset = find("test_spectral" if unit.preset.startswith("test") else "demo")
    config: Any = preset.codecs[-1]
    recipe = replace(preset.codec_recipes[TOKENS], delay_quantiser=1.0)
    other = nsynth_preset(unit)[1].codecs[-1].spec.stream(EMBEDDING)
    config = replace(config, latent=other.width * config.hop // other.hop, phases="griffin_lim")
    model = ModelFolder.create(unit.folder / "model", config)

    steps = train_equally(unit, lambda unit: unit.new_task(model, TOKENS, recipe))
    return TableModel(model, LATENTS, by_codec(model, LATENTS), 2 * config.receptive_field(LATENTS), steps)


def nsynth_preset(unit: Unit) -> tuple[str, Preset]:
    """Return the name and the preset of NSynth at the size of the table."""
    name = "test_nsynth" if unit.preset.startswith("test") else "nsynth_small"
    return name, find(name)


def trained_nsynth(unit: Unit) -> TableModel:
    name, preset = nsynth_preset(unit)
    model = [ModelFolder.create(unit.folder / "model", config) for config in preset.codecs][-1]
    model.add_preset(name)

    steps = train_equally(unit, lambda unit: unit.new_task(model, EMBEDDING, preset.codec_recipes[EMBEDDING]))
    return TableModel(model, EMBEDDING, by_run(model, EMBEDDING), preset.priors["nsynth_decoder"].memory, steps)


def trained_decoder(unit: Unit) -> TableModel:
    """Train the VQ-VAE, then a WaveNet that decodes its codes."""
    codec = trained_codec(unit)
    model = ModelFolder.create(unit.folder / "model", MuLawConfig(codec.model.sample_rate))
    encode(str(unit.data), str(model.folder), split="train", threads=1, device="cpu", cache=str(unit.folder))
    stream, preset = model.spec.stream(codec.stream), nsynth_preset(unit)[1]
    config: Any = preset.priors["nsynth_decoder"]  # the WaveNet of NSynth, which reads codes here
    config = replace(config, frame=stream.hop, reads=stream.name, read_bins=stream.bins, read_width=0)
    recipe = replace(preset.codec_recipes[EMBEDDING], crop=0)

    steps = train_equally(
        unit, lambda unit: unit.new_task(model, "wavenet_codes", recipe, config, unit.folder), "training_decoder"
    )
    return TableModel(model, codec.stream, by_run(model, codec.stream), config.memory, steps)


def by_codec(model: ModelFolder, stream: str) -> Callable[[Tensor, Path], Tensor]:
    codec = model.codec([stream])
    return lambda wave, folder: codec.decode_long(codec.encode_long(wave, [stream])[stream], stream)


def by_run(model: ModelFolder, stream: str) -> Callable[[Tensor, Path], Tensor]:
    """Return a function that reconstructs a wave in a run: a prior of samples decodes the codes of the wave."""

    def decode(wave: Tensor, folder: Path) -> Tensor:
        codes = model.codec([stream]).encode_long(wave, [stream])[stream][0].numpy()
        path, hashes = folder / "codes.npz", {stream: model.info.codes_hash(stream)}
        Codes({stream: codes}, model.sample_rate, wave.shape[-1], hashes).save(path)
        settings = RunSettings(machine=MachineOptions(threads=1, device="cpu"))
        run = Run.create(folder / "run", upsampled_codes(model.info, Song(), path, settings), join=True)
        run.shown = False
        resume(run, model)
        return torch.from_numpy(read(run.audio_path(run.request["levels"][-1], 0))[0])[None]

    return decode


TRAINERS: Mapping[str, Callable[[Unit], TableModel]] = {
    "vqvae": trained_codec, "argmax": trained_codec, "NSynth": trained_nsynth, "WaveNet of vq.2": trained_decoder,
    "spectral": trained_spectral,
}  # fmt: skip


def table_row(unit: Unit) -> Figures:
    """Train a model of the table, and return its errors, averaged over held-out songs, its speed and its sizes."""
    trained = TRAINERS[unit.arm.keys["model"]](unit)
    spec, stream, found, took, seconds = trained.model.spec, trained.model.spec.stream(trained.stream), [], 0.0, 0.0
    for number, row in enumerate(split_rows(unit.data, "test", unit.songs)):
        true = read_wave(unit.data, row, spec, SECONDS)[None]
        (folder := unit.folder / f"song_{number}").mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        made = trained.decode(true, folder)
        took += time.perf_counter() - began
        seconds += true.shape[-1] / spec.sample_rate
        for name, audio in (("true", true), ("made", made)):
            write_wav(folder / f"{name}.wav", audio[0].numpy(), spec.sample_rate)
        errors = band_figures(true, made, spec.sample_rate)["error"]
        found.append([mel_distance(true[0].mean(0), made[0].mean(0), spec.sample_rate), *errors])
    means = dict(zip(["mel_db", *(f"error {band}" for band in BANDS)], np.mean(found, axis=0).tolist(), strict=True))
    return {"table": means | {
        "numbers_per_second": spec.sample_rate / stream.hop * (stream.width or 1), "speed": seconds / took,
        "receptive_field": trained.receptive_field / spec.sample_rate, "steps": trained.steps,
    }}  # fmt: skip


def train_and_measure(unit: Unit) -> Figures:
    return table_row(unit) if "model" in unit.arm.keys else small(unit)


_TABLE = {
    "mel distance, dB": "mel_db", **{f"error {band}": f"error {band}" for band in BANDS}, "numbers per second": "numbers_per_second",
    "seconds of music per second": "speed", "receptive field, s": "receptive_field", "steps": "steps",
}  # fmt: skip
EXPERIMENT = Experiment(
    train_and_measure,
    [
        Arm("W4, period 193 of 16 symbols", "period_193", {"part": "period", "period": 193}, {"period": 193, "symbols": 16}),
        Arm("W4, period 200 of 256 symbols", "period_200", {"part": "period", "period": 200}, {"period": 200, "symbols": 256}),
        Arm("W5", "notes", {"part": "notes"}), Arm("thread", "thread", {"part": "thread"}),
        Arm("NSynth, notes", "nsynth", {"part": "nsynth"}),
        *(Arm(f"table: {name}", f"table_{name.lower().replace(' ', '_')}", {"model": name},
              {"bottleneck": "argmax" if name == "argmax" else "codebook"}) for name in TRAINERS),
    ],
    check,
    rows=[
        FigureRows(titled("bits, receptive field ", "repetition", "beyond", "below", "blind", "ratio")),
        FigureRows(titled("bits: ", "notes.bits", "own", "false_label", "entropy", "ratio")),
        FigureRows(titled("pitch of continuations: ", "notes.pitch", "kept", "of_other_notes")),
        FigureRows({"timbre of notes from a label": "notes.timbre_from_label"}),
        FigureRows(titled("pitch in the first 50 ms: ", "thread.first_frame", "made", "true", "of_another_piece")),
        FigureRows(titled("pitch after a note's length: ", "thread.after_a_note", "made", "true", "of_another_piece")),
        FigureRows(titled("N1, bits, latents ", "N1", "own", "other", "none", "ratio")),
        FigureRows(titled("N2, ", "N2", "centroid_correlation", "other_order", "pitch_kept")),
        FigureRows(titled("N3, ", "N3", "pitch_kept", "pitch_of_half_speed", "length")),
        FigureRows(titled("N4, pitch kept, ", "N4", "nsynth", "spectral", "of_other_notes")),
        FigureRows({title: f"table.{name}" for title, name in _TABLE.items()}),
    ],
    comparisons=[Comparison("mel distance, dB, NSynth less than spectral", "table: NSynth", "table: spectral", "table.mel_db")],
    artifacts="models, songs as they decode them, and the figure thread.svg are",
)  # fmt: skip
