"""End-to-end time from a request to wav files on disk, as in every run: `jukebox bench song MODEL`.

A new process is started for each number of threads. Its start-up is printed separately: imports, reading of weights, and the first second
of music (once per machine this includes compilation). Then the process samples one song and a batch by the model's default
route. If the model has the route `jukebox`, it also samples a short song by this route. The processes run alternately. The time
of the priors is measured in each run. The time of the decoders is measured by decoding the frames of the last run again. The
rest is conditions and files.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep.errors import UserError
from launch.bench.alternate import Side, Times, in_turn, median_cpu, serve, walls, write_rows

if TYPE_CHECKING:
    import numpy as np

    from jukebox.loaded import LoadedModel
    from jukebox.model.info import ModelInfo
    from jukebox.song import Song

BATCH, SHORT = 12, 2.0  # number of songs of the batch; seconds of the song by the route jukebox
LEVELS_ROUTE = "jukebox"
LYRICS = "la la la la la la la la\n" * 6
START_UP = ("import", "weights", "first_second")


class SongCase(NamedTuple):
    """A number of songs of `seconds` each that are sampled in parallel."""

    name: str
    songs: int
    seconds: float
    route: str


def bench_song(
    model: str, batch: int, seconds: float, repeats: int, threads: int, seed: int, out: str, device: str
) -> list[dict[str, Any]]:
    """Return the rows of the table: for each number of threads the start-up and the cases."""
    from jukebox.model.info import ModelInfo

    if not model:
        raise UserError("bench song takes a MODEL, whose default route is measured")
    if repeats < 1 or batch < 1 or seconds <= 0:
        raise UserError(f"--repeats {repeats}, --batch {batch}, --seconds {seconds:g}: expected at least 1, 1 and more than 0")
    info = ModelInfo.read(model)
    cases, counts = cases_of(info, BATCH if batch == 1 else batch, seconds), [threads] if threads else [1, 2]
    print(f"{model}, {device}, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}")
    sides: dict[str, Side] = {}
    for count in counts:
        job = {"model": model, "threads": count, "seed": seed, "device": device, "route": cases[0].route, "began": time.time()}
        sides[str(count)] = Side([sys.executable, "-m", "launch.bench.song"], job)
    times = {case: in_turn(sides, repeats, json.dumps(case)) for case in cases}
    reports = {count: side.close() for count, side in sides.items()}
    rows: list[dict[str, Any]] = []
    for count, report in reports.items():
        rows.append(
            {"case": "start-up", "threads": int(count), **report["start_up"], "seconds": sum(report["start_up"].values())}
        )
        rows += case_rows(int(count), {case: times[case][count] for case in cases}, report)
    print_rows(rows)
    return write_rows(rows, out)


def cases_of(info: ModelInfo, batch: int, seconds: float) -> list[SongCase]:
    """Return the cases: one song and a batch by the default route, and a short song by the three levels if possible."""
    route = info.route()
    info.check_levels((), route)
    cases = [SongCase("one song", 1, seconds, route.name), SongCase(f"batch of {batch}", batch, seconds, route.name)]
    levels = info.routes.get(LEVELS_ROUTE)
    if levels and levels != route and all(prior in info.priors for prior in levels.priors.values()):
        cases.append(SongCase("one song, jukebox", 1, min(SHORT, seconds), LEVELS_ROUTE))
    return cases


def case_rows(threads: int, times: dict[SongCase, Times], report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one process. `times_slower` compares the route jukebox with one song by the default route."""
    rows: list[dict[str, Any]] = []
    for case, runs in times.items():
        took = statistics.median(walls(runs))
        parts = report["parts"][case.name]
        rows.append({
            "case": case.name, "route": case.route, "songs": case.songs, "song_seconds": case.seconds, "threads": threads,
            "walls": walls(runs), "seconds": took, "cpu": median_cpu(runs), "peak_mb": report["peak_mb"], **parts,
            "prior_share": parts["prior_seconds"] / took, "decoder_share": parts["decoder_seconds"] / took,
            "music_seconds_per_second": case.songs * case.seconds / took,
        })  # fmt: skip
        if case.route != rows[0]["route"]:
            rows[-1]["times_slower"] = rows[0]["music_seconds_per_second"] / rows[-1]["music_seconds_per_second"]
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    from jukebox.evaluation.metrics import table

    starts, songs = ([row for row in rows if (row["case"] == "start-up") == start] for start in (True, False))
    titles = ["import, s", "weights, s", "first second of music, s", "together, s"]
    print(
        "\n"
        + table(
            [["start-up, threads", *titles], *[[str(r["threads"]), *[r[k] for k in (*START_UP, "seconds")]] for r in starts]]
        )
    )
    columns = {"case": "case", "threads": "threads", "song_seconds": "song, s", "seconds": "took, s", "cpu": "CPU s",
               "music_seconds_per_second": "music s/s", "prior_share": "prior", "decoder_share": "decoder",
               "times_slower": "times slower"}  # fmt: skip
    print("\n" + table([list(columns.values()), *[[row.get(key) for key in columns] for row in songs]]))


