"""Read artist, genres and lyrics from the tags of a sound file.

Readers are mutagen, the INFO list of wav files, and PyAV for other containers. The artist is the first name of an ARTISTS tag,
or of an artist tag if there is none. In one text, several artists are separated by ";". Lyrics with times (SYLT) are preferred
to lyrics without (USLT). If there are lyrics in several languages, the language of the TLAN tag is read, or the first in the
file.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.metadata.chunks import info_texts, read_chunks
from data_prep.metadata.encodings import decode, printable
from data_prep.metadata.lyrics import ParsedLyrics, parse_lyrics

SEVERAL = "artists after the first, in songs"
_ARTISTS = ("artists", "wm/artists")
_ARTIST = ("tpe1", "artist", "\xa9art", "author", "iart", "performer", "tpe2", "albumartist", "album_artist", "aart")
_GENRE = ("tcon", "genre", "\xa9gen", "wm/genre", "ignr")
_SOURCE = ("source", "woas", "woaf", "purl")
_LICENCE = ("license", "licence", "wcop", "tcop", "copyright", "cprt", "icop")
_LYRICS = ("sylt", "syncedlyrics", "uslt", "lyrics", "unsyncedlyrics", "\xa9lyr", "wm/lyrics")
_OF_AV = frozenset(
    {".mkv", ".mka", ".webm", ".mov", ".avi", ".caf", ".aif", ".aiff", ".aifc"}
)  # suffixes of containers of which mutagen reads few or no tags
_LANGUAGES = (  # names of each language in tags, its three-character code first
    "eng en english|deu ger de german deutsch|fra fre fr french|spa es spanish|ita it italian|por pt portuguese|jpn ja jp japanese"
    "|zho chi zh cn chinese|kor ko kr korean|rus ru russian|ukr uk|nld dut nl|swe sv|dan da|nor nob no|fin fi|pol pl|ces cze cs|slk slo sk"
    "|ron rum ro|ell gre el|hun hu|tur tr|ara ar|fas per fa|heb he|hin hi|tha th|vie vi|ind id|isl ice is|eus baq eu|kat geo ka"
)
_LANGUAGE = {name: row.split()[0] for row in _LANGUAGES.split("|") for name in row.split()}


@dataclass(frozen=True)
class Tags:
    """The content of the tags of a file; `left_out` counts further artists and languages.

    A copyright notice is used as the licence.
    """

    artist: str | None = None
    genres: tuple[str, ...] = ()
    lyrics: ParsedLyrics | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    source: str | None = None
    licence: str | None = None


def read_tags(path: Path) -> Tags:
    """Return artist, genres, lyrics and provenance from the tags of a file; empty if there are none or they are damaged."""
    texts: dict[str, list[str]] = {}
    for reader in (_mutagen_texts, _riff_texts, _av_texts):
        with suppress(Exception):
            # libraries raise many kinds of errors on damaged tags, and a file without tags is still a song
            for key, values in reader(path, texts):
                texts.setdefault(key, []).extend(filter(None, values))

    def first(keys: Iterable[str]) -> list[str]:
        return next((texts[key] for key in keys if texts.get(key)), [])

    left_out: Counter[str] = Counter()
    artist = first_artist([*first(_ARTISTS)] or first(_ARTIST), left_out)
    left_out["lyrics in other languages"] += max(0, len(first(_LYRICS)) - 1)
    lyrics = [parse_lyrics(text) for key in _LYRICS for text in texts.get(key, [])]
    sung = next((each for each in lyrics if each.text), next(iter(lyrics), None))  # timed lyrics may be empty
    source, licence = (one_line(" ".join(first(keys)[:1])) for keys in (_SOURCE, _LICENCE))
    return Tags(artist, split_genres(first(_GENRE)), sung, dict(+left_out), source, licence)


def one_line(text: str) -> str | None:
    """Return a text on one line; None if the line is empty."""
    return " ".join(printable(text).split()) or None


def first_artist(names: Iterable[str], left_out: Counter[str]) -> str | None:
    """Return the first of several artists on one line, where ";" also separates artists; count the song if it has several."""
    artists = _split(names, "[;；\0]")
    left_out[SEVERAL] += len(artists) > 1
    return artists[0] if artists else None


def split_genres(texts: Iterable[str]) -> tuple[str, ...]:
    """Split genres at ";" and ","."""
    return tuple(_split(texts, "[;；,\0]"))


def _split(texts: Iterable[str], separators: str) -> list[str]:
    """Split names at separators; return them without duplicates, each on one line."""
    parts = (part for text in texts for part in re.split(separators, unicodedata.normalize("NFC", html.unescape(text))))
    return list(dict.fromkeys(filter(None, (" ".join(printable(part).split()) for part in parts))))


def _mutagen_texts(path: Path, _: object) -> Iterator[tuple[str, list[str]]]:
    """Yield (key in lower case, texts) of all tags that mutagen reads."""
    import mutagen
    from mutagen.apev2 import APEv2
    from mutagen.id3 import ID3

    file: Any = mutagen.File(path)
    tags: Any = file.tags if file is not None else None
    for other in (ID3, APEv2):  # ID3 can be before flac audio, APEv2 after mp3 audio
        with suppress(mutagen.MutagenError):
            tags = tags or other(path)
    if not tags:
        return
    language = next((_language(str(text)) for text in getattr(tags.get("TLAN"), "text", [])), "")
    items = sorted(tags.items(), key=lambda item: _language(getattr(item[1], "lang", language)) != language)
    read = _legacy_reader([value for _, value in items])
    for key, value in items:
        name, _, description = key.lower().partition(":")
        name = description.rpartition(":")[2] if name in ("txxx", "----") else re.sub("^lyrics-...$", "lyrics", name)
        yield name, [with_stamps(value, getattr(file, "info", None))] if name == "sylt" else list(map(read, _texts(value)))


def _language(name: str) -> str:
    """Return the three-character code of a language in a tag, such as "en", "en-US", "ENG" or "English"."""
    name = re.split("[-_]", name.strip().lower())[0]
    return _LANGUAGE.get(name, name)


def _legacy_reader(values: Iterable[Any]) -> Callable[[str], str]:
    """Return a decoder for texts that their tags declare as Latin-1, after detecting the true encoding on all of them."""
    latin = {text for value in values if getattr(value, "encoding", None) == 0 for text in _texts(value) if not text.isascii()}
    found = decode("\n".join(sorted(latin)).encode("latin-1", "ignore"))
    return lambda text: text.encode("latin-1").decode(found.encoding, "replace") if found and text in latin else text


def with_stamps(frame: Any, info: Any) -> str:
    """Return the text of a SYLT frame with time stamps.

    The parts of the frame are lines. If some of them begin or end with white space, the parts are words.
    """
    if frame.type not in (0, 1, 2):  # chords, events, .. are not lyrics
        return ""
    samples = 1152 if getattr(info, "version", 1) == 1 else 576  # samples of an MPEG layer 3 frame
    unit = 0.001 if frame.format == 2 else samples / info.sample_rate
    parts = [(text, f"{int(time * unit // 60):02d}:{time * unit % 60:06.3f}") for text, time in frame.text]
    if any(text != text.strip() for text, _ in parts):
        text = "".join(re.sub(r"^(\s*)", rf"\1<{time}>", part) for part, time in parts)
        return re.sub(r"(?m)^<([\d:.]+)>", r"[\1]<\1>", text)
    return "\n".join(f"[{time}]{text}" for text, time in parts)


def _texts(value: Any) -> list[str]:
    """Convert the value of a tag of any format to non-empty texts."""
    value = getattr(value, "genres", None) or getattr(value, "text", value)
    values = value if isinstance(value, list | tuple) else [value]
    texts = (bytes(item).decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in values)
    return [text for text in (text.replace("\r\n", "\n").strip() for text in texts) if text]


def _riff_texts(path: Path, _: object) -> Iterator[tuple[str, list[str]]]:
    """Yield (name in lower case, [text]) of each entry in the INFO lists of a wav file."""
    kind, chunks = read_chunks(path, [])
    for data in (data for name, data in chunks if name == "LIST INFO"):
        yield from ((name.lower(), [text]) for name, text in info_texts(data, kind))


def _av_texts(path: Path, known: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the tags of a container that mutagen does not support, such as mkv; PyAV must be installed."""
    if any(known.values()) or path.suffix.lower() not in _OF_AV:
        return
    import av

    with av.open(str(path)) as container:
        for tags in (container.metadata, *(stream.metadata for stream in container.streams.audio[:1])):
            for key, value in tags.items():
                yield key.lower(), [value.strip()]
