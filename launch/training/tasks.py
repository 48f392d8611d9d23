"""What the loop trains: a stream of the codec on crops of audio, a prior on windows of codes.

Both draw their batches from (seed, step) alone, and all noise of a row from (seed, step, row): rank r of w takes the
r-th part of the global batch, and the batch is the same for every w.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from data_prep.codes import CodesReader
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.labels import Labels
from data_prep.manifest import SILENT, SongRow, load_manifest
from data_prep.windows import Windows
from jukebox.model.codes import open_codes
from jukebox.model.folder import ModelFolder, build_codec, build_prior, hollow
from jukebox.model.presets import Preset, Recipe
from jukebox.song import ConditionDropout, prepare_all, song_of, window_conditions
from launch.cluster.group import print_once, total
from launch.corpus.on_the_fly import OnTheFlyCodes
from launch.corpus.pcm import Pcm, open_pcm
from launch.training.examples import codec_examples, prior_examples
from launch.training.loop import fold
from priors.conditioning.conditions import stack
from priors.conditioning.vocabulary import Characters
from priors.masked.columns import draw_masks
from priors.masked.model import join_masks
from priors.prior import Batch, Mask, Prior
from priors.spec import PriorConfig
from priors.transformer.trunk import Transformer
from vqvae.codec import Codec, as_tensor
from vqvae.jukebox.losses import Bandwidth, measure_bandwidth
from vqvae.streams import Stream

STATISTICS = 64  # crops on which the features of the spectral codec are measured
FIRST_WEIGHTS = 1 << 20  # stands where the noise of a step has its rank: no such rank exists


@dataclass(frozen=True)
class TaskSetup:
    """What a training task is made from; `part` is the stream of a codec or the name of a prior, `config` that of the prior.

    What is derived of `data`, decoded audio and codes, is in `cache`, or (None) in `data` itself.
    """

    model: ModelFolder
    part: str
    data: Path
    recipe: Recipe
    seed: int
    device: str
    config: PriorConfig | None = None
    from_audio: bool = False
    hollow: bool = False  # weights of a prior that take no memory: in ZeRO 3 rank 0 has them, until they are cut up
    cache: Path | None = None


def training_rows(data: Path) -> list[SongRow]:
    """The songs that may be trained on: those of the split "train"."""
    rows = [row for row in load_manifest(data) if row.split == "train"]
    if not rows:
        raise UserError(f"{data} has no songs of the split train; run `jukebox prepare MUSIC --out {data}` first")
    return rows


def settings(config: Any, part: str) -> dict[str, Any]:
    """A part and its configuration as a checkpoint's identity: one plain value per setting."""
    plain = {f"setting {key}": json.dumps(value) for key, value in config.to_json().items()}
    return {"kind": config.kind, "part": part} | plain


