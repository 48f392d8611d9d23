"""The verbs that make music: sample, continue, branch, upsample, resume, replay. Each says where to hear it and how fast it was.

The request is on disk before torch is imported: whenever a command is stopped, there is nothing, or a run that `resume` finishes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from launch.cli.parse import read_fractions, read_levels, read_list, read_passes
from launch.cli.usage import shared_flags
from launch.cluster.ranks import rank_and_ranks

if TYPE_CHECKING:
    from jukebox.model.info import ModelInfo
    from jukebox.sampling.request import SamplingOptions
    from jukebox.sampling.run import Run
    from jukebox.song import Song


@dataclass(frozen=True)
class LabelFlags:
    """What the song is.

    artist: name of an artist the model knows; none is unknown
    genre: name of a genre, or several joined by commas
    """

    artist: str = ""
    genre: str = ""


@dataclass(frozen=True)
class SongFlags(LabelFlags):
    """What a song is to be.

    artist: name of an artist the model knows; none is unknown
    genre: name of a genre, or several joined by commas
    lyrics: text file, or .lrc file with times, of the whole song from its first second
    """

    lyrics: str = ""


@dataclass(frozen=True)
class SamplingFlags:
    """How its codes are drawn.

    takes: samples of each song, which differ in what chance decides
    seed: number that all chance follows from
    levels: levels to write, as in 2,1,0 (empty: all)
    total_seconds: length of the whole song that the model is told, in seconds (0: the finished length)
    temperature: how adventurous the top level is; 0 always takes the likeliest code
    temperature_lower: the same for the levels below
    top_k: draw from the k likeliest codes only (0: from all)
    top_p: draw from the likeliest codes that together have this probability (0: from all)
    guidance: how much harder than trained the conditions pull (1: as trained)
    hop_fractions: step from window to window as a share of the window, for levels 0,1,2
    lower: how the levels below the top are written: autoregressive (one code after another), or masked (many at once)
    passes: with --lower masked, in how many passes each is filled, coarsest first, as in 24,12 (empty: 24,12)
    """

    takes: int = 1
    seed: int = 0
    levels: str = ""
    total_seconds: float = 0.0
    temperature: float = 0.98
    temperature_lower: float = 0.9
    top_k: int = 0
    top_p: float = 0.0
    guidance: float = 1.0
    hop_fractions: str = "0.5,0.5,0.5"
    lower: Literal["autoregressive", "masked"] = "autoregressive"
    passes: str = ""


@dataclass(frozen=True)
class MachineFlags:
    """What it runs on.

    batch: samples decoded side by side, with --parallel samples times windows (0: all)
    parallel: below the top level, draw the windows of a song side by side, each after a warm-up that is dropped
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    dtype: float32, bfloat16, float16 or int8 (weights in int8, the rest in bfloat16); empty: float32, or what --max_memory chooses
    compile: steps of decoding compiled (CPU) or captured (GPU); auto: where it can be done and many codes are to be drawn
    max_memory: memory that each process stays below, such as 8GB: dtype and batch are chosen so (empty: no limit)
    """

    batch: int = 0
    parallel: bool = False
    threads: int = 0
    device: str = "auto"
    dtype: Literal["", "float32", "bfloat16", "float16", "int8"] = ""
    compile: Literal["auto", "on", "off"] = "auto"
    max_memory: str = ""


@shared_flags
def sample(
    model: str, *, out: str = "", seconds: float = 20.0, words: SongFlags, sampling: SamplingFlags, machine: MachineFlags
) -> None:
    """Write songs from nothing but what is asked for, into a run folder with wav files and a page.

    model: folder of a trained model
    out: run folder to make (empty: song, or song_2 and so on where that is there)
    seconds: finished length of the song, in seconds
    """
    from jukebox.model.info import ModelInfo
    from jukebox.sampling import request

    info = ModelInfo.read(model)
    asked = request.sampled(info, [read_song(info, words)], seconds, _sampling_options(info, sampling, machine))
    _make(out or _unused("song"), asked, machine)


@shared_flags
def continue_(
    model: str, song: str, *, out: str = "", prompt_seconds: float = 12.0, seconds: float = 30.0, words: SongFlags, sampling: SamplingFlags,
    machine: MachineFlags,
) -> None:  # fmt: skip
    """Carry on recordings: their first seconds are kept, the rest is new.

    model: folder of a trained model
    song: the recording, in any format that `prepare` reads; or a codes.npz of `codec encode`, or a run folder; several
        joined by commas
    out: run folder to make (empty: beside the recording, with _continued behind its name)
    prompt_seconds: how much of it is kept, in seconds (0: all)
    seconds: finished length, the kept part included, in seconds
    """
    from jukebox.model.info import ModelInfo
    from jukebox.sampling import request

    info, prompts = ModelInfo.read(model), [song] if Path(song).exists() else song.split(",")
    asked = [read_song(info, words)]
    wish = request.continued(info, asked, prompts, prompt_seconds, seconds, _sampling_options(info, sampling, machine))
    _make(out or _unused(beside(prompts[0], "continued")), wish, machine)


@shared_flags
def branch(
    run: str, *, out: str = "", keep_seconds: float = 0.0, take: int = 0, takes: int = 1, seed: int = -1, lyrics: str = "",
    seconds: float = 0.0, total_seconds: float = 0.0, machine: MachineFlags,
) -> None:  # fmt: skip
    """Keep the first seconds of a run and go on otherwise: with another seed, other lyrics, or from the take that is best.

    run: run folder to begin with; it is not changed
    out: run folder to make (empty: beside it, with _branch behind its name)
    keep_seconds: how much of it is kept, in seconds (0: all there is)
    take: number of the sample to go on from, counted from 1 as on the page (0: from each)
    takes: samples of each, which differ in what chance decides
    seed: number that all chance follows from (-1: the next after that of the run)
    lyrics: text file, or .lrc file with times, of the whole song from its first second (empty: the lyrics of the run)
    seconds: finished length, the kept part included, in seconds (0: that of the run)
    total_seconds: length of the whole song that the model is told, in seconds (0: as the run was told, or the finished length)
    """
    from jukebox.model.info import ModelInfo
    from jukebox.sampling import request
    from jukebox.sampling.run import Run

    options = request.SamplingOptions(takes=takes, total_seconds=total_seconds, **_machine(machine))
    words = read_song(ModelInfo.read(Run.open(run).request["model"]), SongFlags(lyrics=lyrics)) if lyrics else None
    asked = request.branched(
        Run.open(run), options, keep_seconds=keep_seconds, take=take, seconds=seconds, lyrics=words, seed=None if seed < 0 else seed,
    )  # fmt: skip
    _make(out or _unused(beside(run, "branch")), asked, machine)


@shared_flags
def upsample(
    run: str, *, out: str = "", level: int = -1, seed: int = -1, lower: Literal["", "autoregressive", "masked"] = "", passes: str = "",
    model: str = "", words: SongFlags, machine: MachineFlags,
) -> None:  # fmt: skip
    """Write the finer levels of a run, or of a codes.npz of `codec encode`.

    run: run folder, or file of codes
    out: run folder for a copy with other finer levels (empty: the run itself is completed)
    level: of a copy, the level that is kept with those above it (-1: the finest finished one, or the top of a whole run)
    seed: of a copy, number that all chance of the finer levels follows from (-1: that of the run)
    lower: how they are written: autoregressive (one code after another), or masked (many at once); empty: as the run says
    passes: with --lower masked, in how many passes each is filled, coarsest first, as in 24,12 (empty: 24,12)
    model: folder of a trained model, for a file of codes (a run knows its own)
    """
    from jukebox.model.info import ModelInfo
    from jukebox.sampling import request
    from jukebox.sampling.run import Run

    options = request.SamplingOptions(seed=max(seed, 0), lower=lower, passes=read_passes(passes), **_machine(machine))
    kept, other = level if level >= 0 else None, seed if seed >= 0 else None
    if run.endswith(".npz"):
        if not (model and out):
            raise UserError(f"{run} is a file of codes; give --model, which is to write the finer levels, and --out")
        info = ModelInfo.read(model)
        return _make(out, request.upsampled_codes(info, read_song(info, words), run, options, kept), machine)
    if words != SongFlags() or model:
        raise UserError(
            f"{run} is a run, and knows its model and song; --model, --artist, --genre and --lyrics are for a codes.npz"
        )
    if out:
        return _make(out, request.upsampled(Run.open(run), options, kept, other), machine)
    if (kept, other) != (None, None) or machine != MachineFlags(device=machine.device):
        raise UserError(
            "--level, --seed and all about the machine but --device need a copy: name it with --out; a run goes on as it began"
        )
    opened = Run.open(run)
    opened.update(**request.extended(opened, lower, read_passes(passes)))
    _go(opened, "" if machine.device == "auto" else machine.device)


def resume(run: str, *, device: str = "") -> None:
    """Finish a run that was interrupted, to the codes it would have had.

    run: run folder made by `sample`, `continue`, `branch`, `upsample` or `replay`
    device: cpu or cuda (empty: as it began; another one gives other codes)
    """
    from jukebox.sampling.run import Run

    _go(Run.open(run), device)


def replay(run: str, *, out: str = "") -> None:
    """Draw the codes of a run.json again, and compare them with those beside it.

    run: run.json, or the folder of a run
    out: run folder to make (empty: beside the run, with _replay behind its name)
    """
    from jukebox.sampling.walk import replay as again

    _print_summary(again(run, out or _unused(beside(run if Path(run).is_dir() else Path(run).parent, "replay"))))


# ---- from what a person types to a run


def beside(path: str | Path, verb: str) -> Path:
    """Where a verb puts what it makes of a file or folder: next to it, the verb behind its name."""
    path = Path(path).resolve()
    return path.with_name(f"{path.name if path.is_dir() else path.stem}_{verb}")


def _unused(path: str | Path) -> str:
    """The path, or with the first number behind it under which nothing is there; it is told, for whoever has to resume."""
    if rank_and_ranks()[1] > 1:
        raise UserError("several processes share a run, so that its folder needs a name: give --out")
    path, number = Path(path), 1
    while (found := path if number == 1 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    shown = os.path.relpath(found) if found.is_relative_to(Path.cwd()) else str(found)
    print(f"into the run folder {shown}")
    return shown


def _make(out: str, asked: dict[str, Any], machine: MachineFlags) -> None:
    """Put the request on disk, made to fit into the memory that it may take, and only then import what draws."""
    from jukebox.sampling.run import Run
    from launch.verbs.plan import fitted

    ranks = rank_and_ranks()[1]
    _go(Run.create(out, asked | fitted(asked, machine.max_memory, ranks), join=ranks > 1))


def _go(run: Run, device: str = "") -> None:
    rank, ranks = rank_and_ranks()
    from jukebox.sampling import walk as sampling
    from launch.verbs.plan import preflight

    if rank == 0:
        report_left_out(run.request["model"], [entry["lyrics"] or "" for entry in run.request["samples"]])
        preflight(run, device)
    sampling.resume(run, device, rank, ranks)
    if rank == 0:
        _print_summary(run)


def _sampling_options(info: ModelInfo, sampling: SamplingFlags, machine: MachineFlags) -> SamplingOptions:
    from jukebox.sampling.request import SamplingOptions

    return SamplingOptions(
        seed=sampling.seed, params=_params_by_level(len(info.hops), sampling), total_seconds=sampling.total_seconds,
        levels=read_levels(sampling.levels), hop_fractions=read_fractions(sampling.hop_fractions), takes=sampling.takes,
        lower=sampling.lower, passes=read_passes(sampling.passes), **_machine(machine),
    )  # fmt: skip


def _machine(machine: MachineFlags) -> dict[str, Any]:
    chosen = {name: value for name, value in vars(machine).items() if name != "max_memory"}
    return chosen | {"ranks": rank_and_ranks()[1]}


def _params_by_level(levels: int, sampling: SamplingFlags) -> dict[int, dict[str, Any]]:
    if min(sampling.temperature, sampling.temperature_lower, sampling.top_k) < 0 or not 0 <= sampling.top_p <= 1:
        raise UserError(
            "temperatures and --top_k must not be negative, --top_p lies in [0, 1]; change the one that does not fit"
        )
    lower = {"temperature": sampling.temperature_lower, "top_k": sampling.top_k, "top_p": sampling.top_p, "guidance": 1.0}
    top = lower | {"temperature": sampling.temperature, "guidance": sampling.guidance}
    return dict.fromkeys(range(levels - 1), lower) | {levels - 1: top}


def read_song(info: ModelInfo, words: SongFlags) -> Song:
    from jukebox.song import Song

    labels, genres = info.labels, tuple(read_list(words.genre))
    named = [("artist", words.artist, labels.artists), *(("genre", genre, labels.genres) for genre in genres)]
    for what, name, known in named:
        if name and (labels.artist_id(name) if what == "artist" else labels.genre_ids([name])[0]) == 0:
            print(f"the model knows no {what} {name!r} and takes it as unknown; it knows {', '.join(known[1:9]) or 'none'}")
    text, times = read_lyrics(words.lyrics) if words.lyrics else (None, [])
    return Song(words.artist or None, genres, text, tuple(times))


def read_lyrics(path: str) -> tuple[str, list]:
    """Text and known times of a lyrics file (.lrc: with times)."""
    from data_prep.align import parse_lrc

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--lyrics {path!r} cannot be read ({error}); expected a text file in UTF-8, or an .lrc file"
        ) from error
    return parse_lrc(text) if Path(path).suffix.lower() == ".lrc" else (text, [])


# ---- what is told


def report_left_out(model: str | Path, texts: Sequence[str]) -> None:
    """The letters that the model does not have; its vocabulary needs torch, so this comes after the request."""
    from jukebox.model.folder import ModelFolder

    for text in dict.fromkeys(text for text in texts if text):
        if dropped := ModelFolder.from_pretrained(model).vocabulary.encode(text).dropped:
            listed = ", ".join(f"{character!r} x{count}" for character, count in dropped.most_common(8))
            print(f"left out of the lyrics, because the model has no letter for it: {listed}")


def _print_summary(run: Run) -> None:
    """Where the music lies, and seconds of music per second."""
    for level in run.request["levels"]:
        lines = [line for line in run.progress if line["level"] == level and line["took"] > 0]
        took, music = sum(line["took"] for line in lines), sum(line["music_seconds"] for line in lines)
        if took:
            print(f"level {level}: {music:.1f} s of music in {took:.1f} s, {music / took:.2f} seconds of music a second")
    if run.request["parallel"]:
        _print_seams(run)
    if run.n_samples > 1:
        print(f"{run.n_samples} takes; go on from the one you like: jukebox branch {run.folder} --take N --seconds S")
    print(f"to hear it open {run.folder / 'index.html'}, or play {run.folder / 'audio'}")


def _print_seams(run: Run) -> None:
    """How well windows that were drawn side by side join."""
    from jukebox.evaluation.seams import seam_figures
    from jukebox.model.folder import ModelFolder

    model = ModelFolder.from_pretrained(run.request["model"])
    for level in run.request["levels"][1:]:
        if figures := seam_figures(model, run, level):
            ratio = sum(figure.ratio for figure in figures) / len(figures)
            print(f"level {level}: spectral flux where windows join is {ratio:.2f} times that elsewhere")
