"""`jukebox data`: content of a data folder, from its tables without the audio."""

from __future__ import annotations

import csv as csv_writer
import io
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.files import write_bytes
from data_prep.labels import UNKNOWN
from data_prep.manifest import SongRow, audio_path, load_manifest, load_refused

COLUMNS: tuple[str, ...] = (
    "path",
    "artist",
    "genres",
    "lyrics",
    "source",
    "licence",
    "split",
    "seconds",
    "sample_rate",
    "channels",
    "timed_words",
)


def data(data: str, *, list_: bool = False, csv: str = "") -> None:
    """Show songs, hours, rates, labels, lyrics, licences, splits and skipped files of a data folder.

    data: the data folder that `jukebox prepare` made
    list_: also one line per song, and one per skipped file
    csv: a table to write, one row per song; `jukebox prepare` takes it as a source
    """
    rows, refused = load_manifest(data), load_refused(data)
    if list_:
        print("\n".join([*map(song_line, rows), *map(unused_line, refused)]), end="\n\n")
    print(summary(rows, refused))
    if csv:
        write_bytes(Path(csv), table(data, rows, Path(csv)).encode())
        print(f"wrote {csv}")


def summary(rows: Sequence[SongRow], refused: Sequence[Mapping[str, Any]]) -> str:
    """Format songs, lengths, rates, labels, lyrics, licences, sources and skipped files, with one line per subject."""
    from jukebox.model.provenance import named, song_counts

    counts, lengths = song_counts(rows), [row.seconds for row in rows] or [0.0]
    splits = [(split, song_counts([row for row in rows if row.split == split])) for split in ("train", "test")]
    timed = [row for row in rows if row.word_times]
    without = [sum(not row.artist for row in rows), sum(not row.genres for row in rows)]
    lines = {
        "songs": f"{counts['songs']}, {counts['hours']:.3g} h: "
        + ", ".join(f"{split} {each['songs']} ({each['hours']:.3g} h)" for split, each in splits),
        "lengths": ", ".join(f"{name} {clock(of(lengths))}" for name, of in LENGTHS.items()),
        "sample rates": named(Counter(f"{row.sample_rate} Hz in" for row in rows)),
        "channels": named(Counter(f"{row.channels} in" for row in rows)),
        "artists": f"{len(counts['artists'])} ({named(counts['artists'])}); {without[0]} songs have none",
        "genres": f"{len(counts['genres'])} ({named(counts['genres'])}); {without[1]} songs have none",
        "lyrics": f"{sum(bool(row.lyrics) for row in rows)} songs, {len(timed)} of them with times",
        "licences": named(counts["licences"]),
        "sources": named(Counter(row.source or UNKNOWN for row in rows)),
        "refused": f"{len(refused)} files ({named(Counter(each['reason'] for each in refused))})" if refused else "none",
    }
    return "\n".join(f"{name:<13} {plain(line)}" for name, line in lines.items())


LENGTHS = {"shortest": min, "median": statistics.median, "longest": max}


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def plain(text: str) -> str:
    """Replace characters that cannot be printed, also line breaks, by question marks."""
    return "".join(char if char.isprintable() else "?" for char in text)


def song_line(row: SongRow) -> str:
    """Format the metadata of a song as one line, with `-` for missing values."""
    lyrics = "times" if row.word_times else "lyrics" if row.lyrics else "-"
    named = (row.artist or "-", ", ".join(row.genres) or "-", row.licence or "-", row.path)
    return plain(
        f"{clock(row.seconds):>6}  {row.split:<5}  {row.sample_rate} Hz {row.channels} ch  {lyrics:<6}  {'  '.join(named)}"
    )


def unused_line(refused: Mapping[str, Any]) -> str:
    """Format a skipped file and the reason as one line."""
    return plain(f"refused: {refused['path']}: {refused['reason']}: {refused['detail']}")


def table(data: str, rows: Sequence[SongRow], target: Path) -> str:
    """Return the songs as csv. Paths are relative to the folder of the table, as in a source of `jukebox prepare`."""
    text = io.StringIO()
    writer = csv_writer.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        path = Path(os.path.relpath(audio_path(data, row), target.parent.resolve())).as_posix()
        writer.writerow({**vars(row), "path": path, "genres": "; ".join(row.genres), "timed_words": len(row.word_times)})
    return text.getvalue()
