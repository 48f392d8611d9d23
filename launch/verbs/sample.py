"""The verbs that generate music: sample, continue, branch, upsample, resume, replay.

Each verb prints the path of the result and the speed. The request is on disk before torch is imported. So a stopped command
leaves either nothing or a run that `resume` finishes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from launch.cli.route_flags import route_flags
from launch.cli.usage import shared_flags
from launch.cluster.ranks import rank_and_ranks, variables

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from jukebox.model.info import ModelInfo
    from jukebox.runs.run import Run
    from jukebox.song import Song


@dataclass(frozen=True)
class LabelFlags:
    """Labels of the song.

    artist: name of an artist of the model; empty: unknown
    genre: name of a genre, or several joined by commas
    """

    artist: str = ""
    genre: str = ""


@dataclass(frozen=True)
class SongFlags(LabelFlags):
    """Labels and lyrics of the song.

    lyrics: text file, or .lrc file with times, of the whole song from its first second
    """

    lyrics: str = ""


@shared_flags
def sample(
    model: str = "", *, out: str = "", seconds: float = 20.0, words: SongFlags, options: SamplingOptions, params: SamplingParams,
    machine: MachineOptions,
) -> None:  # fmt: skip
    """Sample songs from artist, genre and lyrics alone, into a run folder with wav files and a page.

    model: folder of a trained model (empty, or the word shipped: the model that comes with the package)
    out: run folder to write (empty: song, or song_2 and so on if that exists)
    seconds: finished length of the song, in seconds
    """
    from jukebox.model.info import ModelInfo
    from jukebox.runs import request

    info = ModelInfo.read(model)
    asked = request.sampled(info, [read_song(info, words)], seconds, request.RunSettings(options, params, machine))
    _make(out or _unused("song"), asked, machine)


@shared_flags
def continue_(
    model: str, song: str, *, out: str = "", prompt_seconds: float = 12.0, seconds: float = 30.0, words: SongFlags,
    options: SamplingOptions, params: SamplingParams, machine: MachineOptions,
) -> None:  # fmt: skip
    """Continue recordings: the first seconds are kept, the rest is new.

    model: folder of a trained model
    song: the recording, in any format that `prepare` reads; or a codes.npz of `codec encode`, or a run folder; several joined
        by commas
    out: run folder to write (empty: beside the recording, _continued appended to its name)
    prompt_seconds: length of the kept part, in seconds (0: all)
    seconds: finished length, the kept part included, in seconds
    """
    from jukebox.model.info import ModelInfo
    from jukebox.runs import request

    info, prompts = ModelInfo.read(model), [song] if Path(song).exists() else song.split(",")
    settings = request.RunSettings(options, params, machine)
    asked = request.continued(info, [read_song(info, words)], prompts, prompt_seconds, seconds, settings)
    _make(out or _unused(beside(prompts[0], "continued")), asked, machine)


@shared_flags
def branch(
    run: str, *, out: str = "", keep_seconds: float = 0.0, take: int = 0, takes: int = 1, seed: int = -1, lyrics: str = "",
    seconds: float = 0.0, total_seconds: float = 0.0, model: str = "", machine: MachineOptions,
) -> None:  # fmt: skip
    """Keep the first seconds of a run and continue differently: with another seed, other lyrics, or from the best take.

    run: run folder to start from; it is not changed
    out: run folder to write (empty: beside it, _branch appended to its name)
    keep_seconds: length of the kept part, in seconds (0: all)
    take: number of the sample to continue, counted from 1 as on the page (0: each)
    takes: samples of each, which differ in their random numbers
    seed: seed of all random numbers (-1: the next after that of the run)
    lyrics: text file, or .lrc file with times, of the whole song from its first second (empty: the lyrics of the run)
    seconds: finished length, the kept part included, in seconds (0: that of the run)
    total_seconds: length of the whole song that the model is conditioned on, in seconds (0: that of the run, or the finished
        length)
    model: folder of the run's model, if it was moved
    """
    from jukebox.model.info import ModelInfo
    from jukebox.runs import request

    opened = _open(run, model)
    settings = request.RunSettings(SamplingOptions(takes=takes, total_seconds=total_seconds), None, machine)
    words = read_song(ModelInfo.read(opened.request["model"]), SongFlags(lyrics=lyrics)) if lyrics else None
    asked = request.branched(
        opened, settings, keep_seconds=keep_seconds, take=take, seconds=seconds, lyrics=words, seed=None if seed < 0 else seed,
    )  # fmt: skip
    _make(out or _unused(beside(run, "branch")), asked, machine)


@shared_flags
def upsample(
    run: str, *, out: str = "", level: int = -1, seed: int = -1, route: str = "", lower: Literal["", "autoregressive", "masked"] = "",
    passes: tuple[int, ...] = (), model: str = "", words: SongFlags, machine: MachineOptions,
) -> None:  # fmt: skip
    """Write the finer levels of a run, or of a codes.npz of `codec encode`.

    run: run folder, or file of codes
    out: run folder for a copy with other finer levels (empty: the run itself is completed)
    level: for a copy, the level that is kept with those above it (-1: the finest finished one, or the top of a whole run)
    seed: for a copy, seed of the random numbers of the finer levels (-1: that of the run)
    route: which priors write them, by the name that the model gives it (empty: that of the run, or the model's default)
    lower: earlier name of two routes: masked, and autoregressive, which is jukebox
    passes: of masked decoding, passes of each level, coarsest first, as in 24,12 (empty: 24, and 12 of the finest)
    model: folder of a trained model, for a file of codes; for a run, its model if it was moved
    """
    from jukebox.model.info import ModelInfo
    from jukebox.runs import request

    params = SamplingParams(passes=passes) if passes else None
    options = SamplingOptions(seed=max(seed, 0), route=route, lower=lower)
    settings, kept, other = (
        request.RunSettings(options, params, machine),
        level if level >= 0 else None,
        seed if seed >= 0 else None,
    )
    if run.endswith(".npz"):
        if not (model and out):
            raise UserError(f"{run} is a file of codes; give --model, which is to write the finer levels, and --out")
        info = ModelInfo.read(model)
        return _make(out, request.upsampled_codes(info, read_song(info, words), run, settings, kept), machine)
    if words != SongFlags():
        raise UserError(f"{run} is a run, and has its song; --artist, --genre and --lyrics are for a codes.npz")
    opened = _open(run, model)
    if out:
        return _make(out, request.upsampled(opened, settings, kept, other), machine)
    if (kept, other) != (None, None) or machine != MachineOptions(device=machine.device):
        raise UserError(
            "--level, --seed and all about the machine but --device need a copy: name it with --out; a run goes on as it began"
        )
    opened.update(model=opened.request["model"], **request.extended(opened, settings))
    _go(opened, "" if machine.device == "auto" else machine.device)


def resume(run: str, *, device: str = "", model: str = "") -> None:
    """Finish an interrupted run with the same codes as without the interruption.

    run: run folder made by `sample`, `continue`, `branch`, `upsample` or `replay`, or x.run of an edit
    device: cpu or cuda (empty: that of the run; another device gives other codes)
    model: folder of the run's model, if it was moved
    """
    _go(_open(run, model), device)


def replay(run: str, *, out: str = "", model: str = "") -> None:
    """Sample the codes of a run.json again, and compare them with the original ones.

    run: run.json, or the folder of a run
    out: run folder to write (empty: beside the run, _replay appended to its name)
    model: folder of the run's model, if it was moved
    """
    from jukebox.model.folder import ModelFolder
    from jukebox.sampling.walk import replay as again

    target = out or _unused(beside(run if Path(run).is_dir() else Path(run).parent, "replay"))
    _print_summary(again(run, target, ModelFolder.from_pretrained(model) if model else None))


# ---- from the user's arguments to a run


def beside(path: str | Path, verb: str) -> Path:
    """Return the default output path for a file or folder: beside it, with the verb appended to its name."""
    path = Path(path).resolve()
    return path.with_name(f"{path.name if path.is_dir() else path.stem}_{verb}")


def _unused(path: str | Path) -> str:
    """Append the first free number to a path if the path exists, print the result and return it.

    The user needs the printed path to resume the run. UserError if several processes share the run.
    """
    if rank_and_ranks()[1] > 1:
        raise UserError(
            f"{variables()} show that several processes share this run, so that its folder needs a name: give --out, or "
            "unset both"
        )
    path, number = Path(path), 1
    while (found := path if number == 1 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    shown = os.path.relpath(found) if found.is_relative_to(Path.cwd()) else str(found)
    print(f"into the run folder {shown}")
    return shown


def _open(run: str, model: str) -> Run:
    """Open a run. `model` is the new path of its model, if it was moved; UserError for another model."""
    from jukebox.model.info import ModelInfo, check_weights
    from jukebox.runs.run import Run

    opened = Run.open(run)
    if model:
        info = ModelInfo.read(model)
        check_weights(opened.request, info)
        opened.request = opened.request | {"model": str(info.folder)}
    return opened


def _make(out: str, asked: dict[str, Any], machine: MachineOptions) -> None:
    """Fit a request to the allowed memory, write it, and sample the run."""
    from jukebox.model.presets import read_info
    from jukebox.planning.sampling import check_memory, fitted
    from jukebox.runs.batches import first_batches
    from jukebox.runs.run import Run

    ranks = rank_and_ranks()[1]
    info = read_info(asked["model"])
    asked = asked | {"batches": first_batches(len(asked["samples"]), machine.batch, ranks)}
    asked |= fitted(info, asked, machine.max_memory, ranks)
    check_memory(info, asked)
    _go(Run.create(out, asked, join=ranks > 1))


def _go(run: Run, device: str = "") -> None:
    """Complete a run and print the results."""
    rank, ranks = rank_and_ranks()
    from jukebox.editing.result import check, finish
    from jukebox.model.folder import ModelFolder
    from jukebox.sampling import walk
    from launch.verbs.plan import preflight

    model = ModelFolder.from_pretrained(run.request["model"])
    if ranks > 1:
        print(f"rank {rank} of {ranks} ({variables()}) samples its share of the {run.n_samples} samples")
    if rank == 0:
        report_left_out(model, [entry["lyrics"] or "" for entry in run.request["samples"]])
        check(run, model.info) if run.request.get("inpaints") else preflight(run, device)
    walk.resume(run, model, device, rank, ranks)
    if run.request.get("inpaints"):
        print("\n".join(map(str, finish(run, model))))
        print_findings(run)
    elif rank == 0:
        _print_summary(run)
    else:
        print_findings(run, [i for batch in run.request["batches"][rank::ranks] for i in batch])


def read_song(info: ModelInfo, words: SongFlags) -> Song:
    """Return the song that the flags describe. Print unknown names and flags without effect."""
    from jukebox.song import Song, unknown_names, without_effect

    text, times = read_lyrics(words.lyrics) if words.lyrics else (None, [])
    if words.lyrics and not text:
        print(f"{words.lyrics}: there is no word in it that is sung; the song is sampled without lyrics", file=sys.stderr)
    song = Song(words.artist or None, (), text or None, tuple(times), genre=words.genre)
    for line in unknown_names(song, info.labels):
        print(line)
    for line in without_effect(song, info):
        print(line, file=sys.stderr)
    return song


def read_lyrics(path: str) -> tuple[str, list]:
    """Return the text and the known times of a file of lyrics, like `prepare`. Text that is not sung is counted and printed."""
    from data_prep.metadata import lyrics

    if not Path(path).is_file():
        raise UserError(f"--lyrics {path!r} cannot be read: there is no such file; expected a text, or an .lrc file with times")
    found = lyrics.read_lyrics(Path(path))
    if found.left_out:
        print(f"{path}: {lyrics.describe(found.left_out)}")
    return found.text, list(found.times)


# ---- output


def report_left_out(model: ModelFolder, texts: Sequence[str]) -> None:
    """Print characters outside of the vocabulary. The request is written before, because a vocabulary needs torch."""
    from jukebox.song import left_out

    for line in left_out(model.vocabulary, texts):
        print(line)


def print_findings(run: Run, samples: Sequence[int] | None = None) -> None:
    """Print a warning on stderr for each finding in the audio."""
    from jukebox.sampling.output_checks import lines_of

    for line in lines_of(run.request, samples):
        print(f"{run.folder}: {line}", file=sys.stderr)


def _print_summary(run: Run) -> None:
    """Print the path of the music, the seconds of music per second, and warnings about the audio."""
    print_findings(run)
    for level in run.request["levels"]:
        lines = [line for line in run.progress if line["level"] == level and line["took"] > 0]
        took, music = sum(line["took"] for line in lines), sum(line["music_seconds"] for line in lines)
        if took:
            print(f"level {level}: {music:.1f} s of music in {took:.1f} s, {music / took:.2f} seconds of music a second")
    if run.request["parallel"]:
        _print_seams(run)
    for path in sorted((run.folder / "audio").glob("joined_*")):
        print(f"the recording and what continues it, at its own rate and channels: {path}")
    if not run.has_page:
        return print(f"codes are in {run.folder}")
    if run.n_samples > 1:
        print(f"{run.n_samples} takes; continue the one you like: jukebox branch {run.folder} --take N --seconds S")
    print(f"to play it, open {run.folder / 'index.html'} in a browser, or play {run.folder / 'audio'}")


def _print_seams(run: Run) -> None:
    """Print how well parallel windows join: the mean ratio of `metrics.seams` by level."""
    from jukebox.evaluation.figures import seam_figures
    from jukebox.model.folder import ModelFolder

    model = ModelFolder.from_pretrained(run.request["model"])
    for level in run.request["levels"][1:]:
        if figures := seam_figures(model, run, level):
            ratio = sum(figure.ratio for figure in figures) / len(figures)
            print(f"level {level}: spectral flux where windows join is {ratio:.2f} times that elsewhere")


for _verb in (sample, continue_):
    _verb.refine_usage = route_flags  # type: ignore[attr-defined]
