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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from jukebox.model.info import Facts, check_weights
from jukebox.sampling.batches import first_batches
from jukebox.sampling.run import VERSION, Run, machine, versions
from jukebox.sampling.sources import find_sources, length_of, read_codes
from jukebox.song import Song

ONE_BY_ONE, MASKED = "autoregressive", "masked"
PASSES = (24, 12)  # rounds in which the middle and the bottom level are filled
HOP_FRACTIONS = (0.5, 0.5, 0.5)  # step from window to window, as a share of the window, by level


@dataclass(frozen=True)
class Choices:
    """How a run is drawn, whatever it begins with; `how` says temperature and so on by level, `ranks` how many processes share it."""

    seed: int = 0
    how: Mapping[int, Any] = field(default_factory=dict)  # level -> How, or its fields by name
    total_seconds: float = 0.0  # length that the model is told; 0: the finished length
    levels: Sequence[int] = ()  # all
    hop_fractions: Sequence[float] = HOP_FRACTIONS
    takes: int = 1  # samples of each song
    batch: int = 0  # samples side by side, with `parallel` samples times windows; 0: all
    parallel: bool = False  # windows of one song side by side, at the levels below the top
    lower: str = ""  # how levels below the top are written: ONE_BY_ONE, or MASKED, many at once; empty: as the run before, or the first
    passes: Sequence[int] = ()  # of masked levels, coarsest first; empty: as the run before, or PASSES
    threads: int = 0  # 0: one for a small model, all for a large one
    device: str = "auto"
    dtype: str = ""  # of the priors, see jukebox.model.folder.DTYPES; empty: float32, or what --max_memory chooses
    compile: str = "auto"  # whether steps of decoding are: auto, on, off
    ranks: int = 1


# ---- the verbs


def sampled(facts: Facts, songs: Sequence[Song], seconds: float, choices: Choices) -> dict:
    """Songs from nothing, each `takes` times."""
    return _request(facts, songs, seconds, choices, "sample", facts.check_levels(choices.levels, lower=choices.lower))


