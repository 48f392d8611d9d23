"""PriorTask: training of a prior on windows of songs with their conditions. Songs are encoded before or on the fly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.codes import CodesReader
from data_prep.errors import UserError
from data_prep.labels import Labels
from data_prep.manifest import SongRow, load_manifest
from data_prep.transpose import find_transposed, speed
from data_prep.windows import Windows
from jukebox.model.codes import open_codes
from jukebox.model.folder import build_prior, hollow
from jukebox.model.recipe import Recipe
from jukebox.song import ConditionDropout, prepare_all, song_of, window_conditions
from launch.cluster.group import print_once, total
from launch.corpus.controls import measured_controls, note_density
from launch.corpus.on_the_fly import OnTheFlyCodes
from launch.training.tasks.examples import prior_examples
from launch.training.tasks.task import FIRST_WEIGHTS, Task, TaskSetup, fold, settings, training_rows
from priors.conditioning.conditions import stack
from priors.prior import Batch, DrawsMasks, Prior
from priors.spec import PriorConfig
from priors.transformer.trunk import Transformer
from vqvae.codec import Codec, as_tensor
from vqvae.streams import CodecSpec

Curves = dict[str, dict[str, np.ndarray]]  # song -> control -> value in each frame


class PriorTask(Task):
    """Training of a prior of one or several streams. A masked prior is trained on partly known windows."""

    unit = "codes"

    def __init__(self, setup: TaskSetup, begin: Prior | None = None, labels: Labels | None = None) -> None:
        assert setup.config is not None
        check_books(setup.part, setup.config, setup.model.spec)
        self.setup, self.jukebox, self.config, self.name = setup, setup.model, setup.config, setup.part
        self.data, self.recipe, self.seed, self.device = (setup.data, setup.recipe, setup.seed, torch.device(setup.device))
        self.labels, spec = labels or self.jukebox.labels_of(self.name), self.config.spec
        info, self.stream = self.jukebox.info, spec.writes[-1]  # window lengths are in frames of the coarsest stream
        self.streams = tuple(dict.fromkeys((*spec.writes, *spec.reads)))
        hashes = {f"codes of {stream}": info.codes_hash(stream) for stream in self.streams}
        self.identity = {**hashes, **settings(self.config, self.name)}
        self.old_identity = {"codec": info.old_codes_hash(self.stream)}
        books = {stream: self.jukebox.spec.stream(stream).books for stream in spec.writes}
        self.amount = float(self.recipe.batch * sum(self.config.frames(stream) * n for stream, n in books.items()))
        torch.manual_seed(fold(self.seed, self.seed_key, FIRST_WEIGHTS))
        self.fresh = begin is None
        self.model = begin or (hollow(self.config) if setup.hollow else build_prior(self.config))
        if setup.hollow:
            self.model.to("meta")
        elif begin is None:
            known = [stream for stream in self.streams if stream in self.jukebox.trained_streams()]
            vectors = {stream: self._codec_of(stream, known).embeddings(stream) for stream in known}
            self.model.initialise_embeddings({stream: v for stream, v in vectors.items() if v is not None})
        configure_trunks(self.model, self.recipe)
        drops = (self.recipe.drop_labels, self.recipe.drop_lyrics, self.recipe.drop_times, self.recipe.jitter_seconds)
        self.dropout = ConditionDropout(*drops)
        entry = self.jukebox.info.priors.get(self.name)
        self.without_lyrics = entry is not None and entry.without_lyrics

    @property
    def seed_key(self) -> int:
        """The number that identifies the prior in seeds."""
        return self.config.seed_key or self.jukebox.spec.stream(self.stream).seed_key

    def _codec_of(self, stream: str, streams: Sequence[str]) -> Codec:
        """Build the codec of `stream`, with all of its streams that are in `streams`.

        Building the codec uses random numbers, so the initial weights of the prior depend on the built streams.
        """
        names = self.jukebox.info.codec_of(stream).config.spec.names
        return self.jukebox.codec([name for name in streams if name in names])

    def open(self) -> None:
        """Find the encoded songs and prepare their conditions."""
        self.codes, rows, songs = songs_to_train_on(self)
        self._prepare_songs(rows, songs)
        if self.fresh or self.without_lyrics:  # no earlier training had lyrics
            self.without_lyrics = not any(rows[song].lyrics for song in songs)

    def _prepare_songs(self, rows: Mapping[str, SongRow], songs: Sequence[str]) -> None:
        """Prepare the conditions and the windows of `songs`, which are encoded and at least one window long."""
        self.songs, model = songs, self.jukebox
        self.prepared = prepare_all([song_of(rows[s]) for s in songs], self.labels, model.vocabulary, model.sample_rate)
        self.curves = control_curves(self, rows) if self.config.controls else {}
        lengths = [self.codes.length(song, self.stream) for song in songs]
        self.windows = Windows(lengths, self.config.n_ctx, self.config.ratio)

    def held_out(self) -> PriorTask | None:
        if self.setup.from_audio:
            return None
        rows = {row.song: row for row in load_manifest(self.data) if row.split == "test"}
        there = [song for song in self.codes.songs_with(self.streams) if song in rows]
        songs = [song for song in there if self.codes.length(song, self.stream) >= self.config.n_ctx]
        if not songs:
            return None
        other = copy(self)
        other.dropout, other.recipe = ConditionDropout(), replace(self.recipe, song_starts=0.0, drop_labels=0.0)
        other._prepare_songs(rows, songs)
        return other

    def batch(self, step: int, rank: int, world: int) -> Batch:
        places = self.windows.batch(step, self.recipe.batch, self.seed, rank, world)
        seeds = [(self.seed, step, rank * len(places) + i) for i in range(len(places))]
        places = [(song, self._start(start, seed)) for (song, start), seed in zip(places, seeds, strict=True)]
        rows = [self._row(*place, seed) for place, seed in zip(places, seeds, strict=True)]
        sequences = {stream: torch.stack([codes[stream] for codes, _ in rows]) for stream in self.config.spec.writes}
        batch = Batch(sequences, stack([cond for _, cond in rows]))
        if not isinstance(self.model, DrawsMasks):
            return batch
        known, asked = self.model.draw_masks([np.random.default_rng([*seed, 1]) for seed in seeds])
        return replace(batch, known=known, asked=asked, counts={level: float(some.sum()) for level, some in asked.items()})

    def share(self, parts: Sequence[Batch]) -> list[Batch]:
        """Return the parts of this rank, with the mean number of predicted codes per part of the global batch.

        The loss is a mean over the predicted codes of the global batch, and batch rows have different numbers of predicted
        codes.
        """
        if parts[0].counts is None:
            return list(parts)
        own = torch.tensor([list((each.counts or {}).values()) for each in parts])
        share = len(parts[0].sequences[self.stream]) / self.recipe.batch
        counts = dict(zip(parts[0].counts, (total(own.sum(dim=0)) * share).tolist(), strict=True))
        return [replace(each, counts=counts) for each in parts]

    def _start(self, start: int, seed: Sequence[int]) -> int:
        """Return the first frame of a window: 0 for a random share `song_starts` of the windows, else `start`."""
        share = self.recipe.song_starts
        return 0 if share and np.random.default_rng([*seed, 2]).random() < share else start

    def _row(self, song: int, start: int, seed: Sequence[int]) -> tuple[dict[str, Tensor], Any]:
        config, name, codes = self.config, self.songs[song], {}
        for stream in config.spec.writes:
            ratio = config.frames(stream) // config.n_ctx
            codes[stream] = as_tensor(self.codes.read(name, stream, start * ratio, (start + config.n_ctx) * ratio))
        above = None
        for stream in set(config.spec.reads) - set(config.spec.writes):
            above = self.codes.read(name, stream, start // config.ratio, (start + config.n_ctx) // config.ratio)
        rng = np.random.default_rng(list(seed))
        cond = window_conditions(self.prepared[song], config, start, above, self.dropout, rng)
        return codes, replace(cond, controls=self._controls(name, start, seed)) if config.controls else cond

    def _controls(self, song: str, start: int, seed: Sequence[int]) -> dict[str, Tensor]:
        """Return the controls of a window. Each control is dropped (set to 0) as often as labels are."""
        rng, controls, frame = np.random.default_rng((*seed, 4)), {}, self.config.control_frame
        for name in self.config.controls:
            values = self.curves[song][name][start // frame : (start + self.config.n_ctx) // frame]
            dropped = rng.random() < self.recipe.drop_labels
            controls[name] = torch.from_numpy(np.zeros_like(values) if dropped else values)[None]
        return controls

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return self.model.loss(batch.to(self.device))

    def save(self, model: Any) -> None:
        self.jukebox.save_prior(self.name, model, self.without_lyrics)

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """Write a decoded window, sampled with the conditions of the first training song, and its attention to the lyrics."""
        return prior_examples(
            model, self.jukebox.codec([self.config.spec.writes[0]]), self.codes, self.songs[0], self.prepared[0], folder, step,
            fold(self.seed, self.seed_key), self.device,
        )  # fmt: skip


def control_curves(task: PriorTask, rows: Mapping[str, SongRow]) -> Curves:
    """Return tempo and note density of each song, per control frame. Missing measurements are made now."""
    known = measured_controls(task.data, [rows[song] for song in task.songs], task.setup.cache)
    step, curves = task.config.control_frame, {}
    for song in task.songs:
        found, frames = known[rows[song].hash], task.codes.length(song, task.stream) // step
        factor = speed(rows[song].semitones)
        tempo = np.full(frames, found["tempo"] * factor, np.float32)
        second = step * task.config.hop / task.config.sample_rate
        curves[song] = {"tempo": tempo, "density": note_density(np.divide(found["onsets"], factor), frames, second)}
    return curves


def check_books(name: str, config: PriorConfig, spec: CodecSpec) -> None:
    """Raise UserError if the number of books in the configuration of a prior differs from that of its streams."""
    for stream in map(spec.stream, config.spec.writes):
        if stream.books != (books := getattr(config, "books", stream.books)):
            raise UserError(
                f"{name}: a frame of {stream.name} holds {stream.books} codes, one of the prior {books}; "
                f"configure it with books={stream.books}"
            )


def configure_trunks(model: torch.nn.Module, recipe: Recipe) -> None:
    """Apply the recipe to all trunks of a prior: gradient checkpointing, residual stream in bf16, compiled blocks."""
    for trunk in [module for module in model.modules() if isinstance(module, Transformer)]:
        trunk.config = replace(trunk.config, recompute=trunk.config.recompute or recipe.recompute)
        trunk.bf16_stream = recipe.bf16_stream
        if recipe.compile:
            trunk.compile_blocks()


def songs_to_train_on(task: PriorTask) -> tuple[CodesReader | OnTheFlyCodes, Mapping[str, SongRow], list[str]]:
    """Return a reader of codes (stored, or encoded on the fly), the rows of the training songs, and the songs to train on.

    The songs to train on have all streams of the task and are at least one window long. Raises UserError if there are none.
    """
    config, rows = task.config, {row.song: row for row in training_rows(task.data)}
    cache = task.setup.cache
    if task.setup.from_audio:
        codes: CodesReader | OnTheFlyCodes = OnTheFlyCodes(task.jukebox, task.data, rows, task.streams, task.device, cache)
    else:
        codes = open_codes(cache or task.data, task.jukebox.info, task.streams)
    there = codes.songs_with(task.streams)
    if transposed := find_transposed(there, rows):
        rows |= transposed
        print_once(f"{task.name}: {len(transposed)} transposed songs are training songs too")
    coded = [song for song in there if song in rows]
    songs = [song for song in coded if codes.length(song, task.stream) >= config.n_ctx]
    if not songs:
        second, named = config.hop / config.sample_rate, " and ".join(task.streams)
        longest = max((codes.length(song, task.stream) for song in coded), default=0)
        raise UserError(
            f"{task.name}: of {len(coded)} training songs with codes of {named} none fills a window of {config.n_ctx} codes "
            f"({config.n_ctx * second:.1f} s); the longest has {longest * second:.1f} s: train on longer songs, or on several joined"
            if coded
            else f"{task.name}: of {len(rows)} training songs none has codes of {named}; run `jukebox encode {task.data} "
            f"{task.jukebox.folder}` first"
        )
    if short := len(coded) - len(songs):
        print_once(f"{task.name}: {short} of {len(coded)} songs are shorter than a window and are left out")
    return codes, rows, songs
