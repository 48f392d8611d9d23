"""Sources of songs and their metadata: a folder, a csv or a jsonl file; lyrics files beside the audio; tags.

Metadata comes from the row in the csv or jsonl file first, then from `song.lrc` or `song.txt` beside `song.mp3`, then from the
tags of the audio file.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.align import TimedText
from data_prep.audio.decoders import AUDIO_SUFFIXES
from data_prep.audio.folder import list_files, named
from data_prep.errors import UserError
from data_prep.metadata.encodings import printable
from data_prep.metadata.lyrics import ParsedLyrics, parse_lyrics, read_lyrics
from data_prep.metadata.tables import csv_rows, jsonl_rows
from data_prep.metadata.tags import Tags, first_artist, one_line, read_tags

_READERS = {".csv": csv_rows, ".tsv": csv_rows, ".jsonl": jsonl_rows}
LYRICS_SUFFIXES = (".lrc", ".LRC", ".txt", ".TXT")  # suffixes of lyrics files beside the audio; the first is used
UNREADABLE = "files of lyrics that cannot be read"


@dataclass(frozen=True)
class Found:
    """A song of a source: `path` below the root ("/" between folders), and the metadata that is known so far."""

    path: str
    artist: str | None = None
    genres: tuple[str, ...] = ()
    lyrics: str | None = None  # "" for a song that is known to be instrumental
    word_times: tuple[TimedText, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)  # unused parts of lyrics and names, with counts
    source: str | None = None
    licence: str | None = None
    split: str | None = None  # "train" or "test" if a table has the split


@dataclass(frozen=True)
class SongSource:
    """The songs of a folder or list, sorted by path; `ignored` counts other files and rows that repeat a path."""

    root: Path
    songs: tuple[Found, ...]
    ignored: int
    suffixes: Mapping[str, int] = field(default_factory=dict)  # number of ignored files by suffix

    @property
    def ignored_suffixes(self) -> str:
        """Format the number of ignored files of each suffix."""
        return named(self.suffixes)


def find_songs(source: str | Path, out: str | Path | None = None) -> SongSource:
    """Find the songs of a folder, a csv or a jsonl file; a folder is read with its sub-folders, without hidden files and `out`.

    Raises UserError if the source does not exist, has another type, is malformed, or lists no audio.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        return _find_in_folder(source, None if out is None else Path(out))
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or file; give a folder of music, a .csv, a .tsv or a .jsonl")
    if source.suffix.lower() not in _READERS:
        raise UserError(f"{source}: expected a folder, a .csv, a .tsv or a .jsonl; give the folder that holds the music")
    songs: dict[str, Found] = {}
    repeated = 0
    for where, row in _READERS[source.suffix.lower()](source):
        song = _from_row(f"{source}, {where}", row, source.parent)
        repeated += song.path in songs
        songs.setdefault(song.path, song)
    if not songs:
        raise UserError(f"{source}: it lists no songs; expected a row a song with path, artist, genres, lyrics")
    return SongSource(source.parent.resolve(), tuple(songs[path] for path in sorted(songs)), repeated)


def complete(song: Found, root: Path) -> Found:
    """Fill missing metadata from the lyrics file beside the audio, then from the tags of the audio."""
    path = root / song.path
    for suffix in LYRICS_SUFFIXES:
        if song.lyrics is None and (beside := path.with_suffix(suffix)).is_file():
            song = _with_file(song, beside)
    known = song.artist and song.genres and song.lyrics is not None and song.source and song.licence
    tags = Tags() if known else read_tags(path)
    used = {what: count for what, count in tags.left_out.items() if (song.lyrics if "lyrics" in what else song.artist) is None}
    if tags.lyrics and song.lyrics is None:
        song = _with_lyrics(song, tags.lyrics)
    song = _counted(song, used)
    song = replace(song, artist=song.artist or tags.artist, genres=song.genres or tags.genres, lyrics=song.lyrics or None)
    return replace(song, source=song.source or tags.source, licence=song.licence or tags.licence)