def continued(
    facts: Facts, songs: Sequence[Song], prompts: Sequence[str | Path], prompt_seconds: float, seconds: float, choices: Choices
) -> dict:  # fmt: skip
    """The first `prompt_seconds` (0: all) of sound files, files of codes or runs, carried on to `seconds`, each `takes` times."""
    levels = facts.check_levels(choices.levels, lower=choices.lower)
    if not 0 <= prompt_seconds < seconds:
        raise UserError(
            f"prompt of {prompt_seconds:g} s in a song of {seconds:g} s; expected 0 < prompt_seconds < seconds, the finished length"
        )
    sources = [source for prompt in prompts for source in find_sources(prompt)]
    there = [length_of(facts, path, row, levels, prompt_seconds) for path, row in sources]
    if prompt_seconds and (short := min(there)) < facts.codes(prompt_seconds, levels[0]):
        path, _ = sources[there.index(short)]
        raise UserError(
            f"{path} is {short * facts.hops[-1] / facts.sample_rate:.2f} s long; the prompt was to be {prompt_seconds:g} s: "
            "give a smaller --prompt_seconds"
        )
    kept = min(min(there), facts.codes(prompt_seconds, levels[0]) if prompt_seconds else min(there))
    if not 0 < kept < facts.codes(seconds, levels[0]):
        raise UserError(
            f"the prompt is {kept * facts.hops[-1] / facts.sample_rate:.2f} s long; expected less than --seconds {seconds:g}, the finished "
            "length, and more than nothing"
        )
    given = {level: kept * facts.hops[-1] // facts.hops[level] for level in levels}
    paths = list(dict.fromkeys(str(path) for path, _ in sources))
    prompt = {"path": paths[0] if len(paths) == 1 else paths, "seconds": kept * facts.hops[-1] / facts.sample_rate}
    count = max(len(songs), len(sources))  # one prompt may serve several songs, one song several prompts
    songs = [songs[i % len(songs)] for i in range(count)]
    sources = [sources[i % len(sources)] for i in range(count)]
    return _request(facts, songs, seconds, choices, "continue", levels, given, sources, prompt)


def branched(
    run: Run, choices: Choices, *, keep_seconds: float = 0.0, take: int = 0, seconds: float = 0.0, lyrics: Song | None = None,
    seed: int | None = None,
) -> dict:  # fmt: skip
    """The first `keep_seconds` (0: all) of a run, of sample number `take` (from 1; 0: all), carried on to `seconds`."""
    asked, facts = run.request, Facts.read(run.request["model"])
    check_weights(run.request, facts)
    if not 0 <= take <= run.n_samples:
        raise UserError(f"there is no take {take} in {run.folder}; it has 1 to {run.n_samples}")
    rows = [take - 1] if take else list(range(run.n_samples))
    seconds, levels = seconds or asked["seconds"], asked["levels"]
    ratio = {level: facts.hops[-1] // facts.hops[level] for level in levels}
    there = {level: run.count(level, rows) // ratio[level] for level in levels}  # in codes of the top level
    keep = facts.codes(keep_seconds, len(facts.hops) - 1) if keep_seconds else there[levels[0]]
    if not 0 < keep <= there[levels[0]] or keep >= facts.codes(seconds, len(facts.hops) - 1):
        second = facts.hops[-1] / facts.sample_rate
        raise UserError(
            f"{keep * second:.2f} s were to be kept of {run.folder}, for {seconds:g} s in all; it has {there[levels[0]] * second:.2f} s: "
            "expected --keep_seconds up to that, and below --seconds, the finished length"
        )
    given = {level: min(keep, there[level]) * ratio[level] for level in levels}
    songs = [song_of_entry(asked["samples"][row], asked["total_seconds"]) for row in rows]
    if lyrics is not None:
        songs = [replace(song, lyrics=lyrics.lyrics, word_times=lyrics.word_times) for song in songs]
    choices = replace(
        choices, seed=asked["seed"] + 1 if seed is None else seed, how={int(k): v for k, v in asked["how"].items()}, levels=levels,
        hop_fractions=asked["hop_fractions"], total_seconds=choices.total_seconds or max(asked["total_seconds"], seconds),
        lower=asked.get("lower", ONE_BY_ONE), passes=_passes(asked, asked.get("lower", ONE_BY_ONE)),
    )  # fmt: skip
    path = f"{run.folder}, take {take}" if take else str(run.folder)
    prompt = {"path": path, "seconds": keep * facts.hops[-1] / facts.sample_rate}
    sources = [(str(run.folder.resolve()), row) for row in rows]
    return _request(facts, songs, seconds, choices, "branch", levels, given, sources, prompt)


def upsampled(run: Run, choices: Choices, level: int | None = None, seed: int | None = None) -> dict:
    """A copy of a run down to `level` (None: its finest finished one, or the top), the levels below anew."""
    asked, facts = run.request, Facts.read(run.request["model"])
    check_weights(run.request, facts)
    finished = [each for each in asked["levels"] if run.count(each) == run.total(each)]
    kept = level if level is not None else finished[-1] if finished and finished[-1] > 0 else asked["levels"][0]
    if kept not in finished:
        raise UserError(
            f"{run.folder} has no finished level {kept}; finish it with `jukebox resume {run.folder}` first, or choose another --level"
        )
    levels = list(range(asked["levels"][0], -1, -1))
    lower = choices.lower or asked.get("lower", ONE_BY_ONE)
    facts.check_levels(range(kept + 1), kept, lower)
    choices = replace(
        choices, lower=lower, passes=choices.passes or _passes(asked, lower), seed=asked["seed"] if seed is None else seed,
        how={int(k): v for k, v in asked["how"].items()},
        hop_fractions=asked["hop_fractions"], total_seconds=asked["total_seconds"], levels=levels,
    )  # fmt: skip
    songs = [song_of_entry(entry, asked["total_seconds"]) for entry in asked["samples"]]
    sources = [(str(run.folder.resolve()), row) for row in range(run.n_samples)]
    given = {each: run.total(each) for each in levels if each >= kept}
    return _request(facts, songs, asked["seconds"], choices, "upsample", levels, given, sources)


def extended(run: Run, lower: str = "", passes: Sequence[int] = ()) -> dict[str, Any]:
    """What run.json says anew of a run that is to go on in its own folder, to the levels below those it has."""
    asked, top = run.request, max(run.request["levels"])
    if not run.count(top):
        raise UserError(
            f"{run.folder} has no codes of level {top} yet; finish it with `jukebox resume {run.folder}` first"
        )
    facts, before = Facts.read(asked["model"]), asked.get("lower", ONE_BY_ONE)
    lower, changed = lower or before, bool(passes) or lower not in ("", before)
    begun = [level for level in range(top) if run.count(level) > asked["given"].get(str(level), 0)]
    if changed and begun:
        raise UserError(
            f"{run.folder} has codes of level {begun[-1]} already; to write them another way make a copy: name it with --out"
        )
    how = _with_passes(asked["how"], lower, passes or _passes(asked, lower), top)
    return {"levels": facts.check_levels(range(top + 1), top, lower), "lower": lower, "how": how}


def upsampled_codes(facts: Facts, song: Song, path: str | Path, choices: Choices, level: int | None = None) -> dict:
    """The finer levels of a file of codes, from its finest or from `level`."""
    codes = read_codes(facts, path)
    finest = min(codes.levels) if level is None else level
    if finest not in codes.levels or finest == 0:
        raise UserError(
            f"{path} has codes of level {', '.join(map(str, sorted(codes.levels)))}; expected {finest or 1}, to write the finer ones"
        )
    facts.check_levels(range(finest + 1), finest, choices.lower)
    top = next(each for each in range(finest, len(facts.hops)) if each + 1 not in codes.levels)
    levels, seconds = list(range(top, -1, -1)), codes.samples / facts.sample_rate
    if codes.samples < facts.hops[-1]:
        raise UserError(f"{path} is shorter than one code of the coarsest level, {facts.hops[-1]} samples")
    given = {each: facts.codes(seconds, each) for each in levels if each >= finest}
    return _request(facts, [song], seconds, choices, "upsample", levels, given, [(str(Path(path).resolve()), 0)])


def replayed(request: dict) -> dict:
    """The request once more, with the machine and versions of now; what had to be decided on the way is decided alike."""
    check_weights(request, Facts.read(request["model"]))
    return request | {"machine": machine(request["machine"]["threads"]), "versions": versions()}


# ---- small helpers


def _request(
    facts: Facts, songs: Sequence[Song], seconds: float, choices: Choices, verb: str, levels: Sequence[int],
    given: Mapping[int, int] | None = None, sources: Sequence[tuple[str, int]] = (), prompt: dict | None = None,
) -> dict:  # fmt: skip
    """What run.json says before the first code."""
    if seconds <= 0 or choices.takes < 1 or choices.batch < 0:
        raise UserError(
            f"{seconds:g} seconds, {choices.takes} takes, batch {choices.batch}; expected seconds above 0, takes from 1, a batch from 0"
        )
    lower = choices.lower or ONE_BY_ONE
    if lower not in (ONE_BY_ONE, MASKED):
        raise UserError(f"lower {lower!r}; expected {ONE_BY_ONE} or {MASKED}")
    if lower == MASKED and choices.parallel:
        raise UserError("--parallel is for levels drawn one code after another; with --lower masked leave it away")
    if len(choices.hop_fractions) < len(facts.hops) or not all(0 < f <= 1 for f in choices.hop_fractions):
        raise UserError(
            f"hop_fractions {tuple(choices.hop_fractions)}; expected a share of the window in (0, 1] for every level, as in 0.5,0.5,0.125"
        )
    total, labels = choices.total_seconds or seconds, facts.labels
    how = {str(level): _fields(choices.how.get(level, {})) for level in range(len(facts.hops))}
    songs = [replace(song, seconds=total).placed(labels) for song in songs for _ in range(choices.takes)]
    return {
        "version": VERSION, "verb": verb, "model": str(facts.folder), "seed": choices.seed, "seconds": seconds,
        "total_seconds": total, "sample_rate": facts.sample_rate, "channels": facts.channels, "hops": list(facts.hops),
        "levels": list(levels), "hop_fractions": list(choices.hop_fractions),
        "how": _with_passes(how, lower, choices.passes, len(facts.hops) - 1),
        "prompt": prompt, "given": {str(level): count for level, count in (given or {}).items()},
        "sources": [list(source) for source in sources for _ in range(choices.takes)],
        "samples": [
            {"artist": s.artist, "genres": list(s.genres), "lyrics": s.lyrics, "word_times": [list(t) for t in s.word_times]} for s in songs
        ],
        "batch": choices.batch, "parallel": choices.parallel, "lower": lower, "cuts": [],
        "batches": first_batches(len(songs), choices.batch, choices.ranks),
        "device": choices.device, "dtype": choices.dtype, "compile": choices.compile,
        "machine": machine(facts.threads(choices.threads)), "versions": versions(),
    }  # fmt: skip


def _with_passes(how: Mapping[str, Any], lower: str, passes: Sequence[int], top: int) -> dict[str, Any]:
    """How every level is drawn, those below the top in so many passes where they are masked; else in none."""
    if lower != MASKED:
        if passes:
            raise UserError(f"passes are of levels that are filled many codes at once; give --lower {MASKED} with them")
        return dict(how)
    passes = passes or PASSES[:top]
    if len(passes) != top or min(passes) < 1:
        raise UserError(
            f"passes {tuple(passes)}; expected {top} numbers from 1, of the levels below the top, as in 24,12"
        )
    return dict(how) | {
        str(level): {**how[str(level)], "passes": n} for level, n in zip(range(top - 1, -1, -1), passes)
    }


def _passes(asked: Mapping[str, Any], lower: str) -> tuple[int, ...]:
    """The passes of a run before, coarsest level first; none where its levels, or those to come, are drawn one code after another."""
    levels = range(len(asked["hops"]) - 2, -1, -1)
    both = asked.get("lower") == lower == MASKED
    return tuple(asked["how"][str(level)]["passes"] for level in levels) if both else ()


def _fields(how: Any) -> dict[str, Any]:
    """A How as json has it; the command line, which does not import its class, gives the fields at once."""
    return dict(how) if isinstance(how, Mapping) else asdict(how)


def song_of_entry(entry: Mapping[str, Any], seconds: float) -> Song:
    """A sample of run.json as the song it was."""
    from data_prep.align import TimedText

    times = tuple(TimedText(*item) for item in entry["word_times"])
    return Song(entry["artist"], tuple(entry["genres"]), entry["lyrics"], times, seconds)
