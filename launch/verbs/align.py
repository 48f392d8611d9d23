"""`jukebox align`: times of the words of a song, as .lrc, .srt, .vtt, Audacity labels and json."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import UserError
from data_prep.files import write_json
from jukebox.device import choose_device
from launch.cli.parse import read_list
from launch.verbs.sample import read_lyrics

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from jukebox.song import Song


def align(
    model: str, song: str, *, lyrics: str = "", artist: str = "", genre: str = "", out: str = "", songs: int = 8,
    threads: int = 0, device: str = "auto",
) -> None:  # fmt: skip
    """Align lyrics with a song: .lrc, .srt, .vtt, Audacity labels, and json with start, end and confidence.

    model: folder of a model with a prior that is conditioned on lyrics
    song: the recording; or a run folder, whose page then highlights the words; or a data folder, on whose songs with word times
        the best method is measured, to be stored in the model folder
    lyrics: the words of the recording, a text file
    artist: name of the recording's artist, if the model has it
    genre: name of its genre, or several joined by commas
    out: .lrc file to write, with .json, .srt, .vtt and .labels.txt beside it (empty: beside the recording)
    songs: songs of a data folder to measure on, the held-out ones first
    threads: CPU threads (0: one for a small model, all for a large one)
    device: cpu, cuda, or auto: a GPU if there is one
    """
    import torch

    from jukebox.model.folder import ModelFolder

    opened = ModelFolder.from_pretrained(model)
    torch.set_num_threads(opened.info.threads(threads))
    chosen = choose_device(device)
    path = Path(song)
    if (path / "manifest.parquet").is_file():
        measure(opened, path, songs, chosen)
    elif (path / "run.json").is_file():
        follow(opened, path, chosen)
    elif path.is_dir():
        raise UserError(
            f"{path} is a folder, but neither a run (run.json) nor a data folder (manifest.parquet); name a recording"
        )
    else:
        from jukebox.song import Song

        write(opened, path, lyrics, Song(artist or None, tuple(read_list(genre))), out, chosen)


def measure(model: ModelFolder, data: Path, songs: int, device: str) -> None:
    """Measure all methods of alignment on a data folder, store the best one in the model, and print a table."""
    from jukebox.alignment.align import find_way
    from jukebox.evaluation.metrics import table

    if songs < 1:
        raise UserError(f"--songs {songs}: expected at least 1 song to measure on")
    ways = find_way(model, data, songs=songs, device=device)
    rows = [[name(way), way["error_seconds"], way["median_seconds"]] for way in ways]
    print(table([["way", "mean error, s", "median, s"], *rows]))
    print(f"word starts of {ways[0]['songs']} songs; {name(ways[0])} is kept in {model.folder / 'config.json'}")


def follow(model: ModelFolder, folder: Path, device: str) -> None:
    """Align all takes of a run, and update its page."""
    from jukebox.alignment.align import align_run
    from jukebox.runs.run import Run

    for number, found in enumerate(align_run(model, Run.open(folder), device=device), start=1):
        print(f"take {number}: {len(found.words)} words found, {len(found.left_out)} left out")
        if found.doubt:
            print(f"take {number}: {found.doubt}", file=sys.stderr)
    print(f"written to {folder / 'alignment.json'}; {folder / 'index.html'} follows the singing")


def write(model: ModelFolder, song: Path, lyrics: str, labels: Song, out: str, device: str) -> None:
    """Align a recording, and write .lrc, .json, subtitles and labels of Audacity."""
    from jukebox.alignment.align import align_file
    from jukebox.report.lyric_files import write_lyric_files

    if not lyrics:
        raise UserError(f"--lyrics is missing: a text file with the words that are sung in {song}")
    found = align_file(model, song, replace(labels, lyrics=read_lyrics(lyrics)[0]), device=device)
    target = Path(out) if out else song.with_suffix(".lrc")
    target.write_text(found.to_lrc(), encoding="utf-8")
    write_json(target.with_suffix(".json"), found.to_json())
    others = write_lyric_files(target.with_suffix(""), found.lines(), (".srt", ".vtt", ".labels.txt"))
    print(f"{len(found.words)} words in time, by {name(found.way)}: {target} and {target.with_suffix('.json')}")
    print(f"for video programs and Audacity: {', '.join(map(str, others)) or 'nothing, because no words were found'}")
    if found.doubt:
        print(f"{song}: {found.doubt}", file=sys.stderr)
    if found.left_out:
        print(f"{len(found.left_out)} words were not found and are left out: {' '.join(found.left_out[:12])}")


def name(way: dict) -> str:
    """Describe a method of alignment."""
    return way["way"] if way["way"] == "likelihood" else f"attention of layer {way['layer']}, head {way['head']}"
