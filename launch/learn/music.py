"""The music of `jukebox learn` as a table for `jukebox prepare`.

Songs are chosen across artists, and some are held out. If there are only a few songs, they are cut into parts. A data folder of
`jukebox prepare` is used unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

from data_prep.align import TimedText
from data_prep.audio.audio import read
from data_prep.audio.blocks import declared_seconds
from data_prep.audio.decoders import AUDIO_SUFFIXES
from data_prep.audio.writers import write_audio
from data_prep.errors import UserError
from data_prep.files import write_bytes
from data_prep.manifest import MANIFEST, load_manifest
from data_prep.sources import Found, complete, find_songs
from launch.cli.progress import progress

MOST = 10.0  # hours of music per hour of learning
FEW = 6  # fewer songs than this are cut into parts, so that each has training and held-out parts
HELD_OUT = 0.1  # held-out share of the songs, or of the parts
PART = 0.2  # held-out share of a song that is cut
ROOM, SHORTEST = 1.02, 2.0  # minimum length of a held-out part in windows, and in seconds


class MusicPiece(NamedTuple):
    """A song or a part of a song: its file, metadata, length, and split (empty: not chosen yet)."""

    path: Path
    song: Found
    seconds: float
    split: str = ""


class Music(NamedTuple):
    """The chosen music: its pieces, and lines that explain the choice to the user."""

    pieces: list[MusicPiece]
    notes: list[str]


def is_data(sources: Sequence[str]) -> bool:
    """Return whether the only source is a data folder instead of music."""
    return len(sources) == 1 and (Path(sources[0]) / MANIFEST).is_file()


def gather(sources: Sequence[str], data: Path, most: float, held_out: int, window: float) -> Music:
    """Choose at most `most` seconds of songs from the sources; `held_out` songs (0: a share) are for testing.

    If there are only a few songs, the last part of each is held out, which is at least `window` seconds long. The parts are
    written into `data`.
    """
    if is_data(sources):
        rows = load_manifest(sources[0])
        found = [MusicPiece(Path(r.path), Found(r.path, r.artist), r.seconds, r.split) for r in rows]
        return Music(found, [f"{sources[0]} is a data folder; its songs are taken as they are"])
    found = find_pieces(sources, data)
    chosen, notes = subset(found, most), []
    if len(chosen) < len(found):
        notes.append(f"{len(chosen)} of {len(found)} songs are used, chosen across artists; for more songs, increase --hours")
    if len(chosen) < FEW:
        notes.append(f"fewer than {FEW} songs: each is cut, its first part is for training, the last one is held out")
        count = 2 if len(chosen) == 1 else 1
        return Music([part for piece in chosen for part in cut(piece, data / "parts", window, count)], notes)
    if all(piece.song.split for piece in chosen):
        notes.append("the table names the held-out songs")
        return Music([piece._replace(split=str(piece.song.split)) for piece in chosen], notes)
    count = held_out or max(2, round(HELD_OUT * len(chosen)))
    if not 2 <= count < len(chosen):
        raise UserError(f"--held_out {held_out}: expected 2 to {len(chosen) - 1}, of {len(chosen)} songs")
    held = {piece.path for piece in by_turns(chosen)[:count]}
    return Music([piece._replace(split="test" if piece.path in held else "train") for piece in chosen], notes)


def find_pieces(sources: Sequence[str], data: Path) -> list[MusicPiece]:
    """Find the songs of folders, tables and audio files, without duplicates; artists and genres are from the tags.

    A song without an artist tag gets the name of its sub-folder as artist. Raises UserError if there are no songs.
    """
    songs: dict[Path, tuple[Found, Path]] = {}
    folders = {Path(source).expanduser().resolve() for source in sources if Path(source).expanduser().is_dir()}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES:
            root, found = path.parent.resolve(), (Found(path.name),)
        else:
            root, found, *_ = (listed := find_songs(path, data)).root, listed.songs
        songs |= {Path(os.path.normpath(root / song.path)): (song, root) for song in found}
    pieces = []
    with progress(len(songs), "reading tags", unit="song") as bar:
        for path, (song, root) in sorted(songs.items()):
            seconds = declared_seconds(path) if path.is_file() else 0.0
            tagged = complete(song, root) if seconds else song
            if not tagged.artist and root in folders and "/" in song.path:  # most collections have a folder per artist
                tagged = replace(tagged, artist=path.parent.name)
            pieces.append(MusicPiece(path, tagged, seconds))
            bar.update()
    if not (readable := [piece for piece in pieces if piece.seconds >= 1]):
        raise UserError(
            f"{', '.join(sources)}: none of {len(pieces)} files is audio of a second or more; see `jukebox prepare`"
        )
    return readable


def by_turns(pieces: Sequence[MusicPiece]) -> list[MusicPiece]:
    """Order songs in rounds, with one song of each artist per round.

    Artists are sorted by their number of songs, and the songs of an artist by a hash.
    """
    artists: dict[str, list[MusicPiece]] = {}
    for piece in sorted(pieces, key=lambda piece: hashlib.sha256(piece.song.path.encode("utf-8", "replace")).hexdigest()):
        artists.setdefault(piece.song.artist or "", []).append(piece)
    order = sorted(artists.values(), key=len, reverse=True)
    return [piece for turn in zip_longest(*order) for piece in turn if piece]


def subset(pieces: Sequence[MusicPiece], most: float) -> list[MusicPiece]:
    """Return songs with a total of at most `most` seconds, alternating between artists, but at least FEW songs."""
    turns = by_turns(pieces)
    totals = accumulate(piece.seconds for piece in turns)
    chosen = [piece for i, (piece, total) in enumerate(zip(turns, totals)) if i < FEW or total <= most]
    return sorted(chosen, key=lambda piece: piece.path)


def cut(piece: MusicPiece, folder: Path, window: float, count: int) -> list[MusicPiece]:
    """Cut a song into a first part for training and `count` held-out parts at its end, and write them as flac.

    Each held-out part is at least a window long. Raises UserError if the song is too short.
    """
    audio, rate = read(piece.path)
    samples = audio.shape[1]
    size = max(int(max(window * ROOM, SHORTEST) * rate) + 1, int(samples * PART / count))
    if samples < 2 * count * size:
        least = 2 * count * size / rate
        raise UserError(f"{piece.path} lasts {samples / rate:.1f} s; expected at least {least:.0f} s: half of it is held out")
    edges = [0, *(samples - size * i for i in range(count, -1, -1))]
    parts = []
    for i, (first, end) in enumerate(pairwise(edges)):
        path = folder / f"{piece.path.stem}_{hashlib.sha256(str(piece.path).encode()).hexdigest()[:6]}_{i}.flac"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_audio(path, audio[:2, first:end], rate)
        a, b = first / rate, end / rate
        words = tuple(TimedText(t.text, t.start - a, t.end - a) for t in piece.song.word_times if t.start >= a and t.end <= b)
        song = Found(path.name, piece.song.artist, piece.song.genres, " ".join(t.text for t in words), words)
        parts.append(MusicPiece(path, song, b - a, "test" if i else "train"))
    return parts


def write_table(pieces: Sequence[MusicPiece], table: Path) -> None:
    """Write the pieces as a table for `jukebox prepare`; paths are relative to the folder of the table."""
    rows = []
    for piece in pieces:
        song, path = piece.song, Path(os.path.relpath(piece.path, table.parent.resolve())).as_posix()
        row = {"path": path, "artist": song.artist, "genres": list(song.genres), "lyrics": song.lyrics, "split": piece.split}
        row |= {"source": song.source, "licence": song.licence, "words": [list(word) for word in song.word_times]}
        rows.append(json.dumps({name: value for name, value in row.items() if value}))
    write_bytes(table, ("\n".join(rows) + "\n").encode())


def tracks(music: tuple[str, ...], *, out: str, hours: float = 1.0, held_out: int = 12, window: float = 20.0) -> None:
    """Write OUT/songs.jsonl: the training and held-out music for a model of so many hours.

    music: folders, audio files, or tables of music
    out: data folder
    hours: time of a model, in hours
    held_out: songs that are not trained on
    window: shortest part of a song that is cut, in seconds
    """
    found = gather(music, Path(out), 3600 * MOST * hours, held_out, window)
    print("\n".join(found.notes) or "all songs are used")
    write_table(found.pieces, Path(out) / "songs.jsonl")
