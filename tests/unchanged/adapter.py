"""The internals that the tests of unchanged behaviour reach: one function for each, plain values in and out.

Only this module imports from the project, except the command line (`from launch.cli import main`). After a rename only
the imports and calls here change. Arguments and results stay, because `frozen.json` contains both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# ---- windows


def sequential_windows(total: int, n_ctx: int, hop: int, begin: int) -> list[list[int]]:
    """(start, first new code, end) of each autoregressive window of a level from code `begin`."""
    from jukebox.runs.windows import prefix_windows

    return [list(window) for window in prefix_windows(total, n_ctx, hop, begin)]


def parallel_windows(total: int, n_ctx: int, overlap: int, begin: int) -> list[list[int]]:
    """(start, first new code, end) of each parallel window; the first `overlap` codes of a window are dropped."""
    from jukebox.runs.windows import parallel_windows

    return [list(window) for window in parallel_windows(total, n_ctx, overlap, begin)]


def requested_windows(
    hops: Sequence[int], level: int, n_ctx: int, total: int, begin: int, hop_fraction: float = 0.5, parallel: bool = False,
    lower: str = "autoregressive",
) -> list[list[int]]:  # fmt: skip
    """(start, first new code, end) of each window of a level that a sampling request leads to."""
    from types import SimpleNamespace

    from jukebox.runs.windows import plan_windows

    top, stream = level + 1 == len(hops), f"vq.{level}"
    any_mask, column = lower == "masked" and not top, max(hops) // hops[level]
    reads = ("above",) if not (top or any_mask) else ()
    spec = SimpleNamespace(prompt="any" if any_mask else "prefix", reads=reads, writes=(stream,))
    ratio = 1 if top else hops[level + 1] // hops[level]
    sizes = {"n_ctx": n_ctx // column if any_mask else n_ctx, "ratio": ratio, "memory": 0}
    config = SimpleNamespace(spec=spec, frames=lambda stream: n_ctx, **sizes)
    planner = plan_windows({"hop_fractions": [hop_fraction] * len(hops), "parallel": parallel}, level, config, stream)
    return [list(window) for window in planner.segments(total, begin)]


def scheduled_windows(total: int, n_ctx: int, hop: int, known: int = 0, published: bool = False) -> list[list[int]]:
    """(start, known, end) of each window of the schedule that follows the published code."""
    from jukebox.runs.windows import prefix_windows

    return [list(window) for window in prefix_windows(total, n_ctx, hop, known, published)]


def code_count(seconds: float, sample_rate: int, hop: int, top_hop: int) -> int:
    """The number of codes of a level for a length in seconds."""
    from vqvae.streams import frame_count

    return frame_count(seconds, sample_rate, hop, top_hop)


def inpainting_windows(columns: int, resampled: Sequence[Sequence[int]], n_ctx: int) -> list[list[int]]:
    """(start, stop) of each window that inpainting opens; `resampled` are the ranges [first, stop) of the mask."""
    import numpy as np

    from jukebox.runs.windows import mask_windows

    mask = np.zeros(columns, bool)
    for first, stop in resampled:
        mask[first:stop] = True
    return [list(window) for window in mask_windows(mask, n_ctx)]


def first_batches(samples: int, batch: int, ranks: int) -> list[list[int]]:
    """The samples of each batch of a new run."""
    from jukebox.runs.batches import first_batches

    return first_batches(samples, batch, ranks)


# ---- random numbers and training data


def generator_seed(seed: int, sample: int, level: int, begin: int) -> int:
    """The seed of the generator of one sample in the window whose new codes begin at `begin`."""
    from priors.noise import generator

    return generator(seed, sample, level, begin).initial_seed()


def uniform_numbers(seeds: Sequence[int], length: int) -> list[list[float]]:
    """`length` uniform numbers of each generator, as sampling draws them."""
    import torch

    from priors.logits import uniforms

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

    from priors.masked.columns import draw_masks

    keep, asked = draw_masks(columns, {str(i): n for i, n in enumerate(ratios)}, np.random.default_rng(list(seed)))
    masks = {level: (keep[level].numpy(), asked[level].numpy()) for level in sorted(keep)}
    return {
        level: [int(known.sum()), int(loss.sum()), hashlib.sha256(known.tobytes() + loss.tobytes()).hexdigest()]
        for level, (known, loss) in masks.items()
    }


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the noise of one training step of one rank."""
    from launch.training.tasks.task import fold

    return fold(seed, step, rank)


