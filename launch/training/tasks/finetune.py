"""Fine-tuning: train the priors of an old model folder further on other songs, with new names, in a new model folder.

    all      all weights are trained                   lyrics all weights, and lyrics are added to a prior without lyrics
    lora     low-rank adapters parallel to the matrices, and the embedding rows of new names
    labels   only the embedding rows of new names; the output for old songs is bit-identical

The new folder starts as a copy of the old folder (codec, vocabulary, all priors), so the new folder is usable at any time. New
names of DATA are appended to the known names. The ids of known names do not change. A fine-tuned level learns the new names.
Other levels keep their labels and treat a new artist as unknown.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from data_prep.errors import UserError
from data_prep.files import file_hash
from data_prep.labels import Labels
from jukebox.model.folder import ModelFolder
from jukebox.model.info import CONFIG
from jukebox.model.recipe import Recipe
from launch.training.tasks.prior import PriorTask
from launch.training.tasks.task import FIRST_WEIGHTS, TaskSetup, fold
from priors.autoregressive.extend import with_labels, with_lyrics
from priors.conditioning.conditions import stack
from priors.conditioning.config import LyricConfig
from priors.prior import Batch, HasTrunk, Prior
from priors.transformer.lora import add_adapters, freeze, merged

STEPS, WARMUP = 600, 30
# factor of the recipe's learning rate: new weights need a high rate, trained weights need a low rate
RATES = {"all": 0.1, "lora": 1.0, "labels": 5.0}
COPIED = (
    *("codec*.safetensors", "prior_*.safetensors", "labels*.json", "lyrics.*", "card.md", "bandwidth.json", "provenance.json"),
    CONFIG,
)


def tuned(recipe: Recipe, tune: str) -> Recipe:
    """Return the recipe for fine-tuning a prior: fewer steps, and a learning rate for the weights to train.

    Muon is used only for `tune` "all", because it trains whole matrices.
    """
    return replace(
        recipe, steps=STEPS, warmup=WARMUP, lr=recipe.lr * RATES[tune], muon=recipe.muon * RATES[tune] * (tune == "all"), weight_decay=0.0,
        max_minutes=0.0, schedule="cosine", drop_labels=min(recipe.drop_labels, 0.05),
    )  # fmt: skip


def check_tuning(task: type, old: str, names: Iterable[str], *data: Path) -> list[str]:
    """Return those priors of `names` that the old model has. The check runs before any file is written.

    Raises UserError if `old` is empty, the kind of prior cannot be fine-tuned, or a data folder is missing.
    """
    if not old:
        raise UserError("--tune and --rehearse go on with a trained model; name it with --from_model")
    known = ModelFolder.from_pretrained(old).info.priors
    found = [name for name in names if name in known]
    if task is not PriorTask or any(known[name].config.spec.prompt == "any" for name in found):
        raise UserError(
            "--from_model is for priors, one a level: the codec is copied, for codes of another one mean nothing to them"
        )
    for folder in data:
        if not folder.is_dir():
            raise UserError(f"there is no data folder {folder}; make it with `jukebox prepare MUSIC --out {folder}`")
    return found


def copied(old: str, new: Path) -> ModelFolder:
    """Return the model folder `new`, and create it as a copy of `old` if it is missing.

    Raises UserError if the two folders are the same, or have different codecs.
    """
    source = ModelFolder.from_pretrained(old)
    if source.folder.resolve() == new.resolve():
        raise UserError(f"--out {new} is the model to begin with; give another --out")
    new.mkdir(parents=True, exist_ok=True)
    with FileLock(new / ".lock"):  # two levels may start in parallel
        if not (new / CONFIG).is_file():
            for pattern in COPIED:  # the configuration is last, because it makes the folder valid
                for path in source.folder.glob(pattern):
                    if not (new / path.name).exists():  # a lyric vocabulary may have been written first
                        shutil.copy(path, new / path.name)
    model = ModelFolder.from_pretrained(new)
    streams = source.trained_streams()
    if [model.info.codes_hash(stream) for stream in streams] != [source.info.codes_hash(stream) for stream in streams]:
        raise UserError(f"{new} has another codec than {old}, whose priors know its codes alone; give a new --out")
    return model


def names_of(data: Path) -> Labels:
    """Return the labels of a data folder; empty labels if the folder has none."""
    path = data / "labels.json"
    return Labels.load(path) if path.is_file() else Labels()


def begin(old: ModelFolder, name: str, config: Any, labels: Labels, tune: str, rank: int, seed: int) -> Prior:
    """Return the prior `name` of `old`, prepared for fine-tuning, with embedding tables for `labels`.

    `tune` "lyrics" adds the lyrics of the preset's `config`. "lora" adds adapters of rank `rank`. "lora" and "labels" freeze
    the trained weights. Raises UserError if the prior does not support `tune`.
    """
    if tune == "lyrics" and not isinstance(config.lyrics, LyricConfig):
        raise UserError(
            f"the preset has no lyrics for {name} by cross attention; --tune lyrics adds them: give --level of the top"
        )
    before, trained = old.labels_of(name), old.prior(name)
    if not isinstance(trained, HasTrunk):
        raise UserError(f"the prior {name} of {old.folder} ({trained.kind}) cannot be fine-tuned; train a new one of its kind")
    prior: Any = trained
    sizes, known = (len(labels.artists), len(labels.genres)), (len(before.artists), len(before.genres))
    torch.manual_seed(fold(seed, old.spec.stream(config.spec.writes[0]).seed_key, FIRST_WEIGHTS))
    if tune == "lyrics":
        prior = with_lyrics(prior, config.lyrics, time_bias=config.trunk.time_bias)
    if prior.config.labels:
        prior = with_labels(prior, *sizes)
    prior.requires_grad_(True)
    if tune == "labels" and (sizes == known or not prior.config.labels):
        raise UserError(
            f"DATA names no artist or genre that {old.folder} does not know; --tune lora or all learns from its songs"
        )
    if tune in ("lora", "labels"):
        freeze(prior, *known)
    if tune == "lora":
        if rank < 1:
            raise UserError(f"--rank got {rank}, expected 1 or more, such as 8")
        add_adapters(prior, rank)
    return prior


class TunedPrior(PriorTask):
    """Fine-tuning of a prior on new songs, and with --rehearse also on old songs."""

    def __init__(self, setup: TaskSetup, old: str, tune: str, rank: int = 8, rehearse: str = "") -> None:
        source, recipe = ModelFolder.from_pretrained(old), setup.recipe
        half = recipe.batch // 2 if rehearse else 0
        if rehearse and not half:
            raise UserError(f"--rehearse takes half of every batch; a batch of {recipe.batch} has none, give --batch 2 or more")
        self.names = names_of(setup.data)
        labels = source.labels_of(setup.part).extended(self.names)
        prior = begin(source, setup.part, setup.config, labels, tune, rank, setup.seed)
        setup = replace(setup, config=prior.config)
        super().__init__(replace(setup, recipe=replace(recipe, batch=recipe.batch - half)), prior, labels)
        self.amount = float(recipe.batch * prior.config.n_ctx)
        self.identity |= {"tune": tune, "from": file_hash(source.folder / source.entry(setup.part).file)}
        self.identity |= {"rank": rank} if tune == "lora" else {}
        self.old = None
        if rehearse:
            shared = replace(setup, data=Path(rehearse), recipe=replace(recipe, batch=half))
            self.old = PriorTask(shared, prior, labels)

    def open(self) -> None:
        super().open()
        if self.old:
            self.old.open()

    def held_out(self) -> PriorTask | None:
        """Return the task of the held-out new songs, without old songs."""
        other = super().held_out()
        if isinstance(other, TunedPrior):
            other.old = None
        return other

    def batch(self, step: int, rank: int, world: int) -> Batch:
        batch = super().batch(step, rank, world)
        if self.old is None:
            return batch
        parts = [batch, self.old.batch(step, rank, world)]
        codes = {self.stream: torch.cat([part.sequences[self.stream] for part in parts])}
        return Batch(codes, stack([part.cond for part in parts]))

    def save(self, model: Any) -> None:
        """Write the prior with merged adapters, and then its labels. Other priors keep their labels."""
        folder, before = self.jukebox, self.jukebox.labels
        if self.labels != folder.labels_of(self.name):
            for entry in folder.info.priors.values():
                if not (folder.folder / entry.labels_file).is_file():
                    folder.save_labels(before, entry.name)
        folder.save_prior(self.name, merged(model), self.without_lyrics)
        if self.labels != folder.labels_of(self.name):  # after the prior: its table must not be shorter than the labels
            folder.save_labels(self.labels, self.name)
            folder.save_labels(before.extended(self.names))
