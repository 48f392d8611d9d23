"""The time of each character of the lyrics: from word times, from .lrc lines, or by a rule.

A prior uses lyrics only if the times of the characters are known. Word times are the most accurate, and the lines of an .lrc
file are nearly as good. Plain lyrics are placed by a common rule: a line begins on a bar, a syllable lasts a beat, and after
its last word a line rests until the next bar that is at least one beat away. The lengths of beats and bars are measured on the
songs of the data that have word times (`Pace`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

METRES = (4, 3, 6, 8, 2, 5, 7)  # beats per bar, common ones first


class TimedText(NamedTuple):
    """A word or a line of the lyrics and the seconds at which it begins and ends."""

    text: str
    start: float
    end: float


def name_key(name: str) -> str:
    """Return a key that is the same for all spellings of an artist or genre."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def syllables(word: str) -> int:
    """Count the syllables of a word: its groups of vowels; at least 1.

    Accents are removed first. In other scripts each Chinese, Japanese or Korean character is a syllable, else two characters
    are.
    """
    signs = sum(unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")) for char in word)
    plain = "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char)).lower()
    if signs:
        return signs
    if plain.isascii():
        return max(1, len(re.findall("[aeiouy]+", plain)))
    return max(1, sum(map(str.isalpha, plain)) // 2)


# --- characters ---


def _words(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text begins and ends."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def _bare(word: str) -> str:
    """Return a word without its punctuation and case, for comparison (the whole word if nothing else is left)."""
    return "".join(char for char in word.casefold() if char.isalnum()) or word


def _matched(lyrics: str, times: Sequence[TimedText]) -> list[tuple[int, float, float]]:
    """Return (index of the word in the lyrics, start, end) of every word with a time.

    The time of a line is divided evenly between its characters. Words that differ (sung twice, or left out) are skipped.
    """
    timed = []
    for text, start, end in times:
        each = (end - start) / max(1, len(text))
        timed += [(_bare(text[a:b]), start + each * a, start + each * b) for a, b in _words(text)]
    written = [_bare(lyrics[a:b]) for a, b in _words(lyrics)]
    if written == [word for word, _, _ in timed]:  # as they were read; the search below is quadratic
        return [(number, start, end) for number, (_, start, end) in enumerate(timed)]
    blocks = SequenceMatcher(None, written, [word for word, _, _ in timed], autojunk=False).get_matching_blocks()
    return [(block.a + i, *timed[block.b + i][1:]) for block in blocks for i in range(block.size)]


def character_seconds(lyrics: str, times: Sequence[TimedText]) -> np.ndarray:
    """Return float32 (len(lyrics),): the second in the middle of each character's share of its word; nan where unknown.

    The time of a space is between its neighbours if both are known.
    """
    result = np.full(len(lyrics), np.nan, np.float32)
    words, last = _words(lyrics), None
    for number, start, end in _matched(lyrics, times):
        first, after = words[number]
        result[first:after] = start + (np.arange(after - first) + 0.5) / (after - first) * (end - start)
        if last is not None and last[0] == number - 1:
            before = words[last[0]][1]
            gap = np.arange(first - before) + 0.5
            result[before:first] = last[1] + gap / (first - before) * (start - last[1])
        last = (number, end)
    return result


def word_seconds(lyrics: str, times: Sequence[TimedText]) -> np.ndarray:
    """Return float64 (len(lyrics), 2): when the word of each character begins and ends; nan between words and where unknown."""
    result = np.full((len(lyrics), 2), np.nan)
    words = _words(lyrics)
    for number, start, end in _matched(lyrics, times):
        result[slice(*words[number])] = start, end
    return result


# --- plain lyrics ---


@dataclass(frozen=True)
class Pace:
    """How songs are sung: `beat` seconds per syllable, `bar` beats per bar, `lead` seconds before the first word.

    `genres` has the measured pace of each genre, by `name_key`.
    """

    beat: float
    bar: int
    lead: float
    genres: Mapping[str, Pace] = field(default_factory=dict)

    def of(self, genres: Iterable[str]) -> Pace:
        """Return the pace of the first of these genres that has one, else of all songs."""
        return next((self.genres[name_key(genre)] for genre in genres if name_key(genre) in self.genres), self)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and dictionaries."""
        own = {name: pace.to_json() for name, pace in sorted(self.genres.items())}
        return {"beat": self.beat, "bar": self.bar, "lead": self.lead, **({"genres": own} if own else {})}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pace:
        """The inverse of `to_json`."""
        genres = {name: Pace.from_json(pace) for name, pace in data.get("genres", {}).items()}
        return Pace(float(data["beat"]), int(data["bar"]), float(data["lead"]), genres)


@dataclass(frozen=True)
class _Sung:
    """Measurements of one song: seconds of each syllable; (syllables of a line, beats to the next line); time of the first word."""

    beats: list[float]
    lines: list[tuple[int, float]]
    lead: float


def measure_pace(rows: Iterable[Any]) -> Pace | None:
    """Measure the pace of all songs, and of each genre, on rows with `lyrics`, `genres` and word times.

    None if no song has word times (times of lines alone do not give the pace).
    """
    everything: list[_Sung] = []
    by_genre: dict[str, list[_Sung]] = {}
    for row in rows:
        if row.lyrics and (sung := _pace_of_song(row.lyrics, row.word_times)):
            everything.append(sung)
            for genre in {name_key(genre) for genre in row.genres}:
                by_genre.setdefault(genre, []).append(sung)
    if not everything:
        return None
    whole = _middle(everything)
    return Pace(whole.beat, whole.bar, whole.lead, {name: _middle(songs) for name, songs in sorted(by_genre.items())})


def _pace_of_song(lyrics: str, times: Sequence[TimedText]) -> _Sung | None:
    """Return the measurements of one song, or None if it has no times of single words."""
    spans, beats, starts = _words(lyrics), [], {}
    line_of = [lyrics.count("\n", 0, start) for start, _ in spans]
    counts = Counter[int]()  # line -> syllables
    for (start, end), line in zip(spans, line_of):
        counts[line] += syllables(lyrics[start:end])
    matched = _matched(lyrics, [time for time in times if len(time.text.split()) == 1])
    following = {number: start for number, start, _ in matched}
    for number, start, end in matched:
        if number == 0 or line_of[number - 1] != line_of[number]:
            starts[line_of[number]] = start
        if number + 1 in following and line_of[number + 1] == line_of[number]:
            end = following[number + 1]  # a word lasts until the next
        if end > start:
            beats.append((end - start) / syllables(lyrics[slice(*spans[number])]))
    if not beats:
        return None
    beat = float(np.median(beats))
    lines = [(counts[a], (starts[b] - starts[a]) / beat) for a, b in pairwise(sorted(counts)) if {a, b} <= set(starts)]
    return _Sung(beats, lines, matched[0][1])


def next_line(beats: int, bar: int) -> int:
    """Return the first bar line that leaves at least one beat of rest after so many beats."""
    return -(-(beats + 1) // bar) * bar


def _middle(songs: Sequence[_Sung]) -> Pace:
    """Return the pace of some songs: medians, and the bar with which `place` reproduces the times of their lines best.

    If several bars are about equally good (a line of 5 and a rest fill two bars of 3 and one of 6), a common bar is chosen.
    """
    beat = float(np.median([beat for song in songs for beat in song.beats]))
    lines = [line for song in songs for line in song.lines]
    misses = {bar: sum(min(2.0, abs(gap - next_line(count, bar))) for count, gap in lines) for bar in METRES}
    best = min(misses.values())
    bar = next(bar for bar in METRES if misses[bar] <= best + 0.1 * len(lines))
    return Pace(round(beat, 4), bar, round(float(np.median([song.lead for song in songs])), 4))


def place(lyrics: str, seconds: float, pace: Pace | None, genres: Iterable[str] = ()) -> list[TimedText]:
    """Return the words of plain lyrics with the times at which a song of `seconds` would sing them.

    Lines begin on bars and a syllable lasts a beat; lyrics that are too long for the song are compressed evenly in time.
    Without a pace the lines divide the song evenly.
    """
    lines = [words for line in lyrics.splitlines() if (words := line.split())]
    if not lines:
        return []
    counts = [sum(map(syllables, words)) for words in lines]
    if pace is None:
        starts = [seconds * number / len(lines) for number in range(len(lines))]
        beats = [seconds / len(lines) / count for count in counts]
    else:
        pace, at, starts = pace.of(genres), 0, []
        for count in counts:
            starts.append(pace.lead + at * pace.beat)
            at += next_line(count, pace.bar)
        squeeze = min(1.0, seconds / (starts[-1] + counts[-1] * pace.beat))
        starts, beats = [start * squeeze for start in starts], [pace.beat * squeeze] * len(lines)
    result = []
    for words, start, beat in zip(lines, starts, beats):
        sung = 0
        for word in words:
            result.append(TimedText(word, start + sung * beat, start + (sung + syllables(word)) * beat))
            sung += syllables(word)
    return result
