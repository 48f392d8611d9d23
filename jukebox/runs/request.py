"""The request of a run, which is the content of run.json.

This module imports nothing heavy, because a request is written before torch is loaded.

    sampled      sample from conditions alone
    continued    keep the beginning of recordings, files of codes, or other runs, and sample the rest
    branched     keep the first seconds of a run, and sample the rest with another seed or other lyrics
    upsampled    keep the levels of a run or a file of codes down to one level, and sample the finer levels
    replayed     sample the same request again

Levels of another codec than the route's codec are not sampled. The route's audio is encoded into these levels (`encodes`).

Every request specifies the number of `given` frames of each level, the `sources` of these frames (a path and a row for each
sample), the prior of each level, parameters, windows and random numbers. So one walk (jukebox/sampling/walk.py) executes every
request, and a run can be repeated from its request alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from jukebox.device import available_memory
from jukebox.model.info import ModelInfo, PriorEntry, check_weights
from jukebox.model.routes import Route
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from jukebox.runs.batches import first_batches
from jukebox.runs.params import Params, params_by_level
from jukebox.runs.run import Run
from jukebox.runs.run_file import LOWER, MOST_SECONDS, VERSION, machine, versions
from jukebox.runs.sources import find_sources, length_of, read_codes
from jukebox.runs.windows import plan_windows
from jukebox.song import Song
from priors.spec import BYTES
from vqvae.streams import frame_count

PAGE = 14  # bytes per audio sample while the spectrogram is computed
ENTRY = 2_000  # bytes per sample in a request; in addition half of the decoder's state, with 4 bytes per number, is filled
MOST_ROWS = 1 << 20
CAPTURE_THRESHOLD = 100_000  # steps times layers; each saves about 50 microseconds, and a capture takes a few seconds


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run for all kinds of requests; `params` of None means the defaults of `SamplingParams`."""

    options: SamplingOptions = field(default_factory=SamplingOptions)
    params: Params | None = None
    machine: MachineOptions = field(default_factory=MachineOptions)

    def route(self, info: ModelInfo) -> Route:
        """Return the route that `options.route`, or the earlier option `lower`, selects."""
        options = self.options
        if options.lower and options.route not in ("", LOWER.get(options.lower, "")):
            raise UserError(
                f"--lower {options.lower} is route {LOWER.get(options.lower)}; give it or --route {options.route}, not both"
            )
        if options.lower and options.lower not in LOWER:
            raise UserError(f"lower {options.lower!r}; expected one of {', '.join(LOWER)}, or a route")
        return info.route(LOWER.get(options.lower, options.route))


# ---- the verbs


def sampled(info: ModelInfo, songs: Sequence[Song], seconds: float, settings: RunSettings) -> dict:
    """Request songs of `seconds` from conditions alone, each song `takes` times."""
    levels, encodes = _chosen_levels(info, settings)
    return new_request(info, songs, seconds, settings, StartPoint("sample", levels, encodes=encodes))


def continued(
    info: ModelInfo, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, settings: RunSettings
) -> dict:  # fmt: skip
    """Request continuations to `seconds` of audio files, files of codes or runs, each `takes` times.

    The first `prompt_seconds` (0: all) of each prompt are given. Raise UserError for a prompt that is too short or too long.
    """
    levels, encodes = _chosen_levels(info, settings)
    if not 0 <= prompt_seconds < seconds:
        raise UserError(
            f"prompt of {prompt_seconds:g} s in a song of {seconds:g} s; expected 0 < prompt_seconds < seconds, the finished length"
        )
    sources = [source for prompt in prompts for source in find_sources(prompt)]
    there = [length_of(info, path, row, levels, prompt_seconds) for path, row in sources]
    if prompt_seconds and (short := min(there)) < info.frames(prompt_seconds, levels[0]) // _per_unit(info, levels[0]):
        path, _ = sources[there.index(short)]
        raise UserError(
            f"{path} is {short * info.spec.unit / info.sample_rate:.2f} s long; the prompt was to be {prompt_seconds:g} s: "
            "give a smaller --prompt_seconds"
        )
    units = info.frames(prompt_seconds, levels[0]) // _per_unit(info, levels[0])
    kept = min(min(there), units) if prompt_seconds else min(there)
    if not 0 < kept < info.frames(seconds, levels[0]) // _per_unit(info, levels[0]):
        raise UserError(
            f"the prompt is {kept * info.spec.unit / info.sample_rate:.2f} s long; expected less than --seconds {seconds:g}, the finished "
            "length, and more than nothing"
        )
    given = {level: kept * _per_unit(info, level) for level in levels}
    paths = list(dict.fromkeys(str(path) for path, _ in sources))
    prompt = {"path": paths[0] if len(paths) == 1 else paths, "seconds": kept * info.spec.unit / info.sample_rate}
    count = max(len(songs), len(sources))  # one prompt may have several songs, and one song several prompts
    songs = [songs[i % len(songs)] for i in range(count)]
    sources = [sources[i % len(sources)] for i in range(count)]
    return new_request(info, songs, seconds, settings, StartPoint("continue", levels, given, sources, prompt, encodes))


