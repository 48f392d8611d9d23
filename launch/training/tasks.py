"""What the loop trains: a level of the codec on crops of sound, a prior on windows of codes.

Both draw their batches from (seed, step) alone, and all noise of a row from (seed, step, row): rank r of w takes the
r-th part of the global batch, and the batch is the same for every w.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from data_prep.codes import CodesReader
from data_prep.errors import UserError
from data_prep.labels import Labels
from data_prep.manifest import SongRow, load_manifest
from data_prep.windows import Windows
from jukebox.model.folder import Jukebox, write_json
from jukebox.model.presets import Preset, Recipe
from jukebox.song import ConditionDropout, prepare_all, song_of, window_conditions
from launch.cluster.group import print_once
from launch.corpus.on_the_fly import SoundingCodes
from launch.corpus.pcm import Pcm, open_pcm
from launch.training.loop import fold
from priors.autoregressive.model import AutoregressivePrior, PriorConfig
from priors.conditioning.conditions import Conditions, stack
from priors.conditioning.lyrics import Characters
from priors.masked.columns import draw_masks
from priors.masked.masks import Keep
from priors.masked.model import MaskedConfig, MaskedPrior, join_masks
from priors.prior import Sequences
from priors.transformer.trunk import Transformer
from vqvae.jukebox.losses import Bandwidth, measure_bandwidth
from vqvae.jukebox.vqvae import VQVAE

FIRST_WEIGHTS = 1 << 20  # stands where the noise of a step has its rank: no such rank exists


def training_rows(data: Path) -> list[SongRow]:
    """The songs that may be trained on: those of the split "train"."""
    rows = [row for row in load_manifest(data) if row.split == "train"]
    if not rows:
        raise UserError(f"{data} has no songs of the split train; run `jukebox prepare MUSIC --out {data}` first")
    return rows


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as a checkpoint's identity: one plain value a setting."""
    return {f"setting {key}": json.dumps(value) for key, value in config.items()}


class VQVAETask:
    """One level of the codec, on random crops of the training songs."""

    unit = "seconds"

    def __init__(self, model: Jukebox, level: int, data: Path, recipe: Recipe, seed: int, device: str) -> None:
        config = model.codec_config
        hop, shortest = config.hops[level], max(n_fft for n_fft, _, _ in config.multispectral_stfts) // 2
        if recipe.crop % hop or recipe.crop <= shortest:
            raise UserError(f"a crop of {recipe.crop} samples; expected a multiple of {hop} above {shortest}")
        self.jukebox, self.level, self.data, self.recipe, self.seed = model, level, data, recipe, seed
        self.name, self.identity = f"vqvae_{level}", settings(config.to_dict())
        self.amount = recipe.batch * recipe.crop / config.sample_rate
        torch.manual_seed(fold(seed, level, FIRST_WEIGHTS))
        self.model, self.device = VQVAE(config, (level,)), torch.device(device)
        self.songs: Pcm | None = None
        self.bandwidth = Bandwidth()

    def open(self) -> None:
        """Reads the corpus, and what errors are divided by."""
        config = self.jukebox.codec_config
        self.songs = open_pcm(self.data, training_rows(self.data), config.sample_rate, config.channels)
        self.bandwidth = self._bandwidth(self.songs)

    def _bandwidth(self, songs: Pcm) -> Bandwidth:
        """Measured once for these songs, on crops like those of training, and kept in the model folder."""
        crop, stft = self.recipe.crop, self.jukebox.codec_config.spectral_stft
        path, name = self.jukebox.folder / "bandwidth.json", f"level {self.level}, crops of {crop}, songs {songs.key}"
        with FileLock(self.jukebox.folder / ".lock"):
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if name not in kept:
                some = (songs.crop(*place, crop) for place in songs.draw((self.seed, self.level), 256, crop))
                kept[name] = measure_bandwidth(map(torch.from_numpy, some), stft).to_dict()
                write_json(path, kept)
        return Bandwidth(**kept[name])

    def batch(self, step: int, rank: int, world: int) -> Float[Tensor, "b c t"]:
        assert self.songs is not None, "open() comes first"
        places = self.songs.draw((self.seed, self.level, step), self.recipe.batch, self.recipe.crop)
        shares = blend_shares(len(places), np.random.default_rng([self.seed, step]))
        mine = part(len(places), rank, world)
        crops = np.stack([self.songs.crop(song, start, self.recipe.crop) for song, start in places[mine]])
        return torch.from_numpy(blend(crops, shares[mine]))

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        losses = self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=step >= self.recipe.delay_quantiser * self.recipe.steps,
            bandwidth=self.bandwidth,
        )
        return {name: value for name, value in losses.items() if not name.endswith(f"_l{self.level}")}

    def save(self) -> None:
        model = self.jukebox
        before = model.codec_hash() if model.trained_levels() else ""
        model.save_codec(self.model)
        if model.prior_configs and model.codec_hash() != before:
            print_once(
                f"{self.name}: the priors of {model.folder} know the codes of the codec before; encode and train them again"
            )


