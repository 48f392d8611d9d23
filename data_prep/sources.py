"""Where songs come from and what is said about them: a folder, a csv or a jsonl file; tags; lyrics beside the audio.

What is known of a song is looked for in this order: its row in the csv or jsonl file, `song.lrc` or `song.txt` beside
`song.mp3`, the tags in the file itself.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.align import TimedText, parse_lrc
from data_prep.audio.decoders import AUDIO_SUFFIXES
from data_prep.audio.folder import list_files, named
from data_prep.errors import UserError

_STAMPED = re.compile(r"^\s*\[\d+:\d\d", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """A song as it was found: `path` below the root ("/" between folders), and what is known of it so far."""

    path: str
    artist: str | None = None
    genres: tuple[str, ...] = ()
    lyrics: str | None = None
    word_times: tuple[TimedText, ...] = ()


@dataclass(frozen=True)
class SongSource:
    """The songs of a folder or list, sorted by path; `ignored` counts other files, or rows that came twice."""

    root: Path
    songs: tuple[Found, ...]
    ignored: int
    ignored_suffixes: str = ""  # in words, the number of files of each


def find_songs(source: str | Path, out: str | Path | None = None) -> SongSource:
    """List the songs of a folder (with its sub-folders; hidden files and `out` left aside), a csv or a jsonl file.

    Raises UserError where the source does not exist, is something else, is malformed, or names no audio at all.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        return _find_in_folder(source, None if out is None else Path(out))
    if not source.exists():
        raise UserError(f"{source}: there is no such folder or file; give a folder of music, a .csv or a .jsonl")
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if source.suffix.lower() not in readers:
        raise UserError(f"{source}: expected a folder, a .csv or a .jsonl; give the folder that holds the music")
    songs: dict[str, Found] = {}
    repeated = 0
    for where, row in readers[source.suffix.lower()](source):
        song = _from_row(f"{source}, {where}", row, source.parent)
        repeated += song.path in songs
        songs.setdefault(song.path, song)
    if not songs:
        raise UserError(f"{source}: it lists no songs; expected a row a song with path, artist, genres, lyrics")
    return SongSource(source.parent.resolve(), tuple(songs[path] for path in sorted(songs)), repeated)


def complete(song: Found, root: Path) -> Found:
    """Fill what is not known yet from the lyrics file beside the audio, then from the tags in the audio."""
    path = root / song.path
    if not song.lyrics:
        for suffix in (".lrc", ".LRC", ".txt", ".TXT"):
            if path.with_suffix(suffix).is_file():
                song = _with_lyrics(song, read_text(path.with_suffix(suffix)), suffix.lower() == ".lrc")
                break
    tags = read_tags(path) if not (song.artist and song.genres and song.lyrics) else Found(song.path)
    if not song.lyrics and tags.lyrics:
        song = _with_lyrics(song, tags.lyrics)
    return replace(song, artist=song.artist or tags.artist, genres=song.genres or tags.genres)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, in UTF-16 where it says so, and else in the encoding of old Windows programs."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


_ARTIST = ("tpe1", "artist", "\xa9art", "author", "tpe2", "albumartist", "aart")
_GENRE = ("tcon", "genre", "\xa9gen", "wm/genre")
_LYRICS = ("uslt", "lyrics", "unsyncedlyrics", "\xa9lyr", "wm/lyrics")


def read_tags(path: Path) -> Found:
    """Return artist, genres and lyrics from the tags of a file; nothing where it has none or they are broken."""
    import mutagen

    try:
        tags = (mutagen.File(path) or {}).tags or {}  # type: ignore[union-attr]
        texts = {key.split(":")[0].lower(): _tag_texts(value) for key, value in tags.items()}
    except Exception:  # mutagen raises all kinds of things on broken tags, and a file without tags is still a song
        return Found("")

    def first(keys: Iterable[str]) -> list[str]:
        return next((texts[key] for key in keys if texts.get(key)), [])

    lyrics = "\n".join(first(_LYRICS))
    return Found("", next(iter(first(_ARTIST)), None), _split(first(_GENRE)), lyrics or None)


