"""Passes and seconds of each route from a request to audio.

The routes are three autoregressive levels, masked decoding, diffusion, and the phase decoder. Each arm is a whole run of a
route in this process, but without the run's page. The arms run alternately. Passes through priors and decoders are counted
inside the networks (`launch/render/passes.py`). Without MODEL the weights are random, and the networks are those of the presets
demo and melody.
With DATA, each arm also renders held-out songs from the songs' own coarsest sequence. The quality is the mel distance and the
Frechet distance (`launch/render/quality.py`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.errors import UserError
from launch.bench.alternate import write_rows

if TYPE_CHECKING:
    from jukebox.loaded import LoadedModel
    from jukebox.model.folder import ModelFolder

BASE, STEPS = "autoregressive", (5, 10, 20)
PRESETS_OF_ARMS = ("demo", "melody")


class RenderArm(NamedTuple):
    """A route of the model, and values of sampling parameters by name."""

    route: str
    more: Mapping[str, Any]


ARMS = {
    BASE: RenderArm("jukebox", {}),
    "masked": RenderArm("masked", {}),
    **{f"diffusion, {steps} steps": RenderArm("melody", {"steps": steps}) for steps in STEPS},
    "phase decoder": RenderArm("spectral", {}),
}


def bench_render(
    model: str,
    data: str,
    seconds: float,
    repeats: int,
    threads: int,
    seed: int,
    out: str,
    presets: Sequence[str] = PRESETS_OF_ARMS,
) -> list[dict[str, Any]]:
    """Return one row for each arm whose route the model has. With DATA, return a row for each control of quality as well."""
    if data and not model:
        raise UserError("bench render measures quality with --data and MODEL; without MODEL random weights are timed")
    if repeats < 1 or seconds <= 0:
        raise UserError(f"--repeats {repeats}, --seconds {seconds:g}: expected at least 1, and more than 0")
    import torch

    from jukebox.loaded import LoadedModel
    from jukebox.model.info import ModelInfo

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="jukebox_bench_") as folder:
        path = model or str(random_models(Path(folder), presets, seed).folder)
        opened = LoadedModel(ModelInfo.read(path))
        arms = {name: arm for name, arm in ARMS.items() if _is_whole(opened.info, arm.route)}
        if not arms:
            raise UserError(f"{model} has none of the routes {', '.join(dict.fromkeys(arm.route for arm in ARMS.values()))}")
        print(
            f"{seconds:g} s of music, {torch.get_num_threads()} threads, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}"
        )
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for turn in range(repeats + 1):  # the first turn is a warm-up
            for name in list(arms)[:: 1 if turn % 2 else -1]:
                runs[name].append(
                    run_arm(opened, arms[name], seconds if turn else min(seconds, 1.0), torch.get_num_threads(), seed)
                )
        rows = rows_of({name: some[1:] for name, some in runs.items()}, seconds)
        if data:
            from launch.render.quality import quality_of

            rows = with_quality(rows, quality_of(opened, data, arms, seconds, seed))
    print_rows(rows)
    return write_rows(rows, out)


def random_models(folder: Path, presets: Sequence[str], seed: int) -> ModelFolder:
    """Create a model folder with random weights for all codecs and priors of some presets."""
    import torch

    from jukebox.model.folder import ModelFolder, build_codec, build_prior
    from jukebox.model.presets import find

    torch.manual_seed(seed)
    codecs = dict.fromkeys(codec for preset in presets for codec in find(preset).codecs)
    model = [ModelFolder.create(folder, config) for config in codecs][-1]
    for config in codecs:
        codec = build_codec(config)
        codec.initialise(0.1 * torch.randn(4, config.spec.channels, 1 << 15), torch.Generator())
        model.save_codec(codec)
    for name, prior in {name: prior for preset in presets for name, prior in find(preset).priors.items()}.items():
        model.save_prior(name, build_prior(prior))
    return model


def _is_whole(info: Any, name: str) -> bool:
    """Return whether a model has all priors of a route."""
    route = info.routes.get(name)
    return route is not None and all(prior in info.priors for prior in route.priors.values())


def run_arm(model: LoadedModel, arm: RenderArm, seconds: float, threads: int, seed: int) -> dict[str, float]:
    """Return the passes and seconds of a run. The folder of the run is temporary."""
    from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
    from jukebox.runs import request
    from jukebox.runs.run import Run
    from jukebox.sampling import walk
    from launch.bench.song import song_of
    from launch.render.passes import counted

    options = SamplingOptions(route=arm.route, seed=seed)
    settings = request.RunSettings(options, SamplingParams(more=arm.more), MachineOptions(threads=threads, device="cpu"))
    with tempfile.TemporaryDirectory(prefix="jukebox_bench_") as folder, counted() as passes:
        made = Run.create(folder, request.sampled(model.info, [song_of(model.info)], seconds, settings))
        made.shown = False  # do not write the page of the run
        wall, cpu = time.perf_counter(), time.process_time()
        list(walk.steps(made, model))
        return {
            "passes": passes.priors, "decoder_passes": passes.decoders, "seconds": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }  # fmt: skip


def rows_of(runs: Mapping[str, Sequence[Mapping[str, float]]], seconds: float) -> list[dict[str, Any]]:
    """Return medians over runs. Passes and seconds are also relative to the three levels, if these were measured."""
    rows: list[dict[str, Any]] = []
    for name, some in runs.items():
        row: dict[str, Any] = {key: statistics.median(run[key] for run in some) for key in some[0]}
        row |= {"arm": name, "walls": [run["seconds"] for run in some], "music_seconds_per_second": seconds / row["seconds"]}
        if BASE in runs:
            base = runs[BASE]
            row["fewer_passes"] = 1 - row["passes"] / statistics.median(run["passes"] for run in base)
            row["faster"] = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(base, some, strict=True))
        rows.append(row)
    return rows


def with_quality(rows: Sequence[dict[str, Any]], quality: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows with the figures of quality, and a row for each control."""
    measured = [{**row, **quality[row["arm"]]} for row in rows]
    names = {row["arm"] for row in rows}
    return [*measured, *({"arm": name, **figures} for name, figures in quality.items() if name not in names)]


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    from jukebox.evaluation.metrics import table

    columns = {"arm": "arm", "passes": "passes", "fewer_passes": "fewer, share", "decoder_passes": "of decoders", "seconds": "seconds",
               "cpu": "CPU s", "faster": "times faster", "music_seconds_per_second": "music s/s", "mel": "mel, dB",
               "frechet": "Frechet"}  # fmt: skip
    print(table([list(columns.values()), *[[row.get(key) for key in columns] for row in rows]]))