# ---- sizes and plans


def _shapes(model: str) -> Any:
    """The ModelInfo of a model folder, a preset or a published set, with its first codec and the priors of that alone."""
    from dataclasses import replace

    from jukebox.model.presets import read_info

    info = read_info(model)
    names = set(info.codecs[0].config.spec.names)
    priors = {name: prior for name, prior in info.priors.items() if names >= set(prior.config.spec.writes)}
    routes = {name: route for name, route in info.stored_routes.items() if names >= set(route.priors)}
    return replace(info, codecs=info.codecs[:1], priors=priors, stored_routes=routes)


def codec_parameters(model: str) -> list[int]:
    """Parameters of each level of the codec, finest first."""
    codec = _shapes(model).codecs[0].config
    return [codec.parameter_count(stream) for stream in codec.spec.names]


def prior_parameters(model: str) -> dict[str, dict[str, int]]:
    """Level -> parameters of the prior (all, matrices, norms, other), cache and conditioning numbers of a window."""
    info, counts = _shapes(model), {}
    for level in info.levels_with_prior:
        config = info.writer(info.stream(level).name).config
        parameters = config.parameters()
        counts[str(level)] = {
            "all": parameters.all, "matrices": parameters.matrices, "norms": parameters.norms, "other": parameters.others,
            "cache": sum(config.cache_numbers().values()), "read by a step": config.attended_numbers(),
            "conditions": sum(config.condition_numbers()), "window": config.n_ctx,
        }  # fmt: skip
    return counts


def masked_parameters(preset: str, artists: int, genres: int, characters: int) -> dict[str, int]:
    """Parameters of the masked prior of a preset (all, matrices, norms, other)."""
    from jukebox.model.presets import find

    counted = find(preset).priors["masked"].for_corpus(artists, genres, characters).parameters()
    return {"all": counted.all, "matrices": counted.matrices, "norms": counted.norms, "other": counted.others}


def sampling_memory(
    model: str, seconds: float, takes: int = 1, prompt_seconds: float = 0.0, batch: int = 0, parallel: bool = False,
    lower: str = "autoregressive", dtype: str = "float32", guidance: float = 1.0,
) -> dict[str, list[int]]:  # fmt: skip
    """Level -> bytes of weights, cache, conditions, activations and audio, then rows, steps and codes of a planned run."""
    from jukebox.planning.sampling import plan_sampling

    info = _shapes(model)
    levels = info.levels_with_prior
    given = {str(level): info.frames(prompt_seconds, level) for level in levels}
    settings: dict[str, dict[str, Any]] = {str(level): {"passes": 12} for level in levels}
    settings[str(levels[-1])]["guidance"] = guidance
    request = {
        "seconds": seconds, "levels": levels, "samples": [{}] * takes, "hop_fractions": [0.5] * len(info.hops),
        "params": settings, "dtype": dtype, "batch": batch, "parallel": parallel, "device": "cpu",
        "route": "masked" if lower == "masked" else "", 
        "given": given if prompt_seconds else {}, "hops": list(info.hops),
    }  # fmt: skip
    names = ("weights", "cache", "conditions", "activations", "sound")
    return {
        str(plan.level): [*(plan.parts[name] for name in names), plan.rows, plan.steps, plan.codes]
        for plan in plan_sampling(info, request).levels
    }