class CodecTask:
    """A codec on random crops of the training songs; what is trained is named after a stream."""

    unit = "seconds"
    name: str

    def __init__(self, setup: TaskSetup) -> None:
        recipe, self.seed = setup.recipe, setup.seed
        self.cache = setup.cache
        self.jukebox, self.data, self.recipe, self.device = setup.model, setup.data, recipe, torch.device(setup.device)
        self.config = setup.model.info.codec_of(setup.part).config
        self.stream, self.identity = self.config.spec.stream(setup.part), settings(self.config, setup.part)
        if recipe.crop % self.stream.hop or recipe.crop <= self.shortest:
            raise UserError(f"a crop of {recipe.crop} samples; expected a multiple of {self.stream.hop} above {self.shortest}")
        self.amount = recipe.batch * recipe.crop / self.config.spec.sample_rate
        self.key, self.songs = self.stream.seed_key, None
        torch.manual_seed(fold(self.seed, self.key, FIRST_WEIGHTS))
        self.model: Any = build_codec(self.config, [setup.part])

    @property
    def shortest(self) -> int:
        """Samples that a crop must exceed."""
        return 0

    def open(self) -> None:
        """Reads the corpus."""
        spec = self.config.spec
        self.songs: Pcm | None = open_pcm(self.data, training_rows(self.data), spec.sample_rate, spec.channels, self.cache)
        some = [
            self.songs.crop(*place, self.recipe.crop) for place in self.songs.draw((self.seed, self.key), 64, self.recipe.crop)
        ]
        if silent := sum(np.abs(crop).max() < SILENT for crop in some):
            print_once(f"{self.name}: {silent} of {len(some)} crops are silent, of which a codec learns nothing but silence")
        if short := int((self.songs.lengths < self.recipe.crop).sum()):
            print_once(f"{self.name}: {short} of {len(self.songs.lengths)} songs are shorter than a crop and end in silence")

    def batch(self, step: int, rank: int, world: int) -> Float[Tensor, "b c t"]:
        assert self.songs is not None, "open() comes first"
        places = self.songs.draw((self.seed, self.key, step), self.recipe.batch, self.recipe.crop)
        shares = blend_shares(len(places), np.random.default_rng([self.seed, step]))
        mine = part(len(places), rank, world)
        crops = np.stack([self.songs.crop(song, start, self.recipe.crop) for song, start in places[mine]])
        return torch.from_numpy(blend(crops, shares[mine]))

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        return self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=step >= self.recipe.delay_quantiser * self.recipe.steps,
        )

    def save(self, model: Any) -> None:
        folder, stream = self.jukebox, self.stream.name
        before = folder.info.codes_hash(stream)
        folder.save_codec(model)
        readers = [p.name for p in folder.info.priors.values() if stream in (*p.config.spec.reads, *p.config.spec.writes)]
        if readers and folder.info.codes_hash(stream) != before:
            print_once(
                f"{self.name}: {', '.join(readers)} of {folder.folder} were trained on other codes; encode and train them again"
            )

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """The start of the first training song reconstructed, and the codebook."""
        assert self.songs is not None
        return codec_examples(model, self.stream.name, self.songs, self.device, folder, step)


class VQVAETask(CodecTask):
    """One stream of the three-level codec."""

    def __init__(self, setup: TaskSetup) -> None:
        super().__init__(setup)
        self.name, self.bandwidth = f"vqvae_{self.key}", Bandwidth()

    @property
    def shortest(self) -> int:
        return max(n_fft for n_fft, _, _ in self.config.multispectral_stfts) // 2  # type: ignore[attr-defined]

    def open(self) -> None:
        """Reads the corpus, and what errors are divided by."""
        super().open()
        assert self.songs is not None
        self.bandwidth = self._bandwidth(self.songs)

    def _bandwidth(self, songs: Pcm) -> Bandwidth:
        """Measured once for these songs, on crops like those of training, and kept in the model folder."""
        crop, stft = self.recipe.crop, self.config.spectral_stft  # type: ignore[attr-defined]
        path, name = self.jukebox.folder / "bandwidth.json", f"level {self.key}, crops of {crop}, songs {songs.key}"
        with FileLock(self.jukebox.folder / ".lock"):
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if name not in kept:
                some = (songs.crop(*place, crop) for place in songs.draw((self.seed, self.key), 256, crop))
                kept[name] = measure_bandwidth(map(torch.from_numpy, some), stft).to_dict()
                write_json(path, kept)
        return Bandwidth(**kept[name])

    def loss(self, batch: Float[Tensor, "b c t"], step: int) -> dict[str, Tensor]:
        losses = self.model.loss(
            batch.to(self.device, non_blocking=True),
            generator=torch.Generator().manual_seed(fold(self.seed, step)),  # the same on every rank
            quantise=step >= self.recipe.delay_quantiser * self.recipe.steps,
            bandwidth=self.bandwidth,
        )
        return {name: value for name, value in losses.items() if not name.endswith(f"_l{self.key}")}


class SpectralTask(CodecTask):
    """The spectral codec; both of its streams are trained as one part, named after the tokens."""

    name = "spectral"

    def open(self) -> None:
        """Reads the corpus, and measures the statistics of its features where no checkpoint has them."""
        super().open()
        assert self.songs is not None
        if not self.model.features.fitted:
            places = self.songs.draw((self.seed, self.key), STATISTICS, self.recipe.crop)
            crops = np.stack([self.songs.crop(*place, self.recipe.crop) for place in places])
            self.model.initialise(torch.from_numpy(crops).to(self.device), torch.Generator())