# ---- a process


def main(job: dict[str, Any]) -> None:
    """Start up, then sample a case for every line on stdin."""
    start_up: dict[str, float] = {}
    at = job["began"]

    def lap(name: str) -> None:
        nonlocal at
        now = time.time()
        start_up[name], at = now - at, now

    import torch

    from jukebox.loaded import LoadedModel
    from jukebox.model.info import ModelInfo
    from jukebox.sampling import walk  # noqa: F401  # what `sample` imports

    lap("import")
    torch.set_num_threads(job["threads"])
    model = LoadedModel(ModelInfo.read(job["model"]))
    route = model.info.route(job["route"])
    model.codec([list(route.priors)[-1]])
    for prior in set(route.priors.values()):
        model.prior(prior)
    lap("weights")
    sample_case(model, SongCase("", 1, 1.0, job["route"]), job)
    lap("first_second")
    sampled: dict[SongCase, list[SampledSongs]] = {}

    def run(line: str) -> None:
        case = SongCase(*json.loads(line))
        sampled.setdefault(case, []).append(sample_case(model, case, job))

    serve(run, lambda: {"start_up": start_up, "parts": {case.name: parts_of(model, runs) for case, runs in sampled.items()}})


class SampledSongs(NamedTuple):
    """Seconds of the priors, and the frames (songs, time, ...) of every stream."""

    prior_seconds: float
    frames: dict[str, np.ndarray]


def sample_case(model: LoadedModel, case: SongCase, job: dict[str, Any]) -> SampledSongs:
    """Sample the songs of a case, with wav files in a temporary run folder."""
    from jukebox.params import MachineOptions, SamplingOptions
    from jukebox.runs import request
    from jukebox.runs.run import Run
    from jukebox.sampling import walk

    options = SamplingOptions(route=case.route, takes=case.songs, seed=job["seed"])
    settings = request.RunSettings(options, machine=MachineOptions(threads=job["threads"], device=job["device"]))
    with tempfile.TemporaryDirectory(prefix="jukebox_bench_") as folder:
        made = Run.create(folder, request.sampled(model.info, [song_of(model.info)], case.seconds, settings))
        made.shown = False  # do not write the page of the run
        seconds = sum(written.took for written in walk.steps(made, model))
        return SampledSongs(seconds, {made.stream(level).name: made.codes(level) for level in made.request["levels"]})


def song_of(info: ModelInfo) -> Song:
    """Return a song with lyrics, and with the first artist and the first genre that the model knows."""
    from jukebox.song import Song

    artist, genre = (next(iter(names[1:]), "") for names in (info.labels.artists, info.labels.genres))
    return Song(artist=artist, genre=genre, lyrics=LYRICS)


def parts_of(model: LoadedModel, runs: Sequence[SampledSongs]) -> dict[str, float]:
    """Return the seconds of the priors (median over runs without the first) and of decoding the last run's frames again."""
    from vqvae.codec import as_tensor

    began = time.perf_counter()
    for stream, frames in runs[-1].frames.items():
        model.codec([stream]).decode_long(as_tensor(frames), stream)
    decoder = time.perf_counter() - began
    return {"prior_seconds": statistics.median(run.prior_seconds for run in runs[1:]), "decoder_seconds": decoder}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