def training_memory(
    model: str, level: int, gpus: int, rows: int, zero: int, bf16: bool, recompute: bool, offload: bool, device: str
) -> list[float]:
    """Bytes of weights, gradients, moments, buffers and activations of each GPU, then bytes sent and FLOP of a window."""
    from jukebox.planning.training import Training, cost_of, exchanged, memory

    info = _shapes(model)
    prior = info.writer(info.stream(level).name).config
    training = Training(rows, zero=zero, bf16=bf16, recompute=recompute, offload=offload)
    parts, cost = memory(prior, training, gpus, device), cost_of(prior, training, device)
    names = ("weights", "gradients", "moments", "buffers", "activations")
    return [*(parts[name] for name in names), exchanged(prior, training, gpus), cost.trunk, cost.rest]


# ---- model folders


def create_model(folder: Path) -> None:
    """Write the frozen model: preset `test`, two artists, two genres, all priors, weights spread (see `make.py`)."""
    import torch

    from data_prep.labels import Labels
    from jukebox import Jukebox
    from jukebox.model.folder import build_codec, build_prior
    from jukebox.model.presets import find
    from priors.conditioning.vocabulary import Characters

    def add_prior(name: str, vocabulary: int = 0) -> None:
        prior = build_prior(preset.priors[name].for_corpus(len(labels.artists), len(labels.genres), vocabulary))
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_prior(name, prior)

    labels, preset = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None), find("test")
    torch.manual_seed(0)
    model = Jukebox.create(folder, preset.codec, Characters(preset.symbols))
    model.save_labels(labels)
    codec = build_codec(preset.codec)
    codec.train().loss(torch.randn(4, 1, 4096) * 0.3, generator=torch.Generator().manual_seed(0))
    model.save_codec(codec)
    for name in ("prior_2", "prior_1", "prior_0"):
        add_prior(name)
    add_prior("masked", model.vocabulary.size)


def open_model(folder: Path) -> dict[str, Any]:
    """Open a model folder, load every weight in it, and return its description."""
    from jukebox import Jukebox

    model = Jukebox.from_pretrained(folder)
    names = {f"prior {level}": f"prior_{level}" for level in model.info.levels_with_prior} | {"masked prior": "masked"}
    modules = {"codec": model.codec(), **{shown: model.prior(name) for shown, name in names.items()}}
    return {
        "sample rate": model.sample_rate,
        "hops": list(model.hops),
        "artists": list(model.labels.artists),
        "genres": list(model.labels.genres),
        "characters": model.vocabulary.size,
        "levels of the codec": [model.spec.names.index(stream) for stream in model.trained_streams()],
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
    }


# ---- sampling, in a dtype that the command line does not offer


def sample(*, model: Path, songs: Sequence[Mapping], seconds: float, out: Path, dtype: str, **settings: Any) -> None:
    """Sample songs into the run folder `out`; `settings` as `_settings` reads them."""
    from jukebox import Jukebox
    from jukebox.runs import request
    from jukebox.runs.run import Run
    from jukebox.sampling import walk

    opened, listed = Jukebox.from_pretrained(model), [_song(song) for song in songs]
    walk.resume(Run.create(out, request.sampled(opened.info, listed, seconds, _settings(opened, settings, dtype))), opened)


def continue_(
    *, model: Path, songs: Sequence[Mapping], prompts: Sequence[Path], prompt_seconds: float, seconds: float, out: Path,
    dtype: str, **settings: Any,
) -> None:  # fmt: skip
    """Continue recordings or runs into the run folder `out`."""
    from jukebox import Jukebox
    from jukebox.runs import request
    from jukebox.runs.run import Run
    from jukebox.sampling import walk

    opened, listed = Jukebox.from_pretrained(model), [_song(song) for song in songs]
    chosen = _settings(opened, settings, dtype)
    asked = request.continued(opened.info, listed, prompts, prompt_seconds, seconds, chosen)
    walk.resume(Run.create(out, asked), opened)