def part(rows: int, rank: int, world: int) -> slice:
    """The rows of a global batch that a rank takes; the ranks' shares joined in their order are the batch."""
    if rows % world:
        raise UserError(f"a batch of {rows} cannot be shared equally by {world} processes; give a multiple of {world}")
    return slice(rank * rows // world, (rank + 1) * rows // world)


def blend_shares(rows: int, rng: np.random.Generator) -> Float[np.ndarray, " b"]:
    """How far the channels of each crop are mixed: half not at all (0), others up to mono (1/2) and swapped (1)."""
    return np.where(rng.random(rows) < 0.5, 0.0, rng.random(rows)).astype(np.float32)


def blend(crops: Float[np.ndarray, "b c t"], shares: Float[np.ndarray, " b"]) -> Float[np.ndarray, "b c t"]:
    """Stereo crops with their channels mixed into each other, so that the codec is trained on every stereo width."""
    if crops.shape[1] != 2:
        return crops
    shares = shares[:, None, None]
    return (1 - shares) * crops + shares * crops[:, ::-1]


class PriorTask:
    """A prior of one stream, on windows of encoded (or just encoded) songs, with their conditions."""

    unit = "codes"
    model: Any  # a Prior

    def __init__(self, setup: TaskSetup, begin: Prior | None = None, labels: Labels | None = None) -> None:
        assert setup.config is not None
        self.setup, self.jukebox, self.config, self.name = setup, setup.model, setup.config, setup.part
        self.data, self.recipe, self.seed, self.device = (setup.data, setup.recipe, setup.seed, torch.device(setup.device))
        self.labels, spec = labels or self.jukebox.labels_of(self.name), self.config.spec
        info, self.stream = self.jukebox.info, spec.writes[-1]  # windows are counted in frames of the coarsest
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
        """What stands for the prior in seeds."""
        return self.jukebox.spec.stream(self.stream).seed_key

    def _codec_of(self, stream: str, streams: Sequence[str]) -> Codec:
        """The codec of a stream with those of `streams` that it has: building it draws numbers, on which first weights depend."""
        names = self.jukebox.info.codec_of(stream).config.spec.names
        return self.jukebox.codec([name for name in streams if name in names])

    def open(self) -> None:
        """Finds the songs that are encoded and prepares what is known of them."""
        self.codes, rows, self.songs = songs_to_train_on(self)
        model = self.jukebox
        self.prepared = prepare_all([song_of(rows[s]) for s in self.songs], self.labels, model.vocabulary, model.sample_rate)
        if self.fresh or self.without_lyrics:  # no earlier training had lyrics
            self.without_lyrics = not any(rows[song].lyrics for song in self.songs)
        lengths = [self.codes.length(song, self.stream) for song in self.songs]
        self.windows = Windows(lengths, self.config.n_ctx, self.config.ratio)

    def batch(self, step: int, rank: int, world: int) -> Batch:
        places = self.windows.batch(step, self.recipe.batch, self.seed, rank, world)
        first = rank * len(places)
        places = [(song, self._start(start, (self.seed, step, first + i))) for i, (song, start) in enumerate(places)]
        rows = [self._row(*place, (self.seed, step, first + i)) for i, place in enumerate(places)]
        sequences = {stream: torch.stack([codes[stream] for codes, _ in rows]) for stream in self.config.spec.writes}
        return Batch(sequences, stack([cond for _, cond in rows]))

    def _start(self, start: int, seed: Sequence[int]) -> int:
        """The first frame of a window: in a share of them that of the song, which has nothing before it."""
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
        return codes, window_conditions(self.prepared[song], config, start, above, self.dropout, rng)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return self.model.loss(batch.to(self.device))

    def save(self, model: Any) -> None:
        self.jukebox.save_prior(self.name, model, self.without_lyrics)

    def examples(self, model: Any, folder: Path, step: int) -> list[Path]:
        """A window sampled under the conditions of the first training song, decoded, and its attention to the lyrics."""
        return prior_examples(
            model, self.jukebox.codec([self.stream]), self.codes, self.songs[0], self.prepared[0], folder, step,
            fold(self.seed, self.seed_key), self.device,
        )  # fmt: skip


class MaskedTask(PriorTask):
    """The masked prior, on windows of columns of songs that are encoded in all of its streams."""

    examples = None  # type: ignore[assignment]

    def __init__(self, setup: TaskSetup, begin: Prior | None = None, labels: Labels | None = None) -> None:
        assert setup.config is not None
        check_books(setup.part, setup.config.books, map(setup.model.spec.stream, setup.config.spec.writes))  # type: ignore[attr-defined]
        super().__init__(setup, begin, labels)

    @property
    def seed_key(self) -> int:
        return len(self.config.spec.writes)

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Codes, conditions and masks, and the codes of each level that the loss counts in these rows."""
        batch = super().batch(step, rank, world)
        rows = len(batch.sequences[self.stream])
        known, asked = join_masks([self._masks((self.seed, step, row)) for row in range(rank * rows, (rank + 1) * rows)])
        return replace(batch, known=known, asked=asked, counts={level: float(some.sum()) for level, some in asked.items()})

    def share(self, parts: Sequence[Batch]) -> list[Batch]:
        """The parts of this rank, each with the counts that a part of the whole batch has on average.

        Rows count different numbers of codes, and the loss is a mean over the codes of the whole batch.
        """
        own = torch.tensor([list((each.counts or {}).values()) for each in parts])
        share = len(parts[0].sequences[self.stream]) / self.recipe.batch
        counts = dict(zip(parts[0].counts or {}, (total(own.sum(dim=0)) * share).tolist(), strict=True))
        return [replace(each, counts=counts) for each in parts]

    def _masks(self, seed: Sequence[int]) -> tuple[Mask, Mask]:
        return draw_masks(self.config.n_ctx, self.config.ratios, np.random.default_rng([*seed, 1]))  # type: ignore[attr-defined]


def check_books(name: str, books: int, streams: Iterable[Stream]) -> None:
    """UserError where frames of a stream hold another number of codes than a prior was configured with."""
    for stream in streams:
        if stream.books != books:
            raise UserError(
                f"{name}: a frame of {stream.name} holds {stream.books} codes, one of the prior {books}; "
                f"configure it with books={stream.books}"
            )


def configure_trunks(model: torch.nn.Module, recipe: Recipe) -> None:
    """What the recipe specifies for every trunk of a prior: gradient checkpointing, a stream in bf16, compiled blocks."""
    for trunk in [module for module in model.modules() if isinstance(module, Transformer)]:
        trunk.config = replace(trunk.config, recompute=trunk.config.recompute or recipe.recompute)
        trunk.bf16_stream = recipe.bf16_stream
        if recipe.compile:
            trunk.compile_blocks()


def songs_to_train_on(task: PriorTask) -> tuple[CodesReader | OnTheFlyCodes, Mapping[str, SongRow], list[str]]:
    """The codes, the training songs' rows, and those songs that have all streams of a task and fill a window.

    The codes are read, or encoded when they are wanted.
    """
    config, rows = task.config, {row.song: row for row in training_rows(task.data)}
    cache = task.setup.cache
    if task.setup.from_audio:
        codes: CodesReader | OnTheFlyCodes = OnTheFlyCodes(task.jukebox, task.data, rows, task.streams, task.device, cache)
    else:
        codes = open_codes(cache or task.data, task.jukebox.info, task.streams)
    coded = [song for song in codes.songs_with(task.streams) if song in rows]
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


def open_model(folder: Path, data: Path, preset: Preset, codec: bool) -> ModelFolder:
    """The model folder to train into; made for a codec where there is none, its labels those of the data.

    Once a prior is trained the labels stay: its tables are numbered by them.
    """
    if not codec and not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model; train its codec first (`jukebox train vqvae {data}`), or give --out")
    if not data.is_dir():
        raise UserError(f"there is no data folder {data}; make it with `jukebox prepare MUSIC --out {data}`")
    model = [ModelFolder.create(folder, config, Characters(preset.symbols), preset.routes) for config in preset.codecs][-1]
    with FileLock(folder / ".lock"):  # two levels may begin at the same time
        if not model.info.priors and (data / "labels.json").is_file():
            model.save_labels(Labels.load(data / "labels.json"))
    return model
