"""Annotation of a synthetic song, known before the audio is computed: key, chords, tempo, and the time of each character.

Plain words follow the rule of `align.py`. A line begins on a bar, and a syllable lasts a beat. After its last word a line rests
for at least a beat, until the next bar begins. The melody depends on the bars and not on the words, so that other words change
only the voice. `songs.py` renders an annotation as audio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.align import next_line
from data_prep.errors import UserError
from data_prep.synthetic.band import ARTISTS, GENRES, NEWCOMER, Artist, Genre, Score, write_score
from data_prep.synthetic.voice import Syllable, character_spans, split_syllables

WORDS = {
    "A": ["golden", "silver", "tender", "warm", "cold", "blue", "slow"],
    "N": ["moon", "sun", "star", "wind", "rain", "river", "water", "heart", "night", "summer"],
    "V": ["sing", "run", "fly", "call", "turn", "follow", "wander"],
    "D": ["again", "away", "now", "soon", "down"],
}  # 37 words together with SENTENCES; no word has a silent e, so each vowel group is a syllable
SENTENCES = (
    "the A N will V D", "the N and N V D", "V D with the A N", "you and the N will V", "the N will V D",
    "V with the A N", "V under the N", "V over the N", "all the A N will V", "you will V and V D",
    "follow the A N", "A N and A N", "N and N V D", "V D and V D", "N over A water",
)  # fmt: skip
Seconds = float | tuple[float, float]  # a length, or (shortest, longest)


@dataclass(frozen=True)
class SungWord:
    """A sung word: its syllables with pitches (MIDI) and times (seconds)."""

    text: str
    syllables: tuple[Syllable, ...]

    @property
    def start(self) -> float:
        """Start in seconds from the beginning of the song."""
        return self.syllables[0].start

    @property
    def end(self) -> float:
        """End in seconds from the beginning of the song."""
        return self.syllables[-1].end

    @property
    def characters(self) -> tuple[tuple[str, float, float], ...]:
        """(character, start, end) of each character that sounds, in seconds and in order."""
        return tuple(span for syllable in self.syllables for span in character_spans(syllable))


@dataclass(frozen=True)
class SongAnnotation:
    """Annotation of a song of `seconds` seconds: its score, its lyrics, and the sung words of each line."""

    seconds: float
    score: Score
    lyrics: str
    lines: tuple[tuple[SungWord, ...], ...]

    @property
    def artist(self) -> str:
        return self.score.artist.name

    @property
    def genre(self) -> str:
        return self.score.genre.name

    @property
    def tonic(self) -> int:
        """The first note of the key, a MIDI pitch."""
        return self.score.tonic

    @property
    def scale(self) -> tuple[int, ...]:
        """Semitones of the seven degrees of the scale above the tonic."""
        return self.score.artist.scale

    @property
    def chords(self) -> tuple[int, ...]:
        """The chord of each bar, up to the last bar, as a degree of the scale (0: tonic); see `Score.chord`."""
        return self.score.chords[: self.score.end + 1]

    @property
    def bpm(self) -> float:
        """Beats per minute."""
        return self.score.genre.bpm

    @property
    def bar_beats(self) -> int:
        """Beats per bar."""
        return self.score.genre.bar

    @property
    def bar_seconds(self) -> float:
        """Seconds per bar; the first bar begins at 0."""
        return self.score.genre.bar * self.score.genre.beat

    @property
    def words(self) -> tuple[SungWord, ...]:
        """The sung words, in order."""
        return tuple(word for line in self.lines for word in line)


def make_line(count: int, rng: np.random.Generator) -> str:
    """Sample a line of exactly `count` syllables from WORDS and SENTENCES."""
    while True:
        slots = SENTENCES[int(rng.integers(len(SENTENCES)))].split()
        words = [str(rng.choice(WORDS[slot])) if slot in WORDS else slot for slot in slots]
        if sum(len(split_syllables(word)) for word in words) == count and len(set(words)) == len(words):
            return " ".join(words)


def make_lyrics(genre: Genre, seconds: float, rng: np.random.Generator) -> str:
    """Sample as many lines as fit into the song; return them joined by newlines."""
    lines, beat = [], genre.intro * genre.bar
    while True:
        count = int(rng.choice(genre.syllables))
        if (beat + count) * genre.beat > seconds - 0.3:
            return "\n".join(lines)
        lines.append(make_line(count, rng))
        beat = next_line(beat + count, genre.bar)


def place_words(lyrics: str, genre: Genre, seconds: float) -> Iterator[list[tuple[str, int]]]:
    """Yield lines of (word, its first beat) with one beat per syllable; words that would end after `seconds` are left out."""
    beat = genre.intro * genre.bar
    for line in lyrics.splitlines():
        placed = []
        for word in line.split():
            placed.append((word, beat))
            beat += len(split_syllables(word))
            if beat * genre.beat > seconds:
                yield placed[:-1]
                return
        if placed:
            yield placed
            beat = next_line(beat, genre.bar)


def set_lyrics(lyrics: str, score: Score, seconds: float) -> tuple[tuple[SungWord, ...], ...]:
    """Return the lines that fit into the song, with the pitches of the score; no line is empty."""
    beat = score.genre.beat

    def sung(word: str, first: int) -> SungWord:
        parts = enumerate(split_syllables(word), start=first)
        return SungWord(word, tuple(Syllable(part, score.tune[i], i * beat, (i + 1) * beat) for i, part in parts))

    lines = filter(None, place_words(lyrics, score.genre, seconds))
    return tuple(tuple(sung(word, first) for word, first in line) for line in lines)


def named(what: str, name: str | None, candidates: tuple, rng: np.random.Generator, others: tuple = ()):
    """Return the artist or genre of this name; without a name, a random one of `candidates`. Raise UserError for an unknown name."""
    drawn = candidates[int(rng.integers(len(candidates)))]
    known = (*candidates, *others)
    found = [choice for choice in known if choice.name == name] if name is not None else [drawn]
    if not found:
        raise UserError(f"no {what} is called {name!r}; synthetic songs know {', '.join(c.name for c in known)}")
    return found[0]


def song_seconds(seconds: Seconds, seed: int) -> float:
    """Return the length of a song; if `seconds` is a pair, sample a length log-uniformly with the seed of the song.

    Raises UserError for an invalid length.
    """
    shortest, longest = seconds if isinstance(seconds, tuple) else (seconds, seconds)
    if not 0 < shortest <= longest:
        raise UserError(f"synthetic songs of {seconds} seconds; expected a length above 0, or the shortest and the longest")
    if not isinstance(seconds, tuple):
        return seconds
    return math.exp(np.random.default_rng([seed, 5]).uniform(math.log(shortest), math.log(longest)))


def annotate_song(
    seed: int, *, seconds: Seconds = 20.0, artist: str | None = None, genre: str | None = None, lyrics: str | None = None
) -> SongAnnotation:
    """Return the annotation of `make_song` for the same arguments, without audio.

    Missing artist, genre and lyrics are sampled. Given lyrics are sung as far as they fit. Raises UserError for an unknown
    artist or genre, or an invalid length.
    """
    choice, words_rng, score_rng = (np.random.default_rng([seed, i]) for i in range(3))
    length = song_seconds(seconds, seed)
    who: Artist = named("artist", artist, ARTISTS, choice, (NEWCOMER,))
    manner: Genre = named("genre", genre, GENRES, choice)
    score = write_score(who, manner, length, score_rng)
    lyrics = make_lyrics(manner, length, words_rng) if lyrics is None else lyrics
    return SongAnnotation(length, score, lyrics, set_lyrics(lyrics, score, length))
