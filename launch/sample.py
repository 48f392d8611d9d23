"""The verbs that make music: sample, continue, upsample, resume. Each prints where to hear it and how fast it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from data_prep.labels import Labels
    from jukebox.model import Jukebox
    from jukebox.run import Run
    from jukebox.song import Song
    from priors.prior import How


def sample(
    model: str, *, out: str, artist: str = "", genre: str = "", lyrics: str = "", seconds: float = 20.0, total_seconds: float = 0.0,
    n_samples: int = 1, seed: int = 0, levels: str = "", temperature: float = 0.98, temperature_lower: float = 0.9, top_k: int = 0,
    top_p: float = 0.0, guidance: float = 1.0, hop_fractions: str = "0.5,0.5,0.5", threads: int = 0, device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32", compile: Literal["auto", "on", "off"] = "auto",
) -> None:  # fmt: skip
    """Write songs from nothing but what is asked for, into a run folder with wav files and a page.

    model: folder of a trained model
    out: run folder to make
    artist: name of an artist the model knows; none is unknown
    genre: name of a genre, or several joined by commas
    lyrics: text file, or .lrc file with times
    seconds: finished length of the song, in seconds
    total_seconds: length of the whole song that the model is told, in seconds (0: the same as seconds)
    n_samples: songs to make side by side from the same request
    seed: number that all chance follows from
    levels: levels to write, as in 2,1,0 (empty: all)
    temperature: how adventurous the top level is; 0 always takes the likeliest code
    temperature_lower: the same for the levels below
    top_k: draw from the k likeliest codes only (0: from all)
    top_p: draw from the likeliest codes that together have this probability (0: from all)
    guidance: how much harder than trained the conditions pull (1: as trained)
    hop_fractions: step from window to window as a share of the window, for levels 0,1,2
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    dtype: numbers of the priors; int8: their weights, the rest in bfloat16
    compile: steps of decoding compiled (CPU) or captured (GPU); auto: where it can be done and many codes are to be drawn
    """
    from jukebox import sample as sampling

    opened = _open(model, threads)
    song = _song(opened.labels, opened.vocabulary, artist, genre, lyrics)
    _positive(seconds=seconds, n_samples=n_samples)
    how = _how(len(opened.hops), temperature, temperature_lower, top_k, top_p, guidance)
    run = sampling.sample(
        opened, [song] * n_samples, seconds, out, seed=seed, how=how,
        total_seconds=total_seconds, levels=_levels(levels), hop_fractions=_fractions(hop_fractions), device=device,
        dtype=dtype, compile=compile,
    )  # fmt: skip
    _tell(run)


def continue_(
    model: str, song: str, *, out: str, prompt_seconds: float = 12.0, seconds: float = 30.0, artist: str = "", genre: str = "",
    lyrics: str = "", total_seconds: float = 0.0, n_samples: int = 1, seed: int = 0, levels: str = "", temperature: float = 0.98,
    temperature_lower: float = 0.9, top_k: int = 0, top_p: float = 0.0, guidance: float = 1.0, hop_fractions: str = "0.5,0.5,0.5",
    threads: int = 0, device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32", compile: Literal["auto", "on", "off"] = "auto",
) -> None:  # fmt: skip
    """Carry on a recording: its first seconds are kept, the rest is new.

    model: folder of a trained model
    song: the recording, in any format that `prepare` reads
    out: run folder to make
    prompt_seconds: how much of the recording is kept, in seconds
    seconds: finished length, the kept part included, in seconds
    artist: name of an artist the model knows; none is unknown
    genre: name of a genre, or several joined by commas
    lyrics: text file, or .lrc file with times, of the whole song from its first second
    total_seconds: length of the whole song that the model is told, in seconds (0: the same as seconds)
    n_samples: continuations to make side by side
    seed: number that all chance follows from
    levels: levels to write, as in 2,1,0 (empty: all)
    temperature: how adventurous the top level is; 0 always takes the likeliest code
    temperature_lower: the same for the levels below
    top_k: draw from the k likeliest codes only (0: from all)
    top_p: draw from the likeliest codes that together have this probability (0: from all)
    guidance: how much harder than trained the conditions pull (1: as trained)
    hop_fractions: step from window to window as a share of the window, for levels 0,1,2
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    dtype: numbers of the priors; int8: their weights, the rest in bfloat16
    compile: steps of decoding compiled (CPU) or captured (GPU); auto: where it can be done and many codes are to be drawn
    """
    from jukebox import sample as sampling

    opened = _open(model, threads)
    asked = _song(opened.labels, opened.vocabulary, artist, genre, lyrics)
    _positive(seconds=seconds, n_samples=n_samples)
    how = _how(len(opened.hops), temperature, temperature_lower, top_k, top_p, guidance)
    run = sampling.continue_(
        opened, [asked] * n_samples, [song], prompt_seconds, seconds, out, seed=seed,
        how=how, total_seconds=total_seconds, levels=_levels(levels),
        hop_fractions=_fractions(hop_fractions), device=device,
        dtype=dtype, compile=compile,
    )  # fmt: skip
    _tell(run)


def upsample(run: str, *, out: str = "", seed: int = -1, threads: int = 0, device: str = "auto") -> None:
    """Write the finer levels of a run that has its top level.

    run: run folder made by `sample` or `continue`
    out: run folder for a copy with other lower levels (empty: the run itself is completed)
    seed: number that all chance of the lower levels follows from (-1: that of the run)
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    """
    from jukebox import sample as sampling
    from jukebox.run import Run

    opened = Run.open(run)
    model = _open(opened.request["model"], threads)
    _tell(sampling.upsample(opened, out or None, seed=None if seed < 0 else seed, model=model, device=device))


def resume(run: str, *, device: str = "auto") -> None:
    """Finish a run that was interrupted, to the codes it would have had.

    run: run folder made by `sample`, `continue` or `upsample`
    device: cpu, cuda, or auto: a GPU if there is one
    """
    from jukebox import sample as sampling
    from jukebox.run import Run

    _tell(sampling.resume(Run.open(run), device=device))


# ---- what a person types, read


def _open(model: str, threads: int) -> Jukebox:
    from jukebox.model import Jukebox

    opened = Jukebox.from_pretrained(model)
    _threads(threads, opened)
    return opened


def _threads(threads: int, model: Jukebox) -> None:
    """CPU threads as asked; by itself, one for small models: their steps are too short to be shared."""
    import torch

    widest = max((prior.trunk.width for prior in model.prior_configs.values()), default=0)
    if threads or widest < 512:
        torch.set_num_threads(threads or 1)


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if value <= 0:
            raise UserError(f"--{name} got {value:g}, expected a number above 0")


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--levels got {text!r}, expected levels joined by commas, as in 2,1,0") from None


def _fractions(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value <= 1 for value in values):
        raise UserError(
            f"--hop_fractions got {text!r}, expected a share of the window in (0, 1] for every level, as in 0.5,0.5,0.125"
        )
    return values


def _how(
    levels: int, temperature: float, temperature_lower: float, top_k: int, top_p: float, guidance: float
) -> dict[int, How]:
    from priors.prior import How

    if temperature < 0 or temperature_lower < 0 or top_k < 0 or not 0 <= top_p <= 1:
        raise UserError(
            "temperatures and --top_k must not be negative, --top_p lies in [0, 1]; change the one that does not fit"
        )
    lower = How(temperature_lower, top_k, top_p)
    return dict.fromkeys(range(levels - 1), lower) | {levels - 1: How(temperature, top_k, top_p, guidance)}


def _song(labels: Labels, vocabulary, artist: str, genre: str, lyrics: str) -> Song:
    from jukebox.song import Song

    genres = tuple(part.strip() for part in genre.split(",") if part.strip())
    for what, name, known in [("artist", artist, labels.artists), *(("genre", g, labels.genres) for g in genres)]:
        if name and (labels.artist_id(name) if what == "artist" else labels.genre_ids([name])[0]) == 0:
            print(
                f"the model knows no {what} {name!r} and takes it as unknown; it knows {', '.join(known[1:9]) or 'none'}"
            )
    text, times = read_lyrics(lyrics) if lyrics else (None, [])
    if text:
        dropped = vocabulary.encode(text).dropped
        if dropped:
            listed = ", ".join(f"{character!r} x{count}" for character, count in dropped.most_common(8))
            print(f"left out of the lyrics, because the model has no letter for it: {listed}")
    return Song(artist or None, genres, text, tuple(times))


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


def _tell(run: Run) -> None:
    """Where the music lies, and seconds of music per second."""
    for level in run.request["levels"]:
        lines = [line for line in run.progress if line["level"] == level and line["took"] > 0]
        took, music = sum(line["took"] for line in lines), sum(line["music_seconds"] for line in lines)
        if took:
            print(
                f"level {level}: {music:.1f} s of music in {took:.1f} s, {music / took:.2f} seconds of music a second"
            )
    print(f"to hear it open {run.folder / 'index.html'}, or play {run.folder / 'audio'}")