def _with_file(song: Found, path: Path) -> Found:
    """Set the lyrics of a song from a file; an unreadable file is counted."""
    try:
        return _with_lyrics(song, read_lyrics(path))
    except UserError:
        return _counted(song, {UNREADABLE: 1})


def _with_lyrics(song: Found, lyrics: ParsedLyrics) -> Found:
    """Set the lyrics of a song, and their times if the song has no times.

    Lyrics without words count as unknown, except if parts of them were left out: then the song is instrumental.
    """
    text = lyrics.text if lyrics.text or lyrics.left_out else None
    return replace(_counted(song, lyrics.left_out), lyrics=text, word_times=song.word_times or lyrics.times)


def _counted(song: Found, left_out: Mapping[str, int]) -> Found:
    """Add `left_out` to the counts of the parts that are not used."""
    return replace(song, left_out=dict(Counter(song.left_out) + Counter(left_out)))


def _find_in_folder(folder: Path, out: Path | None) -> SongSource:
    """Find the songs below a folder; UserError if there is no audio."""
    audio, others = list_files(folder, AUDIO_SUFFIXES, out)
    if not audio:
        kinds = " ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
        found = f"{sum(others.values())} other files{f': {named(others)}' if others else ''}"
        raise UserError(f"{folder}: there is no audio in this folder ({found}); expected {kinds}")
    songs = tuple(sorted((Found(path.relative_to(folder).as_posix()) for path in audio), key=lambda song: song.path))
    return SongSource(folder.resolve(), songs, sum(others.values()), others)


def _from_row(where: str, row: Mapping[str, Any], root: Path) -> Found:
    """Check a row and convert it to a song; the lyrics of a row may be the name of a .txt or .lrc file."""
    path, artist, lyrics, source = (row.get(name) for name in ("path", "artist", "lyrics", "source"))
    licence, split = row.get("licence") or row.get("license"), row.get("split") or None
    genres = row.get("genres") or row.get("genre") or []
    genres = [genres] if isinstance(genres, str) else genres
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"{where}: expected the path of an audio file, got {path!r}; fill in its path")
    for name, value in (("artist", artist), ("lyrics", lyrics), ("source", source), ("licence", licence)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: expected {name} to be text, got {value!r}")
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise UserError(f"{where}: expected genres to be a list of names, got {genres!r}")
    if split not in (None, "train", "test"):
        raise UserError(f"{where}: expected split to be train, test or empty, got {split!r}")
    genres = tuple(filter(None, (" ".join(printable(genre).split()) for genre in genres)))
    left_out: Counter[str] = Counter()
    song = Found(_found_path(path, root), first_artist([artist or ""], left_out), genres, left_out=dict(+left_out))
    lyrics, words = (lyrics or "").strip(), row.get("words")
    song = replace(song, word_times=_words(where, words) if words else ())
    song = replace(song, source=one_line(source or ""), licence=one_line(licence or ""), split=split)
    if not lyrics:
        return song
    if lyrics.lower().endswith((".txt", ".lrc")) and "\n" not in lyrics:
        return _with_file(song, root / _found_path(lyrics, root))
    return _with_lyrics(song, parse_lyrics(lyrics))


def _found_path(path: str, root: Path) -> str:
    """Return a path in normal form, with "/" between folders and relative to `root` if it is below `root`.

    A backslash is a separator, except if a file with this name exists.
    """
    path = path.strip().replace(os.sep, "/")
    if "\\" in path and not (root / path).exists():
        path = path.replace("\\", "/")
    path = posixpath.normpath(path)
    return path[len(below) :] if path.startswith(below := f"{root.resolve().as_posix()}/") else path


def _words(where: str, words: Any) -> tuple[TimedText, ...]:
    """Return the checked word times of a row, [[word, start, end], ...]; raise UserError if they are malformed."""
    with suppress(TypeError, ValueError):
        times = tuple(TimedText(printable(str(text)), float(start), float(end)) for text, start, end in words)
        if all(0 <= start <= end < float("inf") for _, start, end in times):
            return times
    raise UserError(f"{where}: expected words as [[word, start, end], ...] in seconds, got {str(words)[:60]}")
