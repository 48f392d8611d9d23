"""Assign a time to each character of the lyrics: from word times, from .lrc lines, or by a rule.

A prior uses lyrics only if the times of the characters are known. Word times are the most accurate, and the lines of an .lrc
file are nearly as good. Plain lyrics are placed by a rule. A line begins on a bar, and a syllable lasts a beat. After its last
word a line rests for at least one beat, until the next bar begins. `Pace` has the lengths of beats and bars. They are measured
on the songs of the data that have word times.
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
    """A word or a line of the lyrics, with its start and end in seconds."""

    text: str
    start: float
    end: float


def name_key(name: str) -> str:
    """Return a key that is the same for all spellings of an artist or genre."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


def syllables(word: str) -> int:
    """Return the number of syllables of a word: its groups of vowels, at least 1.

    Accents are removed first. A Chinese, Japanese or Korean character is one syllable. In other non-Latin scripts two
    characters count as one syllable.
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
    """Return (start, end) of each word of a text, as character indices."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def _bare(word: str) -> str:
    """Return a word in lower case without punctuation, for comparison; a word of punctuation only is returned unchanged."""
    return "".join(char for char in word.casefold() if char.isalnum()) or word


def _matched(lyrics: str, times: Sequence[TimedText]) -> list[tuple[int, float, float]]:
    """Return (index of the word in the lyrics, start, end) of each word that has a time.

    The time of a line is divided evenly among its characters. Words that differ between the lyrics and `times` (sung twice, or
    left out) are skipped.
    """
    timed = []
    for text, start, end in times:
        each = (end - start) / max(1, len(text))
        timed += [(_bare(text[a:b]), start + each * a, start + each * b) for a, b in _words(text)]
    written = [_bare(lyrics[a:b]) for a, b in _words(lyrics)]
    if written == [word for word, _, _ in timed]:  # the usual case; the search below is quadratic
        return [(number, start, end) for number, (_, start, end) in enumerate(timed)]
    blocks = SequenceMatcher(None, written, [word for word, _, _ in timed], autojunk=False).get_matching_blocks()
    return [(block.a + i, *timed[block.b + i][1:]) for block in blocks for i in range(block.size)]


def character_seconds(lyrics: str, times: Sequence[TimedText]) -> np.ndarray:
    """Return the time of each character in seconds, float32 (len(lyrics),); nan where the time is unknown.

    The time of a word is divided evenly among its characters, and a character gets the middle of its share. A space gets a time
    between its two words if both words have times.
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
    """Return start and end of the word of each character, float64 (len(lyrics), 2); nan between words and where unknown."""
    result = np.full((len(lyrics), 2), np.nan)
    words = _words(lyrics)
    for number, start, end in _matched(lyrics, times):
        result[slice(*words[number])] = start, end
    return result


# --- plain lyrics ---


@dataclass(frozen=True)
class Pace:
    """Tempo of singing: `beat` seconds per syllable, `bar` beats per bar, `lead` seconds before the first word.

    `genres` maps each genre (its `name_key`) to the pace measured on its songs.
    """

    beat: float
    bar: int
    lead: float
    genres: Mapping[str, Pace] = field(default_factory=dict)

    def of(self, genres: Iterable[str]) -> Pace:
        """Return the pace of the first of `genres` that has a measured pace; if none has, return this pace of all songs."""
        return next((self.genres[name_key(genre)] for genre in genres if name_key(genre) in self.genres), self)

    def to_json(self) -> dict[str, Any]:
        """Convert to numbers and dictionaries for json."""
        own = {name: pace.to_json() for name, pace in sorted(self.genres.items())}
        return {"beat": self.beat, "bar": self.bar, "lead": self.lead, **({"genres": own} if own else {})}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Pace:
        """Create a pace from the result of `to_json`."""
        genres = {name: Pace.from_json(pace) for name, pace in data.get("genres", {}).items()}
        return Pace(float(data["beat"]), int(data["bar"]), float(data["lead"]), genres)


@dataclass(frozen=True)
class _Sung:
    """Measurements of one song.

    `beats` has the seconds per syllable of each word. `lines` has, for each line, the number of syllables and the beats from
    its start to the start of the next line. `lead` is the time of the first word in seconds.
    """

    beats: list[float]
    lines: list[tuple[int, float]]
    lead: float


def measure_pace(rows: Iterable[Any]) -> Pace | None:
    """Measure the pace of all songs and of each genre on rows with `lyrics`, `genres` and `word_times`.

    Return None if no song has times of single words. Times of lines are not enough to measure the pace.
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
    """Return the beat on which the next line starts: the first bar line that leaves a rest of at least one beat.

    The current line ends at beat `beats`, counted from any bar line.
    """
    return -(-(beats + 1) // bar) * bar


def _middle(songs: Sequence[_Sung]) -> Pace:
    """Return the pace of several songs: the medians of their measurements, and the best bar.

    The best bar is the one with which `place` reproduces the starts of the lines most exactly. If several bars are about
    equally good, the most common of them is chosen: a line of 5 beats with its rest fills two bars of 3 and also one bar of 6.
    """
    beat = float(np.median([beat for song in songs for beat in song.beats]))
    lines = [line for song in songs for line in song.lines]
    misses = {bar: sum(min(2.0, abs(gap - next_line(count, bar))) for count, gap in lines) for bar in METRES}
    best = min(misses.values())
    bar = next(bar for bar in METRES if misses[bar] <= best + 0.1 * len(lines))
    return Pace(round(beat, 4), bar, round(float(np.median([song.lead for song in songs])), 4))


def place(lyrics: str, seconds: float, pace: Pace | None, genres: Iterable[str] = ()) -> list[TimedText]:
    """Return the words of plain lyrics, each with the time at which a song of length `seconds` would sing it.

    Lines begin on bars, and a syllable lasts a beat. Lyrics that are too long for the song are compressed evenly in time.
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