def part(rows: int, rank: int, world: int) -> slice:
    """The rows of a global batch that a rank takes; the ranks' shares joined in their order are the batch."""
    if rows % world:
        raise UserError(f"a batch of {rows} cannot be shared equally by {world} processes; give a multiple of {world}")
    return slice(rank * rows // world, (rank + 1) * rows // world)


def blend_shares(rows: int, rng: np.random.Generator) -> Float[np.ndarray, " b"]:
    """How far the channels of each crop are mixed: half not at all (0), others up to mono (1/2) and swapped (1)."""
    return np.where(rng.random(rows) < 0.5, 0.0, rng.random(rows)).astype(np.float32)


def blend(crops: Float[np.ndarray, "b c t"], shares: Float[np.ndarray, " b"]) -> Float[np.ndarray, "b c t"]:
    """Stereo crops with their channels mixed into each other, so that the codec hears every width of a stage."""
    if crops.shape[1] != 2:
        return crops
    shares = shares[:, None, None]
    return (1 - shares) * crops + shares * crops[:, ::-1]


class PriorTask:
    """A prior, on windows of the codes that `jukebox encode` wrote (or would write), with what is known of their songs."""

    unit = "codes"

    def __init__(
        self, model: Jukebox, config: PriorConfig, data: Path, recipe: Recipe, seed: int, device: str,
        begin: AutoregressivePrior | None = None, labels: Labels | None = None, from_audio: bool = False,
    ) -> None:  # fmt: skip
        self.labels, self.from_audio = labels or model.labels_of(config.level), from_audio
        self.jukebox, self.config, self.data, self.recipe, self.seed = model, config, data, recipe, seed
        self.level, codec = config.level, model.codec_hash()
        self.name, self.identity = f"prior_{config.level}", {"codec": codec, **settings(config.to_json())}
        self.folder, self.amount = data / "codes" / codec, float(recipe.batch * config.n_ctx)
        torch.manual_seed(fold(seed, config.level, FIRST_WEIGHTS))
        self.model, self.device = begin or AutoregressivePrior(config), torch.device(device)
        known_levels = [level for level in (config.level, config.level + 1) if level in model.trained_levels()]
        if begin is None:
            self.model.start_from({level: model.codec(known_levels).level(level).codebook.k for level in known_levels})
        recompute_if_asked(self.model, recipe)
        self.dropout = ConditionDropout(
            recipe.drop_labels, recipe.drop_lyrics, recipe.drop_times, recipe.jitter_seconds
        )

    def open(self) -> None:
        """Finds the songs whose codes are there and prepares what is known of them."""
        config = self.config
        levels = (self.level, self.level + 1) if config.above else (self.level,)
        self.codes, rows, self.songs = songs_to_train_on(self, levels, self.level)
        model = self.jukebox
        self.prepared = prepare_all(
            [song_of(rows[s]) for s in self.songs], self.labels, model.vocabulary, model.sample_rate
        )
        lengths = [self.codes.length(song, self.level) for song in self.songs]
        self.windows = Windows(lengths, config.n_ctx, config.above.ratio if config.above else 1)

    def batch(self, step: int, rank: int, world: int) -> tuple[Sequences, Conditions]:
        places = self.windows.batch(step, self.recipe.batch, self.seed, rank, world)
        first = rank * len(places)
        rows = [self._row(*place, (self.seed, step, first + i)) for i, place in enumerate(places)]
        return {self.level: torch.stack([codes for codes, _ in rows])}, stack([cond for _, cond in rows])

    def _row(self, song: int, start: int, seed: Sequence[int]) -> tuple[Tensor, Conditions]:
        config, name = self.config, self.songs[song]
        codes = self.codes.read(name, self.level, start, start + config.n_ctx).astype(np.int64)
        above = None
        if config.above:
            ratio = config.above.ratio
            above = self.codes.read(name, self.level + 1, start // ratio, (start + config.n_ctx) // ratio)
        rng = np.random.default_rng(list(seed))
        return torch.from_numpy(codes), window_conditions(self.prepared[song], config, start, above, self.dropout, rng)

    def loss(self, batch: tuple[Sequences, Conditions], step: int) -> dict[str, Tensor]:
        sequences, cond = batch
        return self.model.loss(
            {level: codes.to(self.device) for level, codes in sequences.items()}, cond.to(self.device)
        )

    def save(self) -> None:
        self.jukebox.save_prior(self.level, self.model)


class MaskedTask:
    """The masked prior, on windows of columns of songs whose codes of all levels are there."""

    name, unit = "masked", "codes"

    def __init__(
        self, model: Jukebox, config: MaskedConfig, data: Path, recipe: Recipe, seed: int, device: str,
        from_audio: bool = False,
    ) -> None:  # fmt: skip
        self.from_audio = from_audio
        self.jukebox, self.config, self.data, self.recipe, self.seed = model, config, data, recipe, seed
        codec = model.codec_hash()
        self.identity = {"codec": codec, **settings(config.to_json())}
        self.folder, self.amount = data / "codes" / codec, float(recipe.batch * config.n_ctx * sum(config.ratios))
        torch.manual_seed(fold(seed, len(config.hops), FIRST_WEIGHTS))
        self.model, self.device = MaskedPrior(config), torch.device(device)
        self.model.start_from({level: model.codec([level]).level(level).codebook.k for level in model.trained_levels()})
        recompute_if_asked(self.model, recipe)
        self.dropout = ConditionDropout(
            recipe.drop_labels, recipe.drop_lyrics, recipe.drop_times, recipe.jitter_seconds
        )

    def open(self) -> None:
        """Finds the songs whose codes are there and prepares what is known of them."""
        levels = range(len(self.config.hops))
        self.codes, rows, self.songs = songs_to_train_on(self, levels, levels[-1])
        model = self.jukebox
        self.prepared = prepare_all(
            [song_of(rows[s]) for s in self.songs], model.labels, model.vocabulary, model.sample_rate
        )
        self.windows = Windows([self.codes.length(song, levels[-1]) for song in self.songs], self.config.n_ctx)

    def batch(self, step: int, rank: int, world: int) -> tuple[Sequences, Conditions, Keep, Keep, dict[int, Tensor]]:
        """Codes, conditions, masks, and, a row, how many codes of each level a row of the whole batch asks for on the average.

        Rows ask for different numbers of codes, and the loss is a mean over the codes of the whole batch: so every part
        of it draws the masks of all rows.
        """
        places = self.windows.batch(step, self.recipe.batch, self.seed, rank, world)
        first = rank * len(places)
        rows = [self._row(*place, (self.seed, step, first + i)) for i, place in enumerate(places)]
        codes = {level: torch.stack([row[0][level] for row in rows]) for level in rows[0][0]}
        masks = [self._masks((self.seed, step, row)) for row in range(self.recipe.batch)]
        asked = {level: sum(int(each[level].sum()) for _, each in masks) / len(masks) for level in codes}
        usual = {level: torch.full((len(rows),), number, dtype=torch.float64) for level, number in asked.items()}
        return codes, stack([cond for _, cond in rows]), *join_masks(masks[first : first + len(places)]), usual

    def _masks(self, seed: Sequence[int]) -> tuple[Keep, Keep]:
        return draw_masks(self.config.n_ctx, self.config.ratios, np.random.default_rng([*seed, 1]))

    def _row(self, song: int, start: int, seed: Sequence[int]) -> tuple[dict[int, Tensor], Conditions]:
        config, name, codes = self.config, self.songs[song], {}
        for level, ratio in enumerate(config.ratios):
            read = self.codes.read(name, level, start * ratio, (start + config.n_ctx) * ratio)
            codes[level] = torch.from_numpy(read.astype(np.int64))
        rng = np.random.default_rng(list(seed))
        cond = window_conditions(self.prepared[song], config, start, dropout=self.dropout, rng=rng)
        return codes, cond

    def loss(self, batch: tuple[Sequences, Conditions, Keep, Keep, dict[int, Tensor]], step: int) -> dict[str, Tensor]:
        sequences, cond, keep, asked, usual = batch
        counts = {level: float(rows.sum()) for level, rows in usual.items()}
        sequences, keep, asked = (
            {level: x.to(self.device) for level, x in each.items()} for each in (sequences, keep, asked)
        )
        return self.model.loss(sequences, cond.to(self.device), keep, asked, counts)

    def save(self) -> None:
        self.jukebox.save_masked(self.model)


def recompute_if_asked(model: torch.nn.Module, recipe: Recipe) -> None:
    """Gradient checkpointing of every trunk of a prior, where the recipe says so."""
    if recipe.recompute:
        for trunk in model.modules():
            if isinstance(trunk, Transformer):
                trunk.config = replace(trunk.config, recompute=True)


def songs_to_train_on(
    task: PriorTask | MaskedTask, levels: Sequence[int], level: int
) -> tuple[CodesReader | SoundingCodes, dict[str, SongRow], list[str]]:
    """The codes, the training songs' rows, and those songs that have codes of `levels` and fill a window at `level`.

    The codes are read, or made from the sound when they are wanted.
    """
    config, rows = task.config, {row.song: row for row in training_rows(task.data)}
    hint = f"run `jukebox encode {task.data} {task.jukebox.folder}` first"
    if task.from_audio:
        hint = "train with longer songs"
        codes: CodesReader | SoundingCodes = SoundingCodes(task.jukebox, task.data, rows, levels, task.device)
    elif not task.folder.is_dir():
        raise UserError(f"{task.data} holds no codes of this codec ({task.folder.name}); {hint}, or give --from_audio")
    else:
        codes = CodesReader(task.folder)
    coded = [song for song in codes.songs_with(levels) if song in rows]
    songs = [song for song in coded if codes.length(song, level) >= config.n_ctx]
    if not songs:
        raise UserError(
            f"of {len(coded)} training songs with codes of level {' and '.join(map(str, levels))} none fills "
            f"a window of {config.n_ctx} codes ({config.n_ctx * config.hop / config.sample_rate:.1f} s); {hint}"
        )
    if short := len(coded) - len(songs):
        print_once(f"{task.name}: {short} of {len(coded)} songs are shorter than a window and are left out")
    return codes, rows, songs


def open_model(folder: Path, data: Path, preset: Preset, what: str) -> Jukebox:
    """The model folder to train into; made for a codec where there is none, its labels those of the data.

    Once a prior is trained the labels stay: its tables are numbered by them.
    """
    if what != "vqvae" and not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model; train its codec first (`jukebox train vqvae {data}`), or give --out")
    if not data.is_dir():
        raise UserError(f"there is no data folder {data}; make it with `jukebox prepare MUSIC --out {data}`")
    model = Jukebox.create(folder, preset.codec, Characters(preset.symbols))
    with FileLock(folder / ".lock"):  # two levels may begin side by side
        if not model.prior_configs and (data / "labels.json").is_file():
            model.save_labels(Labels.load(data / "labels.json"))
    return model
