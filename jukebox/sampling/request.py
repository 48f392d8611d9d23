"""What is asked for, as run.json says it. Nothing heavy is imported here: a request is on disk before torch is.

    sampled      from nothing
    continued    from recordings, files of codes, or other runs: their beginning is given
    branched     from a run: its first seconds are given, the rest is drawn with another seed or other words
    upsampled    from a run or a file of codes: a level is given, those below it are drawn
    replayed     the same once more

All of them say the same things: which codes are `given` (how many of each level), from where (`sources`, a path and a row a
sample), and how the others are drawn. So there is one walk (jukebox/sampling/walk.py), and a run can always be told from its request alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from jukebox.model.info import ModelInfo, check_weights
from jukebox.sampling.batches import first_batches
from jukebox.sampling.run import VERSION, Run, machine, versions
from jukebox.sampling.sources import find_sources, length_of, read_codes
from jukebox.song import Song
from priors.spec import BYTES
from vqvae.streams import frame_count

AUTOREGRESSIVE, MASKED = "autoregressive", "masked"
PASSES = (24, 12)  # rounds in which the middle and the bottom level are filled
HOP_FRACTIONS = (0.5, 0.5, 0.5)  # step from window to window, as a share of the window, by level
COMPILE_THRESHOLD = 100_000  # steps of one layer; each gains some 50 microseconds, and compiling takes some seconds


@dataclass(frozen=True)
class SamplingOptions:
    """How a run is drawn, whatever it begins with; `params` says temperature and so on by level, `ranks` how many processes share it."""

    seed: int = 0
    params: Mapping[int, Any] = field(default_factory=dict)  # level -> How, or its fields by name
    total_seconds: float = 0.0  # length that the model is told; 0: the finished length
    levels: Sequence[int] = ()  # all
    hop_fractions: Sequence[float] = HOP_FRACTIONS
    takes: int = 1  # samples of each song
    batch: int = 0  # samples side by side, with `parallel` samples times windows; 0: all
    parallel: bool = False  # windows of one song side by side, at the levels below the top
    lower: str = ""  # how levels below the top are sampled; empty: as the run before, or AUTOREGRESSIVE
    passes: Sequence[int] = ()  # of masked levels, coarsest first; empty: as the run before, or PASSES
    threads: int = 0  # 0: one for a small model, all for a large one
    device: str = "auto"
    dtype: str = ""  # of the priors, see jukebox.model.folder.DTYPES; empty: float32, or what --max_memory chooses
    compile: str = "auto"  # whether steps of decoding are: auto, on, off
    ranks: int = 1


# ---- the verbs


def sampled(info: ModelInfo, songs: Sequence[Song], seconds: float, options: SamplingOptions) -> dict:
    """Songs from nothing, each `takes` times."""
    return _request(info, songs, seconds, options, "sample", info.check_levels(options.levels, lower=options.lower))


def continued(
    info: ModelInfo, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, options: SamplingOptions
) -> dict:  # fmt: skip
    """The first `prompt_seconds` (0: all) of sound files, files of codes or runs, carried on to `seconds`, each `takes` times."""
    levels = info.check_levels(options.levels, lower=options.lower)
    if not 0 <= prompt_seconds < seconds:
        raise UserError(
            f"prompt of {prompt_seconds:g} s in a song of {seconds:g} s; expected 0 < prompt_seconds < seconds, the finished length"
        )
    sources = [source for prompt in prompts for source in find_sources(prompt)]
    there = [length_of(info, path, row, levels, prompt_seconds) for path, row in sources]
    if prompt_seconds and (short := min(there)) < info.frames(prompt_seconds, levels[0]):
        path, _ = sources[there.index(short)]
        raise UserError(
            f"{path} is {short * info.spec.unit / info.sample_rate:.2f} s long; the prompt was to be {prompt_seconds:g} s: "
            "give a smaller --prompt_seconds"
        )
    kept = min(min(there), info.frames(prompt_seconds, levels[0]) if prompt_seconds else min(there))
    if not 0 < kept < info.frames(seconds, levels[0]):
        raise UserError(
            f"the prompt is {kept * info.spec.unit / info.sample_rate:.2f} s long; expected less than --seconds {seconds:g}, the finished "
            "length, and more than nothing"
        )
    given = {level: kept * info.spec.unit // info.hops[level] for level in levels}
    paths = list(dict.fromkeys(str(path) for path, _ in sources))
    prompt = {"path": paths[0] if len(paths) == 1 else paths, "seconds": kept * info.spec.unit / info.sample_rate}
    count = max(len(songs), len(sources))  # one prompt may serve several songs, one song several prompts
    songs = [songs[i % len(songs)] for i in range(count)]
    sources = [sources[i % len(sources)] for i in range(count)]
    return _request(info, songs, seconds, options, "continue", levels, given, sources, prompt)


def branched(
    run: Run, options: SamplingOptions, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0, lyrics: Song | None = None,
    seed: int | None = None,
) -> dict:  # fmt: skip
    """The first `keep_seconds` (0: all) of a run, of sample number `take` (from 1; 0: all), carried on to `seconds`."""
    asked, info = run.request, ModelInfo.read(run.request["model"])
    check_weights(run.request, info)
    if not 0 <= take <= run.n_samples:
        raise UserError(f"there is no take {take} in {run.folder}; it has 1 to {run.n_samples}")
    rows = [take - 1] if take else list(range(run.n_samples))
    seconds, levels = seconds or asked["seconds"], asked["levels"]
    ratio = {level: info.spec.unit // info.hops[level] for level in levels}
    there = {level: run.count(level, rows) // ratio[level] for level in levels}  # in codes of the top level
    keep = info.frames(keep_seconds, len(info.hops) - 1) if keep_seconds else there[levels[0]]
    if not 0 < keep <= there[levels[0]] or keep >= info.frames(seconds, len(info.hops) - 1):
        second = info.spec.unit / info.sample_rate
        raise UserError(
            f"{keep * second:.2f} s were to be kept of {run.folder}, for {seconds:g} s in all; it has {there[levels[0]] * second:.2f} s: "
            "expected --keep_seconds up to that, and below --seconds, the finished length"
        )
    given = {level: min(keep, there[level]) * ratio[level] for level in levels}
    songs = [song_of_entry(asked["samples"][row], asked["total_seconds"]) for row in rows]
    if lyrics is not None:
        songs = [replace(song, lyrics=lyrics.lyrics, word_times=lyrics.word_times) for song in songs]
    options = replace(
        options, seed=asked["seed"] + 1 if seed is None else seed, params={int(k): v for k, v in asked["how"].items()}, levels=levels,
        hop_fractions=asked["hop_fractions"], total_seconds=options.total_seconds or max(asked["total_seconds"], seconds),
        lower=asked.get("lower", AUTOREGRESSIVE), passes=_passes(asked, asked.get("lower", AUTOREGRESSIVE)),
    )  # fmt: skip
    path = f"{run.folder}, take {take}" if take else str(run.folder)
    prompt = {"path": path, "seconds": keep * info.spec.unit / info.sample_rate}
    sources = [(str(run.folder.resolve()), row) for row in rows]
    return _request(info, songs, seconds, options, "branch", levels, given, sources, prompt)


def upsampled(run: Run, options: SamplingOptions, level: int | None = None, seed: int | None = None) -> dict:
    """A copy of a run down to `level` (None: its finest finished one, or the top), the levels below anew."""
    asked, info = run.request, ModelInfo.read(run.request["model"])
    check_weights(run.request, info)
    finished = [each for each in asked["levels"] if run.count(each) == run.total(each)]
    kept = level if level is not None else finished[-1] if finished and finished[-1] > 0 else asked["levels"][0]
    if kept not in finished:
        raise UserError(
            f"{run.folder} has no finished level {kept}; finish it with `jukebox resume {run.folder}` first, or choose another --level"
        )
    levels = list(range(asked["levels"][0], -1, -1))
    lower = options.lower or asked.get("lower", AUTOREGRESSIVE)
    info.check_levels(range(kept + 1), kept, lower)
    options = replace(
        options, lower=lower, passes=options.passes or _passes(asked, lower), seed=asked["seed"] if seed is None else seed,
        params={int(k): v for k, v in asked["how"].items()},
        hop_fractions=asked["hop_fractions"], total_seconds=asked["total_seconds"], levels=levels,
    )  # fmt: skip
    songs = [song_of_entry(entry, asked["total_seconds"]) for entry in asked["samples"]]
    sources = [(str(run.folder.resolve()), row) for row in range(run.n_samples)]
    given = {each: run.total(each) for each in levels if each >= kept}
    return _request(info, songs, asked["seconds"], options, "upsample", levels, given, sources)


def extended(run: Run, lower: str = "", passes: Sequence[int] = ()) -> dict[str, Any]:
    """What run.json says anew of a run that is to go on in its own folder, to the levels below those it has."""
    asked, top = run.request, max(run.request["levels"])
    if not run.count(top):
        raise UserError(f"{run.folder} has no codes of level {top} yet; finish it with `jukebox resume {run.folder}` first")
    info, before = ModelInfo.read(asked["model"]), asked.get("lower", AUTOREGRESSIVE)
    lower, changed = lower or before, bool(passes) or lower not in ("", before)
    begun = [level for level in range(top) if run.count(level) > asked["given"].get(str(level), 0)]
    if changed and begun:
        raise UserError(
            f"{run.folder} has codes of level {begun[-1]} already; to write them another way make a copy: name it with --out"
        )
    params = _with_passes(asked["how"], lower, passes or _passes(asked, lower), top)
    return {"levels": info.check_levels(range(top + 1), top, lower), "lower": lower, "how": params}


def upsampled_codes(info: ModelInfo, song: Song, path: str | Path, options: SamplingOptions, level: int | None = None) -> dict:
    """The finer levels of a file of codes, from its finest or from `level`."""
    codes = read_codes(info, path)
    there = [level for level, stream in enumerate(info.spec.streams) if stream.name in codes.streams]
    finest = min(there) if level is None else level
    if finest not in there or finest == 0:
        raise UserError(
            f"{path} has codes of level {', '.join(map(str, there))}; expected {finest or 1}, to write the finer ones"
        )
    info.check_levels(range(finest + 1), finest, options.lower)
    top = next(each for each in range(finest, len(info.hops)) if each + 1 not in there)
    levels, seconds = list(range(top, -1, -1)), codes.samples / info.sample_rate
    if codes.samples < info.spec.unit:
        raise UserError(f"{path} is shorter than one code of the coarsest level, {info.spec.unit} samples")
    given = {each: info.frames(seconds, each) for each in levels if each >= finest}
    return _request(info, [song], seconds, options, "upsample", levels, given, [(str(Path(path).resolve()), 0)])


def replayed(request: dict) -> dict:
    """The request once more, with the machine and versions of now; what had to be decided on the way is decided alike."""
    check_weights(request, ModelInfo.read(request["model"]))
    return request | {"machine": machine(request["machine"]["threads"]), "versions": versions()}


# ---- small helpers


def _request(
    info: ModelInfo, songs: Sequence[Song], seconds: float, options: SamplingOptions, verb: str, levels: Sequence[int],
    given: Mapping[int, int] | None = None, sources: Sequence[tuple[str, int]] = (), prompt: dict | None = None,
) -> dict:  # fmt: skip
    """What run.json says before the first code."""
    if seconds <= 0 or options.takes < 1 or options.batch < 0:
        raise UserError(
            f"{seconds:g} seconds, {options.takes} takes, batch {options.batch}; expected seconds above 0, takes from 1, a batch from 0"
        )
    lower = options.lower or AUTOREGRESSIVE
    if lower not in (AUTOREGRESSIVE, MASKED):
        raise UserError(f"lower {lower!r}; expected {AUTOREGRESSIVE} or {MASKED}")
    if lower == MASKED and options.parallel:
        raise UserError("--parallel is for levels drawn one code after another; with --lower masked leave it away")
    if len(options.hop_fractions) < len(info.hops) or not all(0 < f <= 1 for f in options.hop_fractions):
        raise UserError(
            f"hop_fractions {tuple(options.hop_fractions)}; expected a share of the window in (0, 1] for every level, as in 0.5,0.5,0.125"
        )
    total, labels = options.total_seconds or seconds, info.labels
    chosen = [options.params.get(level, {}) for level in range(len(info.hops))]
    # the command line, which does not import SamplingParams, gives its fields at once
    params = {str(level): dict(each) if isinstance(each, Mapping) else asdict(each) for level, each in enumerate(chosen)}
    songs = [replace(song, seconds=total).placed(labels) for song in songs for _ in range(options.takes)]
    return {
        "version": VERSION, "verb": verb, "model": str(info.folder), "seed": options.seed, "seconds": seconds,
        "total_seconds": total, "sample_rate": info.sample_rate, "channels": info.channels, "hops": list(info.hops),
        "streams": [asdict(stream) for stream in info.spec.streams],
        "levels": list(levels), "hop_fractions": list(options.hop_fractions),
        "how": _with_passes(params, lower, options.passes, len(info.hops) - 1),
        "prompt": prompt, "given": {str(level): count for level, count in (given or {}).items()},
        "sources": [list(source) for source in sources for _ in range(options.takes)],
        "samples": [
            {"artist": s.artist, "genres": list(s.genres), "lyrics": s.lyrics, "word_times": [list(t) for t in s.word_times]} for s in songs
        ],
        "batch": options.batch, "parallel": options.parallel, "lower": lower, "cuts": [],
        "batches": first_batches(len(songs), options.batch, options.ranks),
        "device": options.device, "dtype": options.dtype, "compile": options.compile,
        "machine": machine(info.threads(options.threads)), "versions": versions(),
    }  # fmt: skip


def _with_passes(params: Mapping[str, Any], lower: str, passes: Sequence[int], top: int) -> dict[str, Any]:
    """How every level is drawn, those below the top in so many passes where they are masked; else in none."""
    if lower != MASKED:
        if passes:
            raise UserError(f"passes are of levels that are filled many codes at once; give --lower {MASKED} with them")
        return dict(params)
    passes = passes or PASSES[:top]
    if len(passes) != top or min(passes) < 1:
        raise UserError(f"passes {tuple(passes)}; expected {top} numbers from 1, of the levels below the top, as in 24,12")
    return dict(params) | {str(level): {**params[str(level)], "passes": n} for level, n in zip(range(top - 1, -1, -1), passes)}


def _passes(asked: Mapping[str, Any], lower: str) -> tuple[int, ...]:
    """The passes of a run before, coarsest level first; none where its levels, or those to come, are drawn one code after another."""
    levels = range(len(asked["hops"]) - 2, -1, -1)
    both = asked.get("lower") == lower == MASKED
    return tuple(asked["how"][str(level)]["passes"] for level in levels) if both else ()


def song_of_entry(entry: Mapping[str, Any], seconds: float) -> Song:
    """A sample of run.json as the song it was."""
    from data_prep.align import TimedText

    times = tuple(TimedText(*item) for item in entry["word_times"])
    return Song(entry["artist"], tuple(entry["genres"]), entry["lyrics"], times, seconds)


# ---- what a request leaves to choose


def dtype_of(request: Mapping[str, Any]) -> str:
    """The request's dtype; UserError if there is none of that name."""
    dtype = request.get("dtype") or "float32"
    if dtype not in BYTES:
        raise UserError(f"--dtype got {dtype!r}, expected one of {', '.join(BYTES)}")
    return dtype


def should_compile(request: Mapping[str, Any], depths: Mapping[int, int], sample_rate: int) -> bool:
    """Whether the codes to sample, each of which passes so many layers by level, are worth compiling a step."""
    hops, steps = request["hops"], 0
    for level in request["levels"]:
        total = frame_count(request["seconds"], sample_rate, hops[level], math.lcm(*hops))
        steps += (total - int(request["given"].get(str(level), 0))) * depths.get(level, 0)
    return steps >= COMPILE_THRESHOLD