def _tag_texts(value: Any) -> list[str]:
    """Turn the value of a tag, of whatever format, into texts that are not empty."""
    value = getattr(value, "genres", None) or getattr(value, "text", value)
    values = value if isinstance(value, list | tuple) else [value]
    return [text for text in (str(item).replace("\r\n", "\n").strip() for item in values) if text]


def _find_in_folder(folder: Path, out: Path | None) -> SongSource:
    """The songs below a folder."""
    audio, others = list_files(folder, AUDIO_SUFFIXES, out)
    if not audio:
        kinds = " ".join(sorted(suffix[1:] for suffix in AUDIO_SUFFIXES))
        found = f"{sum(others.values())} other files{f': {named(others)}' if others else ''}"
        raise UserError(f"{folder}: there is no audio in this folder ({found}); expected {kinds}")
    songs = tuple(sorted((Found(path.relative_to(folder).as_posix()) for path in audio), key=lambda song: song.path))
    return SongSource(folder.resolve(), songs, sum(others.values()), named(others))


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place in the file, row) of a csv file; genres are split at ";" and ","."""
    csv.field_size_limit(1 << 26)  # lyrics are long
    rows = csv.DictReader(read_text(path).splitlines(keepends=True))
    names = [str(name).strip().lower() for name in rows.fieldnames or ()]
    if "path" not in names:
        raise UserError(f"{path}: expected a column named path, found {', '.join(names) or 'nothing'}; name it in line 1")
    rows.fieldnames = names
    for row in rows:
        genres = _split([row.get("genres") or row.get("genre") or ""])
        yield f"line {rows.line_num}", {**row, "genres": list(genres), "genre": None}


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place in the file, row) of a jsonl file."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: this is not json ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: expected an object such as {{"path": "song.mp3"}}, got {line[:60]}')
        yield f"line {number}", row


def _from_row(where: str, row: Mapping[str, Any], root: Path) -> Found:
    """Check a row and turn it into a song; lyrics may be the name of a .txt or .lrc file."""
    path, artist, lyrics = (row.get(name) for name in ("path", "artist", "lyrics"))
    genres = row.get("genres") or row.get("genre") or []
    genres = [genres] if isinstance(genres, str) else genres
    if not isinstance(path, str) or not path.strip():
        raise UserError(f"{where}: expected the path of an audio file, got {path!r}; fill in its path")
    for name, value in (("artist", artist), ("lyrics", lyrics)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: expected {name} to be text, got {value!r}")
    if not isinstance(genres, list) or not all(isinstance(genre, str) for genre in genres):
        raise UserError(f"{where}: expected genres to be a list of names, got {genres!r}")
    genres = tuple(genre.strip() for genre in genres if genre.strip())
    song = Found(path.strip().replace(os.sep, "/"), (artist or "").strip() or None, genres)
    lyrics = (lyrics or "").strip()
    if lyrics.lower().endswith((".txt", ".lrc")) and "\n" not in lyrics and (root / lyrics).is_file():
        song = _with_lyrics(song, read_text(root / lyrics), lyrics.lower().endswith(".lrc"))
    elif lyrics:
        song = _with_lyrics(song, lyrics)
    words = row.get("words")
    return replace(song, word_times=_words(where, words)) if words else song


def _words(where: str, words: Any) -> tuple[TimedText, ...]:
    """Check [[word, start, end], ...]."""
    with suppress(TypeError, ValueError):
        times = tuple(TimedText(str(text), float(start), float(end)) for text, start, end in words)
        if all(0 <= start <= end < float("inf") for _, start, end in times):
            return times
    raise UserError(f"{where}: expected words as [[word, start, end], ...] in seconds, got {str(words)[:60]}")


def _with_lyrics(song: Found, text: str, lrc: bool = False) -> Found:
    """Set lyrics, with the times in them where they are written as .lrc."""
    if lrc or _STAMPED.search(text):
        plain, times = parse_lrc(text)
        return replace(song, lyrics=plain or None, word_times=song.word_times or tuple(times))
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return replace(song, lyrics="\n".join(lines).strip() or None)


def _split(texts: Iterable[str]) -> tuple[str, ...]:
    """Split genres at ";" and ","."""
    names = [name.strip() for text in texts for name in re.split("[;,]", text)]
    return tuple(dict.fromkeys(name for name in names if name))
