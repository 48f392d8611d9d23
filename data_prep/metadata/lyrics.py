"""Parse lyrics for all verbs: plain text, or text with time stamps (.lrc), becomes the sung words and their times.

`stamps.py` parses the stamps. Text that is not sung (`marks.py`) and translations of lines are left out and counted.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.align import TimedText, syllables
from data_prep.metadata.encodings import printable, read_text
from data_prep.metadata.marks import singers, without_marks, without_spanning
from data_prep.metadata.stamps import LINE_STAMPS, STAMP, StampClock, offset_seconds, with_brackets

MAX_CHARACTERS = 1 << 16  # largest number of characters of lyrics; an opera has fewer
_TAG = re.compile(r"\s*\[\s*([a-z#]+)\s*[:：](.*)\]\s*", re.IGNORECASE)
_TAGS = frozenset(
    "ti ar al by au lr length re tool ve version offset key la lang id encoding total sign hash qq kana #".split()
)
SAME_TIME = 0.05  # seconds; lines that begin closer together are translations of each other


@dataclass(frozen=True)
class ParsedLyrics:
    """The sung words, in lines; the times of words or lines, if they are known; counts of the parts that were left out."""

    text: str
    times: tuple[TimedText, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Line:
    """A line of a lyrics file: the time stamps before it, its words, and the time stamps between its words.

    A line without time stamps is not timed. A stamp between words has its second and the index of the word after it."""

    starts: list[float]
    text: str
    pieces: list[tuple[float, int]]


def read_lyrics(path: Path) -> ParsedLyrics:
    """Read a file of lyrics; UserError if its encoding is unknown or the file is too long."""
    text, _, damaged = read_text(path, 4 * MAX_CHARACTERS)
    lyrics = parse_lyrics(text)
    return ParsedLyrics(lyrics.text, lyrics.times, {**lyrics.left_out, **({"damaged characters": damaged} if damaged else {})})


def parse_lyrics(text: str) -> ParsedLyrics:
    """Parse the words of lyrics and their times.

    A line ends at the next stamp. The last line ends after the usual time per syllable. If several lines begin at the same
    time, the first is sung. A line without a stamp continues the previous line if both are in the same script.
    """
    if len(text) > MAX_CHARACTERS:
        return ParsedLyrics("", (), {"texts too long for lyrics": 1})
    left_out: Counter[str] = Counter()
    lines, offset, titles = _lines(_plain(text), left_out)
    names = singers(line.text for line in lines)
    texts = without_spanning([line.text for line in lines], left_out)
    lines = [line for line, text in zip(lines, texts) if _without_marks(line, text, names, titles, left_out) or line.starts]
    if not any(line.starts for line in lines):
        return ParsedLyrics(_first_of_two(lines, left_out), (), dict(+left_out))
    sung = _in_order(_continued(lines, left_out), left_out)
    texts, times = _timed(sung)
    moved = [TimedText(text, max(0.0, start - offset), max(0.0, end - offset)) for text, start, end in times]
    return ParsedLyrics("\n".join(filter(None, texts)), tuple(moved), dict(+left_out))


def describe(left_out: Mapping[str, int]) -> str:
    """Format the counts of left-out parts, as in "left out: credits 2, note signs 1"; empty if nothing was left out."""
    counts = ", ".join(f"{what} {count}" for what, count in sorted(left_out.items()) if count)
    return f"left out: {counts}" if counts else ""


def _plain(text: str) -> str:
    """Normalise signs and line ends, and put subtitle stamps and stamps without brackets into brackets."""
    text = html.unescape(text).replace("\\r\\n", "\n").replace("\\n", "\n")
    return with_brackets("\n".join(printable(unicodedata.normalize("NFC", text)).splitlines()))


def _lines(text: str, left_out: Counter[str]) -> tuple[list[_Line], float, frozenset[str]]:
    """Parse the lines of a text; also return the offset in seconds, and title and artist, from the tags of the text."""
    lines, offset, titles = [], 0.0, set()
    seconds = StampClock(text)
    for row in text.split("\n"):
        if (tag := _TAG.fullmatch(row)) and tag[1].lower() in _TAGS:
            if tag[1].lower() in ("ti", "ar"):
                titles.add(" ".join(tag[2].casefold().split()))
            elif tag[1].lower() == "offset" and (value := tag[2].strip()):
                left_out["unreadable offsets"] += (found := offset_seconds(value)) is None
                offset = found or offset
        else:
            lines.append(_parse_line(row, seconds))
    return lines, offset, frozenset(titles)


def _parse_line(row: str, seconds: StampClock) -> _Line:
    """Split a line into its words and its stamps."""
    leading = LINE_STAMPS.match(row)
    starts = [seconds(*stamp.groups()) for stamp in STAMP.finditer(row, 0, leading.end())] if leading else []
    text, pieces, at = "", [], leading.end() if leading else 0
    for stamp in STAMP.finditer(row, at):
        text += row[at : stamp.start()] + " " * (stamp[0][0] in "[［")  # a stamp in <> may be within a word
        pieces.append((seconds(*stamp.groups()), len(text)))
        at = stamp.end()
    starts = list(dict.fromkeys(starts)) or [start for start, _ in pieces[:1]]
    return _Line(starts, text + row[at:], pieces)


def _without_marks(line: _Line, text: str, names: frozenset[str], titles: frozenset[str], left_out: Counter[str]) -> bool:
    """Remove text that is not sung, and a translation after a slash; return whether the line should be kept.

    A line is kept if it still has words, or if it was empty before.
    """
    if not line.text.strip():
        return True
    line.text = without_marks(text, names, titles, left_out)
    slash = re.search(r"\s[/|／]{1,2}\s", line.text)
    if slash and _is_latin(line.text[: slash.start()]) != _is_latin(line.text[slash.end() :]):
        left_out["translated lines"] += 1
        line.text = line.text[: slash.start()].ljust(len(line.text))
    return bool(line.text.strip())


def _first_of_two(lines: Iterable[_Line], left_out: Counter[str]) -> str:
    """Return the text of lines without times; if two scripts alternate from line to line, only the lines of the first one."""
    texts = [" ".join(line.text.split()) for line in lines]
    filled = [number for number, text in enumerate(texts) if text]
    if len(filled) > 3 and all(_is_latin(texts[a]) != _is_latin(texts[b]) for a, b in pairwise(filled)):
        left_out["translated lines"] += len(filled) // 2
        texts = [text for number, text in enumerate(texts) if number not in filled[1::2]]
    return re.sub("\n{3,}", "\n\n", "\n".join(texts)).strip()


def _continued(lines: Sequence[_Line], left_out: Counter[str]) -> list[_Line]:
    """Append each line without a stamp to the previous line; drop lines before the first stamp, and translations."""
    result: list[_Line] = []
    for line in lines:
        if line.starts:
            result.append(line)
        elif not result:
            left_out["untimed lines"] += bool(line.text.strip())
        elif line.text.strip() and (last := result[-1]).text.strip() and _is_latin(last.text) != _is_latin(line.text):
            left_out["translated lines"] += 1
        elif line.text.strip():
            result[-1].text = f"{result[-1].text.rstrip()} {line.text.strip()}" if result[-1].text.strip() else line.text
    return result


def _is_latin(text: str) -> bool:
    """Return whether at least half of the letters of a text are Latin."""
    alphabetic = [char for char in text if char.isalpha()]
    return 2 * sum(char < "\u0250" for char in alphabetic) >= len(alphabetic)


def _in_order(lines: Iterable[_Line], left_out: Counter[str]) -> list[tuple[float, list[tuple[float, str]]]]:
    """Return (start, pieces) of the sung lines in order of time."""
    sung = sorted(((start, line) for line in lines for start in line.starts), key=lambda entry: entry[0])
    result: list[tuple[float, list[tuple[float, str]]]] = []
    for start, line in sung:
        pieces = _pieces(line, start)
        if result and start - result[-1][0] < SAME_TIME and any(text for _, text in pieces):
            if any(text for _, text in result[-1][1]):
                left_out["translated lines"] += 1
                continue
            result.pop()
        result.append((start, pieces))
    return result


def _pieces(line: _Line, start: float) -> list[tuple[float, str]]:
    """Return (second, text) of the pieces of a line that begins at `start`; an empty last piece marks the end of the line.

    A stamp within a word is the time of a syllable, and the word begins at its first stamp. In scripts without spaces each
    character is a word. If a line has several start stamps, the stamps of its words belong to the start that is closest to the
    first of them.
    """
    if not line.pieces:
        return [(start, " ".join(line.text.split()))]
    moved = start - min(line.starts, key=lambda base: abs(base - line.pieces[0][0]))
    bounds = [*line.pieces, (0.0, len(line.text))]
    result = [(start, head)] if (head := " ".join(line.text[: bounds[0][1]].split())) else []
    for (second, a), (_, b) in pairwise(bounds):
        text = line.text[a:b]
        joined = a and result and text[:1].isalnum() and line.text[a - 1].isalnum() and not _is_sign(text[0] + line.text[a - 1])
        if joined:
            result[-1] = (result[-1][0], f"{result[-1][1]}{' '.join(text.split())}")
        else:
            result.append((max(0.0, second + moved), " ".join(text.split())))
    return result


def _is_sign(chars: str) -> bool:
    """Return whether one of these characters is of a script without spaces."""
    return any(unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER")) for char in chars)


def _timed(sung: Sequence[tuple[float, list[tuple[float, str]]]]) -> tuple[list[str], list[TimedText]]:
    """Return the texts of the lines, and start and end of each piece."""
    texts, times = [], []
    for (_, pieces), following in zip(sung, [*(start for start, _ in sung[1:]), None]):
        texts.append(" ".join(text for _, text in pieces if text))
        for (start, text), after in zip(pieces, [*(start for start, _ in pieces[1:]), following]):
            if text:
                end = after if after is not None else start + _pace_of(times) * _count(text)
                times.append(TimedText(text, start, max(start, end)))
    return texts, times


def _count(text: str) -> int:
    """Return the number of syllables of a line."""
    return sum(map(syllables, text.split()))


def _pace_of(times: Sequence[TimedText]) -> float:
    """Return the median seconds per syllable of timed texts; 0.3 if there are none."""
    return float(np.median([(end - start) / _count(text) for text, start, end in times])) if times else 0.3
