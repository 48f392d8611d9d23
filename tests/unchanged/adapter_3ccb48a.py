"""The same functions as in adapter.py by the names of commit 3ccb48a; `make.py` wrote what is frozen through them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# ---- windows


def sequential_windows(total: int, n_ctx: int, hop: int, begin: int) -> list[list[int]]:
    """(start, first new code, end) of each autoregressive window of a level from code `begin`."""
    from jukebox.batches import segments

    return [list(window) for window in segments(total, n_ctx, hop, begin)]


def parallel_windows(total: int, n_ctx: int, overlap: int, begin: int) -> list[list[int]]:
    """(start, first new code, end) of each parallel window; the first `overlap` codes of a window are dropped."""
    from jukebox.batches import parallel_segments

    return [list(window) for window in parallel_segments(total, n_ctx, overlap, begin)]


def requested_windows(
    hops: Sequence[int], level: int, n_ctx: int, total: int, begin: int, hop_fraction: float = 0.5, parallel: bool = False,
    lower: str = "autoregressive",
) -> list[list[int]]:  # fmt: skip
    """(start, first new code, end) of each window of a level that a sampling request leads to."""
    from jukebox.batches import windows_of

    request = {"hops": list(hops), "hop_fractions": [hop_fraction] * len(hops), "parallel": parallel, "lower": lower}
    return [list(window) for window in windows_of(request, level, n_ctx, total, begin)]


def scheduled_windows(total: int, n_ctx: int, hop: int, known: int = 0, published: bool = False) -> list[list[int]]:
    """(start, known, end) of each window of the schedule that follows the published code."""
    from jukebox.schedule import windows

    return [list(window) for window in windows(total, n_ctx, hop, known, published)]


def code_count(seconds: float, sample_rate: int, hop: int, top_hop: int) -> int:
    """The number of codes of a level for a length in seconds."""
    from jukebox.schedule import codes_of

    return codes_of(seconds, sample_rate, hop, top_hop)


def inpainting_windows(columns: int, resampled: Sequence[Sequence[int]], n_ctx: int) -> list[list[int]]:
    """(start, stop) of each window that inpainting opens; `resampled` are the ranges [first, stop) of the mask."""
    import torch

    from jukebox.holes import windows_over

    mask = torch.zeros(columns, dtype=torch.bool)
    for first, stop in resampled:
        mask[first:stop] = True
    return [list(window) for window in windows_over(mask, n_ctx)]


def first_batches(samples: int, batch: int, ranks: int) -> list[list[int]]:
    """The samples of each batch of a new run."""
    from jukebox.batches import first_batches

    return first_batches(samples, batch, ranks)


# ---- random numbers and training data


def generator_seed(seed: int, sample: int, level: int, begin: int) -> int:
    """The seed of the generator of one sample in the window whose new codes begin at `begin`."""
    from jukebox.filling import generator

    return generator(seed, sample, level, begin).initial_seed()


def uniform_numbers(seeds: Sequence[int], length: int) -> list[list[float]]:
    """`length` uniform numbers of each generator, as sampling draws them."""
    import torch

    from priors.decode import uniforms

    return uniforms([torch.Generator().manual_seed(seed) for seed in seeds], length).tolist()


def training_windows(
    lengths: Sequence[int], window: int, multiple: int, hop: int | None, step: int, batch: int, seed: int, rank: int,
    world: int,
) -> list[list[int]]:  # fmt: skip
    """(song, start) of each window of a training step of one rank."""
    from data_prep.windows import Windows

    return [list(each) for each in Windows(lengths, window, multiple, hop).batch(step, batch, seed, rank, world)]


def training_masks(columns: int, ratios: Sequence[int], seed: Sequence[int]) -> dict[str, list[Any]]:
    """Level -> number of known codes, number of predicted codes, and a hash of both masks, of one training window."""
    import numpy as np

    from priors.columns import draw_masks

    keep, asked = draw_masks(columns, ratios, np.random.default_rng(list(seed)))
    masks = {level: (keep[level].numpy(), asked[level].numpy()) for level in sorted(keep)}
    return {
        str(level): [int(known.sum()), int(loss.sum()), hashlib.sha256(known.tobytes() + loss.tobytes()).hexdigest()]
        for level, (known, loss) in masks.items()
    }


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the noise of one training step of one rank."""
    from launch.loop import fold

    return fold(seed, step, rank)


# ---- sizes and plans


def _shapes(model: str) -> dict[str, Any]:
    """config.json of a model folder, a preset or a published set."""
    from launch.plan import read_config

    return read_config(model)


