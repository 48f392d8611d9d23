"""Convert a published set to a model folder: the codec, the priors, and the labels of each prior.

All parts are checked before any file is written: settings, the shape of every tensor, the number of names in the id tables, and
the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.labels import Labels
from jukebox.importers.convert import DTYPES, FoundWeights, Weights, fitting, write_prior
from jukebox.importers.labels import PublishedLabels
from jukebox.importers.vqvae_keys import vqvae_state
from jukebox.model.folder import ModelFolder
from jukebox.model.settings import PRIORS, SETS, VQVAES, alignment_way, prior_config, vqvae_config
from priors.autoregressive.config import AutoregressiveConfig
from priors.conditioning.vocabulary import PUBLISHED, Characters
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.vqvae import VQVAE


def codec_settings(source: FoundWeights, out: str | Path) -> dict[str, Any]:
    """Return the settings of the set's codec.

    They come from the codec's file. A file without settings has the published ones. If the set has no codec, they come from
    the codec of the model folder `out`. Raise UserError if `out` has no codec either.
    """
    if source.codec_hps and {"levels", "downs_t", "strides_t"} <= set(source.codec_hps):
        return VQVAES["vqvae"] | source.codec_hps
    if source.codec is not None:
        return VQVAES["vqvae"]
    if not (Path(out) / "config.json").is_file():
        raise UserError(f"no vqvae.pth.tar among the files, and {out} holds no codec yet; add it to --files")
    config = ModelFolder.from_pretrained(out).info.codecs[0].config
    assert isinstance(config, VQVAEConfig)
    return {"l_bins": config.bins, "levels": config.levels, "downs_t": config.downs_t, "strides_t": config.strides_t}


def versions_of(name: str, source: FoundWeights, top: int) -> dict[int, str]:
    """Return the version of labels and vocabulary, v2 or v3, of each prior with labels.

    The settings of the file contain the version. Without this setting, the top prior has the version of the set, and upsamplers
    have v2.
    """
    found = {}
    for level in source.priors:
        hps = source.prior_hps.get(level) or {}
        version = SETS[name][2] if level == top else "v2"
        if "labels_v3" in hps:
            version = "v3" if hps["labels_v3"] else "v2"
        if hps.get("labels", True):
            found[level] = version
    return found


def fit_prior(name: str, source: FoundWeights, level: int, codec: Mapping[str, Any]) -> tuple[Weights, AutoregressiveConfig]:
    """Return a prior's weights under our names, and its configuration; UserError if the prior does not belong to the set."""
    top, where, hps = codec["levels"] - 1, source.where[level], source.prior_hps.get(level) or {}
    named = SETS[name][1] if level == top else f"upsampler_level_{level}"
    candidates = [hps, PRIORS[named]] if {"prior_width", "attn_order", "n_ctx"} <= set(hps) else [PRIORS[named]]
    if where.is_dir():
        candidates.reverse()  # the settings of a hub folder are incomplete, so they are tried second
    try:
        weights, config = fitting(source.priors[level], candidates, codec)
    except ValueError as error:
        raise UserError(f"{where} is not {named}: {error}") from error
    published = prior_config(PRIORS[named], VQVAES["vqvae"])
    for what in ("lyrics", "lyric_prefix", "above"):
        if bool(getattr(config, what)) != bool(getattr(published, what)):
            raise UserError(f"{where} is a prior with another form of {what.split('_')[0]} than {named}; is it of another set?")
    return weights, config


def check_tables(config: AutoregressiveConfig, tables: PublishedLabels, where: Path) -> None:
    """Raise UserError if the tables have more names than the prior, or another vocabulary."""
    labels, characters = tables.labels(), Characters(PUBLISHED[tables.version]).size
    assert config.labels
    for what, named, known in (
        ("artists", len(labels.artists), config.labels.artists), ("genres", len(labels.genres), config.labels.genres),
    ):  # fmt: skip
        if named > known:
            raise UserError(f"the {tables.version} table names {named} {what}, {where} knows {known}; give its own --labels")
    if config.lyrics and config.lyrics.vocabulary != characters:
        raise UserError(
            f"{where} has {config.lyrics.vocabulary} characters; {tables.version} has {characters}: give the tables of its own version"
        )


def write_codec(name: str, source: FoundWeights, hps: Mapping[str, Any], version: str, out: str | Path) -> ModelFolder:
    """Create the model folder with the codec, whose tensors are all read, and return the folder."""
    assert source.codec is not None
    config = vqvae_config(hps)
    try:
        state = vqvae_state({key: tensor.read() for key, tensor in source.codec.items()}, config)
    except ValueError as error:
        raise UserError(f"the codec of {name}: {error}") from error
    codec = VQVAE(config)
    codec.load_state_dict(state)
    model = ModelFolder.create(out, config, Characters(PUBLISHED[version]))
    model.save_codec(codec)
    return model


class PublishedSet:
    """The parts of a published set. The constructor checks them, `write` writes them to the model folder `out`."""

    def __init__(self, name: str, source: FoundWeights, out: str | Path) -> None:
        self.name, self.source, self.out, self.codec = name, source, Path(out), codec_settings(source, out)
        top = self.codec["levels"] - 1
        self.versions = versions_of(name, source, top)
        self.priors = {level: fit_prior(name, source, level, self.codec) for level in sorted(source.priors, reverse=True)}
        self.labels: dict[int, Labels] = {}
        # the version of the vocabulary; labels of another version are stored for their prior only
        self.version = self.versions.get(top, SETS[name][2])

    @property
    def numbers(self) -> int:
        """Number of parameters of the priors."""
        return sum(math.prod(tensor.shape) for weights, _ in self.priors.values() for tensor in weights.values())

    def take_names(self, tables: Mapping[str, PublishedLabels]) -> None:
        """Take the labels of each prior from the id tables of its version; UserError if tables do not match the prior."""
        for level, version in self.versions.items():
            check_tables(self.priors[level][1], tables[version], self.source.where[level])
        self.labels = {level: tables[version].labels() for level, version in self.versions.items()}

    def write(self, dtype: str, done: Callable[[int], object] | None = None) -> ModelFolder:
        """Write the codec (if the set has one), the priors, coarsest first, and the labels; return the model folder.

        dtype: dtype of the priors, a key of DTYPES
        done: is called with the number of bytes after each written tensor of a prior
        """
        model = ModelFolder.from_pretrained(self.out) if self.source.codec is None else write_codec(
            self.name, self.source, self.codec, self.version, self.out
        )  # fmt: skip
        for level, (weights, prior) in self.priors.items():
            name = f"prior_{level}"
            write_prior(model.folder / f"{name}.safetensors", weights, DTYPES[dtype], done)
            model.name_prior(name, prior)
            if level == self.codec["levels"] - 1 and (way := alignment_way(SETS[self.name][1], prior)):
                model.save_alignment(name, way)
        for level, labels in self.labels.items():
            model.save_labels(labels, "" if self.versions[level] == self.version else f"prior_{level}")
        return model
