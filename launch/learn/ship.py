"""The model that comes with the package: a spectral codec and its prior of tokens in float16, small enough for a wheel."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.files import write_json
from jukebox.evaluation.sound import song_table
from jukebox.model.folder import ModelFolder, write_tensors
from jukebox.model.info import CONFIG, SHIPPED, ModelInfo
from jukebox.model.provenance import FILE as PROVENANCE
from launch.demo.evidence import FIGURES
from launch.demo.figures import read_json
from vqvae.spectral.config import TOKENS

ROWS = ("held-out songs", "reconstructed", "true songs of the requests", "generated", "untrained prior")  # rows of the card
MOST = 12_000_000  # largest size of the model in bytes


def ship(model: str, *, out: str = str(SHIPPED), figures: str = "") -> None:
    """Write the spectral codec and the prior of tokens of a model in float16, with labels and a model card.

    model: folder of a trained model
    out: folder to write (default: jukebox/assets/demo of this package)
    figures: folder of evaluation.json and, if there is one, figures.json, for the card (empty: none)
    """
    source, target = ModelFolder.from_pretrained(model), Path(out)
    prior, codec = source.entry(source.info.route("spectral").priors[TOKENS]), source.info.codec_of(TOKENS)
    source.codec([TOKENS])  # raises UserError if the codec is not trained
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    routes = {"spectral": source.info.route("spectral")}
    info = replace(source.info, codecs=(codec,), priors={prior.name: prior}, stored_routes=routes)
    for file in (codec.file, prior.file):
        write_half(source.folder / file, temporary / file)
    for name in ("labels.json", "lyrics.json", "lyrics.model", PROVENANCE):
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, temporary / name)
    write_json(temporary / CONFIG, info.to_json())
    size = sum(path.stat().st_size for path in temporary.iterdir())
    if size > MOST:
        raise UserError(
            f"{model} takes {size / 1e6:.1f} MB in float16, expected at most {MOST / 1e6:.0f}: train the preset shipped"
        )
    write_card(ModelFolder(ModelInfo.read(temporary)), Path(figures) if figures else None)
    if target.is_dir():
        shutil.rmtree(target)
    temporary.replace(target)
    print(f"{target}: {size / 1e6:.1f} MB; `jukebox sample` without MODEL uses it")


def write_half(source: Path, target: Path) -> None:
    """Copy a file of weights with its floats in float16; UserError if a value does not fit into float16."""
    halves = {name: x.half() if x.is_floating_point() else x for name, x in load_file(source).items()}
    if wrong := [name for name, x in halves.items() if x.is_floating_point() and not torch.isfinite(x).all()]:
        raise UserError(f"{source}: {wrong[0]} does not fit into float16; train the model again")
    write_tensors(target, halves)


def write_card(model: ModelFolder, figures: Path | None) -> None:
    """Write card.md: the general card, the purpose of this model, and its measured figures."""
    model.write_card()
    lines = [
        "", "Weights are float16 and are computed with in float32. The songs are synthetic: it knows their artists, genres and words, and",
        "no recording. It demonstrates the programs; train a model of your own music with `jukebox learn`. `make model` makes "
        "it again.",
    ]  # fmt: skip
    if figures:
        found = read_json(figures / "evaluation.json")
        bits, entropy = (found["priors"][TOKENS][name] for name in ("bits", "unigram_bits"))
        lines += ["", f"On {found['songs']} held-out songs: {bits:.2f} bits per frame (unigram entropy {entropy:.2f})."]
        if (figures / FIGURES).is_file():
            rows = {row["what"]: row for row in read_json(figures / FIGURES)["rows"]}
            lines += ["", "```", song_table([rows[name] for name in ROWS]), "```"]
    path = model.folder / "card.md"
    path.write_text(path.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