def codec_parameters(model: str) -> list[int]:
    """Parameters of each level of the codec, finest first."""
    from jukebox import sizes

    codec = _shapes(model)["codec"]["config"]
    return [sizes.codec_weights(codec, level) for level in range(len(sizes.hops(codec)))]


def prior_parameters(model: str) -> dict[str, dict[str, int]]:
    """Level -> parameters of the prior (all, matrices, norms, other), cache and conditioning numbers of a window."""
    from jukebox import sizes

    counts = {}
    for entry in _shapes(model)["priors"]:
        if "level" in entry:
            weights, config = sizes.prior_weights(entry["config"]), entry["config"]
            counts[str(entry["level"])] = {
                "all": weights.all, "matrices": weights.matrices, "norms": weights.norms, "other": weights.others,
                "cache": sum(sizes.cache_numbers(config).values()), "read by a step": sizes.seen_numbers(config),
                "conditions": sum(sizes.condition_numbers(config)), "window": sizes.window(config),
            }  # fmt: skip
    return counts


def masked_parameters(preset: str, artists: int, genres: int, characters: int) -> dict[str, int]:
    """Parameters of the masked prior of a preset (all, matrices, norms, other)."""
    from jukebox import sizes
    from jukebox.presets import find

    config = find(preset).masked_prior(artists, genres, characters).to_json()
    weights = sizes.masked_weights(config)
    return {"all": weights.all, "matrices": weights.matrices, "norms": weights.norms, "other": weights.others}


def sampling_memory(
    model: str, seconds: float, takes: int = 1, prompt_seconds: float = 0.0, batch: int = 0, parallel: bool = False,
    lower: str = "autoregressive", dtype: str = "float32", guidance: float = 1.0,
) -> dict[str, list[int]]:  # fmt: skip
    """Level -> bytes of weights, cache, conditions, activations and audio, then rows, steps and codes of a planned run."""
    from jukebox import sizes
    from jukebox.plan import plan_sampling

    config = _shapes(model)
    codec = config["codec"]["config"]
    hops, levels = sizes.hops(codec), sorted(entry["level"] for entry in config["priors"] if "level" in entry)
    given = {str(level): code_count(prompt_seconds, codec["sample_rate"], hops[level], hops[-1]) for level in levels}
    settings: dict[str, dict[str, Any]] = {str(level): {"passes": 12} for level in levels}
    settings[str(levels[-1])]["guidance"] = guidance
    request = {
        "seconds": seconds, "levels": levels, "samples": [{}] * takes, "hop_fractions": [0.5] * len(hops),
        "how": settings, "dtype": dtype, "batch": batch, "parallel": parallel, "lower": lower, "device": "cpu",
        "given": given if prompt_seconds else {}, "hops": list(hops),
    }  # fmt: skip
    names = ("weights", "cache", "conditions", "activations", "sound")
    return {
        str(plan.level): [*(plan.parts[name] for name in names), plan.rows, plan.steps, plan.codes]
        for plan in plan_sampling(config, request).levels
    }


def training_memory(
    model: str, level: int, gpus: int, rows: int, zero: int, bf16: bool, recompute: bool, offload: bool, device: str
) -> list[float]:
    """Bytes of weights, gradients, moments, buffers and activations of each GPU, then bytes sent and FLOP of a window."""
    from jukebox.budget import Training, exchanged, memory, operations

    prior = next(entry["config"] for entry in _shapes(model)["priors"] if entry.get("level") == level)
    training = Training(rows, zero=zero, bf16=bf16, recompute=recompute, offload=offload)
    parts = memory(prior, training, gpus, device)
    names = ("weights", "gradients", "moments", "buffers", "activations")
    return [*(parts[name] for name in names), exchanged(prior, training, gpus), *operations(prior)]


# ---- model folders


def create_model(folder: Path) -> None:
    """Write the frozen model: preset `test`, two artists, two genres, all priors, weights spread (see `make.py`)."""
    import torch

    from data_prep.labels import Labels
    from jukebox.model import Jukebox
    from jukebox.presets import find
    from priors.autoregressive import AutoregressivePrior
    from priors.lyrics import Characters
    from priors.masked import MaskedPrior
    from vqvae.vqvae import VQVAE

    def spread(prior: torch.nn.Module) -> None:
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)

    labels, preset = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None), find("test")
    torch.manual_seed(0)
    model = Jukebox.create(folder, preset.codec, Characters(preset.symbols))
    model.save_labels(labels)
    codec = VQVAE(preset.codec)
    codec.train().loss(torch.randn(4, 1, 4096) * 0.3, generator=torch.Generator().manual_seed(0))
    model.save_codec(codec)
    for level in preset.priors:
        prior = AutoregressivePrior(preset.prior(level, len(labels.artists), len(labels.genres)))
        spread(prior)
        model.save_prior(level, prior)
    masked = MaskedPrior(preset.masked_prior(len(labels.artists), len(labels.genres), model.vocabulary.size))
    spread(masked)
    model.save_masked(masked)