def branched(
    run: Run, settings: RunSettings, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0, lyrics: Song | None = None,
    seed: int | None = None,
) -> dict:  # fmt: skip
    """Request a run that keeps the first `keep_seconds` (0: all) of a run, and samples the rest up to `seconds`.

    `take` selects one sample of the run by its number from 1 (0: all samples). `seconds` of 0 mean the length of the run.
    Without `seed` the seed is the run's seed plus one.
    """
    asked, info = run.song(), ModelInfo.read(run.request["model"])
    check_weights(run.request, info)
    if not 0 <= take <= run.n_samples:
        raise UserError(f"there is no take {take} in {run.folder}; it has 1 to {run.n_samples}")
    rows = [take - 1] if take else list(range(run.n_samples))
    seconds, levels = seconds or asked["seconds"], run.sampled_levels
    there = {level: run.count(level, rows) // _per_unit(info, level) for level in levels}
    second = info.spec.unit / info.sample_rate
    keep = round(info.frames(keep_seconds, levels[0]) / _per_unit(info, levels[0])) if keep_seconds else there[levels[0]]
    if not 0 < keep <= there[levels[0]] or keep >= info.frames(seconds, levels[0]) // _per_unit(info, levels[0]):
        raise UserError(
            f"{keep * second:.2f} s were to be kept of {run.folder}, for {seconds:g} s in all; it has {there[levels[0]] * second:.2f} s: "
            "expected --keep_seconds up to that, and below --seconds, the finished length"
        )
    given = {level: min(keep, there[level]) * _per_unit(info, level) for level in levels}
    songs = [song_of_entry(asked["samples"][row], asked["total_seconds"]) for row in rows]
    if lyrics is not None:
        songs = [replace(song, lyrics=lyrics.lyrics, word_times=lyrics.word_times) for song in songs]
    total = settings.options.total_seconds or max(asked["total_seconds"], seconds)
    options = replace(_again(settings.options, asked), seed=asked["seed"] + 1 if seed is None else seed, total_seconds=total)
    path = f"{run.folder}, take {take}" if take else str(run.folder)
    prompt = {"path": path, "seconds": keep * second}
    sources = [(str(run.folder.resolve()), row) for row in rows]
    settings = replace(settings, options=options, params=_with_kept(asked, info, info.route(asked["route"]), None))
    start = StartPoint("branch", levels, given, sources, prompt, asked.get("encodes", ()))
    return new_request(info, songs, seconds, settings, start)


def upsampled(run: Run, settings: RunSettings, level: int | None = None, seed: int | None = None) -> dict:
    """Request a copy of a run down to `level`, in which the finer levels are sampled again.

    The default `level` is the finest finished level, or the first level if the finest level of the route is finished.
    """
    asked, info = run.song(), ModelInfo.read(run.request["model"])
    check_weights(run.request, info)
    finished = [each for each in asked["levels"] if run.count(each) == run.total(each)]
    options = settings.options if _names_route(settings) else replace(settings.options, route=_route_below(info, run, level))
    route = replace(settings, options=options).route(info)
    last = info.spec.names.index(list(route.priors)[-1])
    kept = level if level is not None else finished[-1] if finished and finished[-1] != last else asked["levels"][0]
    if kept not in finished:
        raise UserError(
            f"{run.folder} has no finished level {kept}; finish it with `jukebox resume {run.folder}` first, or choose another --level"
        )
    above = [each for each in asked["levels"][: asked["levels"].index(kept)] if info.stream(each).name in route.priors]
    levels = [*above, *info.check_levels((), route, kept)]
    options = replace(
        _again(options, asked, route.name), seed=asked["seed"] if seed is None else seed, total_seconds=asked["total_seconds"]
    )
    params = _with_kept(asked, info, route, settings.params)
    settings = replace(settings, options=replace(options, levels=tuple(levels)), params=params)
    songs = [song_of_entry(entry, asked["total_seconds"]) for entry in asked["samples"]]
    sources = [(str(run.folder.resolve()), row) for row in range(run.n_samples)]
    given = {each: run.total(each) for each in levels[: levels.index(kept) + 1]}
    return new_request(info, songs, asked["seconds"], settings, StartPoint("upsample", levels, given, sources))


def extended(run: Run, settings: RunSettings) -> dict[str, Any]:
    """Return the changes of a run's request that add the missing finer levels of a route in the same folder."""
    asked, first = run.song(), run.request["levels"][0]
    if not run.count(first):
        raise UserError(f"{run.folder} has no codes of level {first} yet; finish it with `jukebox resume {run.folder}` first")
    info = ModelInfo.read(asked["model"])
    route = settings.route(info) if _names_route(settings) else info.route(asked["route"])
    changed = settings.params is not None or route.name != asked["route"]
    begun = [level for level in asked["levels"][1:] if run.count(level) > asked["given"].get(str(level), 0)]
    if changed and begun:
        raise UserError(
            f"{run.folder} has codes of level {begun[-1]} already; to write them another way make a copy: name it with --out"
        )
    levels = [*info.check_levels((), route, first), *asked.get("encodes", ())]
    params = params_by_level(info, route, _with_kept(asked, info, route, settings.params))
    change = {"route": route.name, "levels": levels, "params": params}
    return change | _plans(info, route, {**asked, **change, "planners": {}})


def upsampled_codes(info: ModelInfo, song: Song, path: str | Path, settings: RunSettings, level: int | None = None) -> dict:
    """Request the finer levels of a file of codes, below `level` (default: the finest level of the route in the file)."""
    codes, route = read_codes(info, path), settings.route(info)
    order = [info.spec.names.index(stream) for stream in route.priors]
    there = [each for each in order if info.stream(each).name in codes.streams]
    finest = level if level is not None else there[-1] if there else None
    if finest not in there or finest == order[-1]:
        listed = ", ".join(str(each) for each, stream in enumerate(info.spec.streams) if stream.name in codes.streams)
        raise UserError(f"{path} has codes of level {listed}; expected {finest or order[-2]}, to write the finer ones")
    levels = info.check_levels((), route, finest)
    first = order.index(finest)
    while first and order[first - 1] in there:
        first -= 1
    seconds = codes.samples / info.sample_rate
    if codes.samples < info.spec.unit:
        raise UserError(f"{path} is shorter than one frame of the coarsest level, {info.spec.unit} samples")
    levels = [*order[first : order.index(finest)], *levels]
    given = {each: info.frames(seconds, each) for each in levels[: levels.index(finest) + 1]}
    sources = [(str(Path(path).resolve()), 0)]
    return new_request(info, [song], seconds, settings, StartPoint("upsample", levels, given, sources))


def replayed(request: dict) -> dict:
    """Return a request with the current machine and versions; it repeats the decisions of the original run, such as cuts."""
    check_weights(request, ModelInfo.read(request["model"]))
    asked = {name: value for name, value in request.items() if name != "findings"}
    return asked | {"machine": machine(request["machine"]["threads"]), "versions": versions()}


# ---- small helpers


@dataclass(frozen=True)
class StartPoint:
    """Start of a request: sampled levels, number of given frames of each level, sources, and the prompt shown on the page."""

    verb: str
    levels: Sequence[int]
    given: Mapping[int, int] = field(default_factory=dict)
    sources: Sequence[tuple[str, int]] = ()
    prompt: dict | None = None
    encodes: Sequence[int] = ()  # levels of another codec that are encoded from the audio of the last level
    more: Mapping[str, Any] = field(default_factory=dict)


def new_request(
    info: ModelInfo, songs: Sequence[Song], seconds: float, settings: RunSettings, start: StartPoint, route: Route | None = None
) -> dict:
    """Return a request before the first frame; the default `route` is the route of `settings`."""
    options, chosen, route = settings.options, settings.machine, route or settings.route(info)
    check_size(info, seconds, len(songs) * options.takes)
    check_batch(chosen.batch)
    if seconds <= 0 or options.takes < 1:
        raise UserError(f"{seconds:g} seconds, {options.takes} takes; expected seconds above 0 and takes from 1")
    if not options.hop_fractions or not all(0 < f <= 1 for f in options.hop_fractions):
        raise UserError(
            f"hop_fractions {tuple(options.hop_fractions)}; expected shares of the window in (0, 1] by level, as in 0.5,0.5,0.125"
        )
    total, labels = options.total_seconds or max(song.seconds for song in songs) or seconds, info.labels
    if not 0 < total < MOST_SECONDS:
        raise UserError(
            f"total_seconds {total:g}; expected the length of the whole song, above 0 and below {MOST_SECONDS:g} seconds"
        )
    songs = [replace(song, seconds=total).placed(labels) for song in songs for _ in range(options.takes)]
    made = {
        "version": VERSION, "verb": start.verb, "model": str(info.folder), "route": route.name, "seed": options.seed,
        "seconds": seconds, "total_seconds": total, "sample_rate": info.sample_rate, "channels": info.channels,
        "hops": list(info.hops), "streams": [asdict(stream) for stream in info.spec.streams],
        "levels": [*start.levels, *start.encodes], "hop_fractions": list(options.hop_fractions),
        "params": params_by_level(info, route, settings.params),
        "prompt": start.prompt, "given": {str(level): count for level, count in start.given.items()},
        "sources": [list(source) for source in start.sources for _ in range(options.takes)],
        "samples": [
            {"artist": s.artist, "genres": list(s.genres), "lyrics": s.lyrics, "word_times": [list(t) for t in s.word_times]} for s in songs
        ],
        "batch": chosen.batch, "parallel": chosen.parallel, "cuts": [],
        "batches": first_batches(len(songs), chosen.batch),
        "device": chosen.device, "dtype": chosen.dtype, "compile": chosen.compile,
        "machine": machine(info.threads(chosen.threads)), "versions": versions(), **start.more,
        **({"encodes": list(start.encodes)} if start.encodes else {}),
    }  # fmt: skip
    return made | _plans(info, route, made)


def check_size(info: ModelInfo, seconds: float, samples: int) -> None:
    """Raise UserError before any work if `samples` songs of `seconds` do not fit into memory."""
    state = max(codec.config.decoder_state(name) for codec in info.codecs for name in codec.config.spec.names)
    needed, there = PAGE * seconds * info.sample_rate * info.channels + (ENTRY + 2 * state) * samples, available_memory()
    if not needed <= there:
        raise UserError(
            f"{seconds:g} seconds and {samples:,} samples take {needed / 1e9:.3g} GB of memory at least, of which {there / 1e9:.1f} GB "
            "are available; give fewer --seconds or --takes"
        )


def check_batch(batch: int) -> None:
    """Raise UserError for an invalid number of parallel batch rows."""
    if not 0 <= batch <= MOST_ROWS:
        raise UserError(f"batch {batch}; expected rows from 1 to {MOST_ROWS:,}, or 0 for all")


def plans_of(info: ModelInfo, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return priors, window planners and noise keys for a request of version 2, which does not record planners and keys."""
    return _plans(info, Route(asked["route"], {info.stream(int(k)).name: name for k, name in asked["priors"].items()}), asked)


def _plans(info: ModelInfo, route: Route, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prior, the window planner and the noise key of each sampled level."""
    streams = {level: info.stream(level) for level in asked["levels"] if info.stream(level).name in route.priors}
    written = {level: info.priors[route.priors[s.name]] for level, s in streams.items() if route.priors[s.name] in info.priors}
    planners = {level: plan_windows(asked, level, entry.config, streams[level].name) for level, entry in written.items()}
    if asked["parallel"] and any(planner.kind != "parallel" for planner in list(planners.values())[1:]):
        raise UserError(f"--parallel is for autoregressive levels; with the route {route.name} leave it out")
    return {
        "priors": {str(level): entry.name for level, entry in written.items()},
        "planners": {str(level): planner.to_json() for level, planner in planners.items()},
        "noise": {str(level): streams[level].key for level in written},
    }


def _chosen_levels(info: ModelInfo, settings: RunSettings) -> tuple[list[int], list[int]]:
    """Return the levels that the route samples, and the levels that are encoded from its audio.

    Raise UserError if the codec of an encoded level is not trained.
    """
    route = settings.route(info)
    own, encodes = info.split_levels(settings.options.levels, route)
    levels = info.check_levels(own, route)
    for level in encodes:
        if not info.codes_hash(name := info.stream(level).name):
            kind = info.codec_of(name).config.kind
            raise UserError(
                f"{info.folder} has no trained codec for level {level} ({name}), into which the audio of the route {route.name} was to be "
                f"encoded; {info.advice(f'{kind} DATA --out {info.folder}')}, or leave it out of --levels"
            )
    return levels, encodes


def _route_below(info: ModelInfo, run: Run, level: int | None) -> str:
    """Return the name of the route that samples the levels below `level` of a run.

    For an encoded level this is the first route with its stream, otherwise the route of the run.
    """
    if level is None or level not in run.request.get("encodes", ()):
        return run.request["route"]
    name = info.stream(level).name
    return next((route.name for route in info.routes.values() if name in route.priors), run.request["route"])


def _per_unit(info: ModelInfo, level: int) -> int:
    """Number of frames of a level in the shortest length with whole frames of all levels."""
    return info.spec.unit // info.hops[level]


def _names_route(settings: RunSettings) -> bool:
    return bool(settings.options.route or settings.options.lower)


def _again(options: SamplingOptions, asked: Mapping[str, Any], route: str = "") -> SamplingOptions:
    """Return options with the route (unless given), levels and windows of an earlier request."""
    fractions, levels = tuple(asked["hop_fractions"]), tuple(asked["levels"])
    return replace(options, route=route or asked["route"], lower="", hop_fractions=fractions, levels=levels)


def _with_kept(asked: Mapping[str, Any], info: ModelInfo, route: Route, params: Params | None) -> dict[str, dict[str, Any]]:
    """Return the parameters of a route by stream: fields that `params` changes, or else the earlier request's fields."""
    default, given = params_by_level(info, route, None), params_by_level(info, route, params)
    made = {}
    for level, values in given.items():
        fixed = _set_fields(params, info.stream(int(level)).name, values)
        earlier = {k: v for k, v in asked["params"].get(level, {}).items() if k in values and k not in fixed}
        changed = {k: v for k, v in values.items() if v != default[level][k]}
        made[info.stream(int(level)).name] = values | earlier | changed
    return made


def _set_fields(params: Params | None, stream: str, values: Mapping[str, Any]) -> set[str]:
    """Return the names of a stream's parameters that `params` sets explicitly, even to their defaults."""
    if isinstance(params, Mapping):
        return set(values) if stream in params else set()
    if isinstance(params, SamplingParams):
        return set(params.more) | ({"passes"} if params.passes else set())
    return set() if params is None else set(vars(params))


def song_of_entry(entry: Mapping[str, Any], seconds: float) -> Song:
    """Return the song of an entry of `samples` in run.json."""
    from data_prep.align import TimedText

    times = tuple(TimedText(*item) for item in entry["word_times"])
    return Song(entry["artist"], tuple(entry["genres"]), entry["lyrics"], times, seconds)


# ---- settings that a request leaves open


def dtype_of(request: Mapping[str, Any]) -> str:
    """Return the dtype of a request (default: float32); raise UserError for an unknown dtype."""
    dtype = request.get("dtype") or "float32"
    if dtype not in BYTES:
        raise UserError(f"--dtype got {dtype!r}, expected one of {', '.join(BYTES)}")
    return dtype


def prior_of(info: ModelInfo, request: Mapping[str, Any], level: int) -> PriorEntry | None:
    """Return the prior that writes a level of a request; None if the model has no such prior."""
    recorded = request.get("priors", {}).get(str(level))
    return info.priors.get(recorded or info.route(request.get("route", "")).priors.get(info.stream(level).name, ""))


def should_compile(info: ModelInfo, request: Mapping[str, Any]) -> bool:
    """Whether compiled decoding steps save time.

    On a CPU they always do, because the compiled library is built once per machine. On a GPU each window captures a step, which
    saves time only for many frames times layers.
    """
    if not request["device"].startswith("cuda"):
        return True
    steps, unit = 0, math.lcm(*request["hops"])
    for level in request["levels"]:
        entry = prior_of(info, request, level)
        total = frame_count(request["seconds"], info.sample_rate, request["hops"][level], unit)
        steps += (total - int(request["given"].get(str(level), 0))) * (entry.config.depth if entry else 0)
    return steps >= CAPTURE_THRESHOLD