def branch(
    *, run: Path, out: Path, keep_seconds: float, take: int, seconds: float, dtype: str, lyrics: str = "",
    seed: int | None = None, takes: int = 1,
) -> None:  # fmt: skip
    """Keep the first seconds of a run, or of one take, and sample the rest again."""
    from jukebox.params import SamplingOptions
    from jukebox.runs.request import RunSettings
    from jukebox.runs.run import Run
    from jukebox.sampling import walk

    words = _song({"lyrics": lyrics}) if lyrics else None
    settings = RunSettings(SamplingOptions(takes=takes), None, _machine(dtype))
    walk.branch(
        Run.open(run), out, settings, keep_seconds=keep_seconds, take=take, seconds=seconds, seed=seed, lyrics=words
    )  # fmt: skip


def upsample(
    *, run: Path, out: Path, level: int, dtype: str, seed: int | None = None, lower: str = "", passes: Sequence[int] = ()
) -> None:
    """Keep `level` and the coarser levels of a run in a copy, and sample the finer levels again."""
    from jukebox.params import SamplingOptions, SamplingParams
    from jukebox.runs.request import RunSettings
    from jukebox.runs.run import Run
    from jukebox.sampling import walk

    params = SamplingParams(passes=tuple(passes)) if passes else None
    walk.upsample(
        Run.open(run), out, RunSettings(SamplingOptions(lower=lower), params, _machine(dtype)), level=level, seed=seed
    )


def resume(*, run: Path) -> None:
    """Finish a run that was interrupted."""
    from jukebox.runs.run import Run
    from jukebox.sampling import walk as sampling

    sampling.resume(Run.open(run))


def open_run(run: Path) -> dict[str, list[int]]:
    """Open a run folder, check it against its checksums, and return (codes, length) of each level that was requested."""
    from jukebox.runs.run import Run

    opened = Run.open(run)
    return {str(level): [opened.count(level), opened.total(level)] for level in opened.request["levels"]}


@contextmanager
def no_pages() -> Iterator[None]:
    """Sampling writes no index.html and no images as long as this is open."""
    from unittest.mock import patch

    from jukebox.sampling import walk as sampling

    with patch.object(sampling, "write_page", lambda folder: None):
        yield


def _song(song: Mapping[str, Any]) -> Any:
    """A song of frozen.json: artist, genres, lyrics, and the times of its words."""
    from data_prep.align import TimedText
    from jukebox.song import Song

    times = tuple(TimedText(*word) for word in song.get("words", ()))
    return Song(song.get("artist"), tuple(song.get("genres", ())), song.get("lyrics"), times)


def _settings(model: Any, settings: Mapping[str, Any], dtype: str) -> Any:
    """Sampling settings of frozen.json; `levels_settings` are the sampling parameters of each level, 1.0 where it has none."""
    from dataclasses import fields

    from jukebox.params import SamplingOptions
    from jukebox.runs.request import RunSettings
    from priors.registry import PRIOR_PARAMS

    made = dict(settings)
    by_level, passes = made.pop("levels_settings", {}), list(made.pop("passes", (24, 12)))
    machine = _machine(dtype, **{name: made.pop(name) for name in ("batch", "parallel", "compile") if name in made})
    options = SamplingOptions(**{name: tuple(value) if isinstance(value, list) else value for name, value in made.items()})
    run_settings, params = RunSettings(options, None, machine), {}
    for stream, prior in run_settings.route(model.info).priors.items():
        kind = PRIOR_PARAMS.load(model.info.priors[prior].config.kind)
        given = by_level.get(stream.removeprefix("vq."), {})
        params[stream] = {each.name: given.get(each.name, each.default) for each in fields(kind)}
        if "passes" in params[stream]:
            params[stream]["passes"] = passes.pop(0)
    return RunSettings(options, params, machine)


def _machine(dtype: str, **more: Any) -> Any:
    from jukebox.params import MachineOptions

    return MachineOptions(threads=1, device="cpu", dtype=dtype, **more)  # type: ignore[arg-type]