def open_model(folder: Path) -> dict[str, Any]:
    """Open a model folder, load every weight in it, and return its description."""
    from jukebox.model import Jukebox

    model = Jukebox.from_pretrained(folder)
    priors = {level: model.prior(level) for level in sorted(model.prior_configs)}
    modules = {"codec": model.codec(), **{f"prior {level}": prior for level, prior in priors.items()}}
    modules["masked prior"] = model.masked()
    return {
        "sample rate": model.sample_rate,
        "hops": list(model.hops),
        "artists": list(model.labels.artists),
        "genres": list(model.labels.genres),
        "characters": model.vocabulary.size,
        "levels of the codec": list(model.trained_levels()),
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
    }


# ---- sampling, in a dtype that the command line does not offer


def sample(*, model: Path, songs: Sequence[Mapping], seconds: float, out: Path, dtype: str, **settings: Any) -> None:
    """Sample songs into the run folder `out`; `settings` as `_choices` reads them."""
    from jukebox.model import Jukebox

    opened = Jukebox.from_pretrained(model)
    opened.sample([_song(song) for song in songs], seconds, out, dtype=dtype, **_choices(settings))


def continue_(
    *, model: Path, songs: Sequence[Mapping], prompts: Sequence[Path], prompt_seconds: float, seconds: float, out: Path,
    dtype: str, **settings: Any,
) -> None:  # fmt: skip
    """Continue recordings or runs into the run folder `out`."""
    from jukebox import sample as sampling
    from jukebox.model import Jukebox

    opened, listed = Jukebox.from_pretrained(model), [_song(song) for song in songs]
    sampling.continue_(opened, listed, prompts, prompt_seconds, seconds, out, dtype=dtype, **_choices(settings))


def branch(
    *, run: Path, out: Path, keep_seconds: float, take: int, seconds: float, dtype: str, lyrics: str = "",
    seed: int | None = None, takes: int = 1,
) -> None:  # fmt: skip
    """Keep the first seconds of a run, or of one take, and sample the rest again."""
    from jukebox import sample as sampling
    from jukebox.run import Run

    sampling.branch(
        Run.open(run), out, keep_seconds=keep_seconds, take=take, seconds=seconds, seed=seed, takes=takes, threads=1,
        lyrics=_song({"lyrics": lyrics}) if lyrics else None, dtype=dtype, device="cpu",
    )  # fmt: skip


def upsample(
    *, run: Path, out: Path, level: int, dtype: str, seed: int | None = None, lower: str = "", passes: Sequence[int] = ()
) -> None:
    """Keep `level` and the coarser levels of a run in a copy, and sample the finer levels again."""
    from jukebox import sample as sampling
    from jukebox.run import Run

    more = {"dtype": dtype, "threads": 1, "device": "cpu"}
    sampling.upsample(Run.open(run), out, level=level, seed=seed, lower=lower, passes=tuple(passes), **more)


def resume(*, run: Path) -> None:
    """Finish a run that was interrupted."""
    from jukebox import sample as sampling
    from jukebox.run import Run

    sampling.resume(Run.open(run))


def open_run(run: Path) -> dict[str, list[int]]:
    """Open a run folder, check it against its checksums, and return (codes, length) of each level that was requested."""
    from jukebox.run import Run

    opened = Run.open(run)
    return {str(level): [opened.count(level), opened.total(level)] for level in opened.request["levels"]}


@contextmanager
def no_pages() -> Iterator[None]:
    """Sampling writes no index.html and no images as long as this is open."""
    from unittest.mock import patch

    from jukebox import sample as sampling

    with patch.object(sampling, "write_page", lambda folder: None):
        yield


def _song(song: Mapping[str, Any]) -> Any:
    """A song of frozen.json: artist, genres, lyrics, and the times of its words."""
    from data_prep.align import TimedText
    from jukebox.song import Song

    times = tuple(TimedText(*word) for word in song.get("words", ()))
    return Song(song.get("artist"), tuple(song.get("genres", ())), song.get("lyrics"), times)


def _choices(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling settings of frozen.json; `levels_settings` are the sampling parameters of each level."""
    from priors.prior import How

    made = {"threads": 1, "device": "cpu", **settings}
    by_level = made.pop("levels_settings", {})
    made["how"] = {int(level): How(**parameters) for level, parameters in by_level.items()}
    return made
