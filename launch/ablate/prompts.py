"""`jukebox ablate prompts`: evaluation of prompts on held-out songs with masked priors of several seeds.

`jukebox/evaluation/prompts.py` describes the figures and their controls. No model is trained. MODEL is a model folder per seed
with a masked prior, and DATA has held-out songs. A unit is a seed. The sampled audio is written for listening.
"""

from __future__ import annotations

from torch import Tensor

from data_prep.audio.audio import write_wav
from jukebox.evaluation.held_out import hold_out
from jukebox.evaluation.prompts import TEMPERATURES, prompt_figures, verdicts
from jukebox.model.folder import CODEC, ModelFolder
from launch.ablate.experiment import Arm, Experiment, FigureRows, Figures, Unit, titled

SECONDS = 8.0  # of each song
SAVED_PROMPTS = 2  # number of songs with saved audio


def check(unit: Unit) -> None:
    """Raise UserError if the model has no masked prior."""
    ModelFolder.from_pretrained(unit.model).entry("masked")


def header(unit: Unit) -> Figures:
    return {"songs": unit.songs, "seconds": SECONDS}


def asked(unit: Unit) -> Figures:
    model = ModelFolder.from_pretrained(unit.model)
    hashes = model.hashes()
    return {"masked": hashes[model.entry("masked").file], "codec": hashes[CODEC], "temperatures": list(TEMPERATURES)}


def measure(unit: Unit) -> Figures:
    model = ModelFolder.from_pretrained(unit.model)
    finest = model.spec.names[0]
    codec = model.codec([finest])

    def keep(name: str, codes: Tensor) -> None:
        for i, row in enumerate(codes[:SAVED_PROMPTS]):
            sound = codec.decode_long(row[None], finest)[0].numpy()
            write_wav(unit.folder / f"song_{i}_{name.replace(', ', '_').replace(' ', '_')}.wav", sound, model.sample_rate)

    held = hold_out(model, unit.data, unit.songs, SECONDS)
    figures = prompt_figures(model, held, seconds=SECONDS, seed=unit.seed, kept=keep)
    return {**figures, "verdicts": verdicts(figures)}


EXPERIMENT = Experiment(
    measure,
    [Arm("", "prompts")],
    check,
    rows=[
        FigureRows({
            **titled("kept {}: ", "dial.{}", "bits_per_second", "mel", "frechet"),
            **titled("noise as far as {}: ", "noise.{}", "share", "mel", "frechet"),
        }, "dial"),
        FigureRows({"rank correlation of period and mel": "spearman", "columns kept at beats": "tempo.kept_columns"}),
        FigureRows({
            "tempo around {}: share within 4 %": "tempo.prompts.{}.share_within",
            **titled("tempo around {}: ", "tempo.prompts.{}", "mel", "frechet"),
        }, "tempo.prompts"),
    ],
    header=header,
    asked=asked,
    kept="prompts.json",
    artifacts="the sound is",
)  # fmt: skip
