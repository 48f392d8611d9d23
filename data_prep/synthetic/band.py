"""Four artists, a fifth artist for fine-tuning, three genres, and the accompaniment for an artist and a genre.

An artist determines instruments, a scale, some chord progressions, a habit (arpeggios, block chords, off-beats, a drone), and
throat and range of the singer. A genre determines tempo, metre, swing and drum pattern. A few seconds of any song are enough to
recognise both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data_prep.synthetic.instruments import note

MAJOR, MINOR, HARMONIC = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 8, 11)
DORIAN, MIXOLYDIAN = (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10)


@dataclass(frozen=True)
class Artist:
    """An ensemble with a singer; pitches are MIDI, and chords are degrees of the scale (0 is the tonic), one per bar."""

    name: str
    scale: tuple[int, ...]
    tonics: tuple[int, ...]
    progressions: tuple[tuple[int, int, int, int], ...]
    habit: str  # arpeggio | block | offbeat | drone
    chords: str  # the instrument that plays the chords
    lead: str  # the instrument that plays the melody before the singer starts
    lowest: int  # lowest pitch of the singer, whose range is a ninth
    throat: float  # scales the formants


@dataclass(frozen=True)
class Genre:
    """Tempo and metre: a beat has 60 / bpm seconds, and a bar has `bar` beats; drums are (beat in the bar, name, loudness)."""

    name: str
    bpm: float
    bar: int
    intro: int  # bars before the first line
    swing: float  # start of the second half of a beat; 0.5 is straight
    drums: tuple[tuple[float, str, float], ...]
    fill: tuple[tuple[float, str, float], ...]  # replaces the last beat of every fourth bar
    syllables: tuple[int, ...]  # possible syllables per generated line; a rest of one or two beats follows

    @property
    def beat(self) -> float:
        """Seconds per beat."""
        return 60.0 / self.bpm


ARTISTS = (
    Artist("Copper Finch", MAJOR, (55, 57, 60), ((0, 4, 5, 3), (0, 5, 3, 4)), "arpeggio", "pluck", "pluck", 50, 1.0),
    Artist("Harbour Lights", DORIAN, (50, 52, 57), ((0, 3, 0, 6), (0, 6, 3, 4)), "block", "organ", "organ", 46, 0.93),
    Artist("Night Ferry", MIXOLYDIAN, (53, 55, 58), ((0, 6, 3, 0), (0, 3, 6, 3)), "offbeat", "reed", "reed", 48, 1.05),
    Artist("Glass Orchard", MINOR, (50, 52, 53), ((0, 5, 2, 6), (0, 3, 5, 6)), "drone", "bell", "bell", 50, 1.12),
)
# This artist is in no corpus by default, because the music for fine-tuning must be new to the model.
NEWCOMER = Artist("Paper Comet", HARMONIC, (49, 54, 56), ((0, 3, 4, 0), (0, 5, 3, 4)), "block", "bell", "pluck", 45, 0.86)
GENRES = (
    Genre(
        "waltz", 112.0, 3, 2, 0.5,
        ((0, "kick", 0.9), (1, "brush", 0.9), (2, "brush", 0.8), (2.5, "hat", 0.4)),
        ((2, "snare", 0.5), (2.5, "snare", 0.7)),
        (5,),
    ),
    Genre(
        "rock", 126.0, 4, 2, 0.5,
        ((0, "kick", 1.0), (1, "snare", 1.0), (2, "kick", 1.0), (2.5, "kick", 0.8), (3, "snare", 1.0))
        + tuple((i / 2, "hat", 0.8 if i % 2 == 0 else 0.55) for i in range(8)),
        ((3, "tom", 0.8), (3.25, "snare", 0.6), (3.5, "tom", 0.9), (3.75, "tom", 1.0)),
        (6, 7, 7),
    ),
    Genre(
        "ballad", 88.0, 4, 1, 0.66,
        ((0, "kick", 0.8), (1, "hat", 0.7), (1.5, "hat", 0.45), (2, "snare", 0.7), (2.5, "kick", 0.5), (3, "hat", 0.7),
         (3.5, "open", 0.6)),
        ((3, "snare", 0.35), (3.5, "tom", 0.6)),
        (6, 7, 7),
    ),
)  # fmt: skip

# Stereo position of each instrument: -1 is left, 1 right.
PLACES = {
    "pluck": -0.6, "organ": -0.5, "reed": 0.5, "bell": 0.6, "bass": 0.0, "kick": 0.0, "snare": -0.1, "tom": 0.4,
    "brush": -0.3, "hat": 0.5, "open": -0.5,
}  # fmt: skip


def degree_pitch(artist: Artist, tonic: int, degree: int) -> int:
    """Return the MIDI pitch of a degree of the artist's scale; degree 7 is an octave above degree 0."""
    return tonic + 12 * (degree // 7) + artist.scale[degree % 7]


def near(pitch: int, centre: int) -> int:
    """Move a pitch by octaves into the range centre - 6 .. centre + 5."""
    return (pitch - centre + 6) % 12 + centre - 6


@dataclass(frozen=True)
class Score:
    """The score of a song: artist, genre, key, a chord for each bar and a melody note for each beat."""

    artist: Artist
    genre: Genre
    tonic: int
    chords: tuple[int, ...]  # one degree per bar
    tune: tuple[int, ...]  # one MIDI pitch per beat, sung or not
    end: int  # index of the bar with the last chord

    def chord(self, bar: int, centre: int = 60) -> list[int]:
        """Return the three pitches of the chord of a bar, lowest first.

        Each pitch is in the octave around `centre`, so that voices move little between chords.
        """
        return sorted(near(degree_pitch(self.artist, self.tonic, self.chords[bar] + i), centre) for i in (0, 2, 4))

    def second(self, bar: int, beat: float) -> float:
        """Return the time in seconds of a beat of a bar; half beats are swung."""
        whole, half = divmod(beat, 1.0)
        swing = self.genre.swing
        swung = whole + (half * 2 * swing if half <= 0.5 else swing + (half - 0.5) * 2 * (1 - swing))
        return (bar * self.genre.bar + swung) * self.genre.beat

    def root(self, bar: int) -> int:
        """Return the pitch of the bass: the root of the chord, within 36..47."""
        return near(degree_pitch(self.artist, self.tonic, self.chords[bar]), 42)


def write_score(artist: Artist, genre: Genre, seconds: float, rng: np.random.Generator) -> Score:
    """Sample a key, a progression and a melody of four bars that repeats with another ending."""
    bars = int(np.ceil(seconds / genre.beat / genre.bar)) + 1
    tonic = int(rng.choice(artist.tonics))
    progression = artist.progressions[int(rng.integers(len(artist.progressions)))]
    chords = [progression[(bar - genre.intro) % 4] for bar in range(bars)]  # the intro leads into the first chord
    end = int(seconds / genre.beat / genre.bar)  # the last bar of the song
    chords[end:] = [0] * (bars - end)
    bottom, top = artist.lowest, artist.lowest + 14
    ladder = [p for p in range(bottom, top + 1) if (p - tonic) % 12 in artist.scale]
    phrase: list[int] = []
    at, crest = len(ladder) // 2, rng.uniform(0.35, 0.65)
    for beat in range(4 * genre.bar):
        place = beat / (4 * genre.bar)
        # the contour rises and falls over the four bars
        height = place / crest if place < crest else (1 - place) / (1 - crest)
        aim = (0.25 + 0.6 * height) * (len(ladder) - 1)
        degree = progression[beat // genre.bar]
        tones = {degree_pitch(artist, tonic, degree + i) % 12 for i in (0, 2, 4)}
        strong = beat % genre.bar in ((0,) if genre.bar == 3 else (0, 2))  # on strong beats the melody has a note of the chord
        leap = np.abs(np.arange(len(ladder)) - at)
        cost = 0.5 * np.abs(np.arange(len(ladder)) - aim) + 0.5 * np.maximum(leap - 1, 0) ** 2 + 1.2 * (leap == 0)
        cost += 1.5 * rng.random(len(ladder)) + [100.0 * (strong and p % 12 not in tones) for p in ladder]
        at = int(np.argmin(cost))
        phrase.append(ladder[at])
    before = phrase[3 * genre.bar - 1]
    home = min((p for p in ladder if (p - tonic) % 12 == 0), key=lambda p: abs(p - before))
    step = min((p for p in ladder if p != home), key=lambda p: abs(p - home) - 0.5 * (p > home))
    second = phrase[: 3 * genre.bar] + [step] + [home] * (genre.bar - 1)
    tune = [(phrase, second)[(bar - genre.intro) // 4 % 2][(bar - genre.intro) % 4 * genre.bar + beat]
            for bar in range(bars) for beat in range(genre.bar)]  # fmt: skip
    return Score(artist, genre, tonic, tuple(chords), tuple(tune), end)


Stroke = tuple[float, str, int, float, float]  # beat, instrument, pitch, beats, loudness


def chord_strokes(score: Score, bar: int) -> Iterator[Stroke]:
    """Yield the chord notes of one bar for the habit of the artist; beats count from the bar line."""
    artist, beats = score.artist, score.genre.bar
    chord = score.chord(bar)
    if artist.habit == "arpeggio":
        steps = [*chord, chord[0] + 12, chord[2], chord[1]]
        for i in range(2 * beats):
            yield i / 2, artist.chords, steps[i % len(steps)], 2.0, 1.0 if i % 2 == 0 else 0.75
        yield 0, artist.chords, chord[0] - 12, 3.0, 0.8
    elif artist.habit == "block":
        hits = ((0.0, 1.9), (2.0, 0.95)) if beats == 3 else ((0.0, 1.4), (1.5, 0.45), (2.0, 1.9))
        for at, length in hits:
            for pitch in chord:
                yield at, artist.chords, pitch, length, 0.6
    elif artist.habit == "offbeat":
        for i in range(beats):
            for pitch in chord:
                yield i + 0.5, artist.chords, pitch, 0.4, 0.75
    else:
        for pitch, loud in ((score.tonic, 0.55), (score.tonic + 7, 0.45), (score.tonic - 12, 0.5)):
            yield 0, "organ", pitch, float(beats), loud
        for i, at in enumerate((0.0, 1.0, 1.5, 2.5) if beats == 3 else (0.0, 1.5, 2.0, 3.0, 3.5)):
            yield at, artist.chords, chord[(i * 2) % 3] + 12, 3.0, 0.8 if at else 1.0


def bass_strokes(score: Score, bar: int) -> Iterator[Stroke]:
    """Yield the bass line of one bar: a walking bass under off-beats, a pedal under a drone, else root and fifth."""
    beats, root = score.genre.bar, score.root(bar)
    if score.artist.habit == "drone":
        yield 0, "bass", near(score.tonic, 42), float(beats), 1.0
        return
    degree = score.chords[bar]
    third, fifth = (near(degree_pitch(score.artist, score.tonic, degree + i), root + 5) for i in (2, 4))
    if score.artist.habit == "offbeat":
        onward = score.root(min(bar + 1, len(score.chords) - 1))
        walk = [root, third, fifth, onward + (2 if onward < fifth else -1)]
        for i in range(beats):
            yield i, "bass", walk[i if beats == 4 else (0, 2, 3)[i]], 1.0, 1.0
    elif beats == 3:
        yield 0, "bass", root, 2.0, 1.1
        yield 2, "bass", fifth, 1.0, 0.7
    else:
        for at, pitch, length in ((0, root, 1.5), (1.5, root, 0.5), (2, fifth, 1.5), (3.5, root, 0.5)):
            yield at, "bass", pitch, length, 1.0


def drum_strokes(score: Score, bar: int) -> Iterator[Stroke]:
    """Yield the drum pattern of the genre, with a fill at the end of every fourth bar."""
    genre = score.genre
    fills = (bar - genre.intro) % 4 == 3
    pattern = [stroke for stroke in genre.drums if stroke[0] < genre.bar - 1] if fills else genre.drums
    for at, name, loud in (*pattern, *(genre.fill if fills else ())):
        yield at, name, 0, 0.0, 0.85 * loud


def lead_strokes(score: Score, bar: int) -> Iterator[Stroke]:
    """Yield the melody an octave higher before the singer starts, and later an answer in the rest of every second bar."""
    genre, lead = score.genre, score.artist.lead
    first = bar * genre.bar
    if bar < genre.intro:
        for beat in range(genre.bar):
            yield beat, lead, score.tune[first + beat] + 12, 1.0, 1.2
    elif (bar - genre.intro) % 2 == 1:
        last, onward = score.tune[first + genre.bar - 1], score.tune[first + genre.bar]
        yield genre.bar - 1, lead, last + 12, 0.5, 1.1
        yield genre.bar - 0.5, lead, onward + 12, 0.5, 0.9  # the first note of the singer


def last_strokes(score: Score, bar: int) -> Iterator[Stroke]:
    """Yield the last chord: all instruments hold the tonic."""
    yield 0, "bass", score.root(bar), 4.0, 1.0
    yield 0, "kick", 0, 0.0, 1.0
    yield 0, "open", 0, 0.0, 0.8
    for pitch in (*score.chord(bar), score.chord(bar)[0] + 12):
        yield 0, score.artist.chords, pitch, 4.0, 0.8


def stereo_gains(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the gains (left, right) of each instrument, with constant power.

    The position of an instrument is its position in PLACES with a small variation per song.
    """
    gains = {}
    for instrument, place in PLACES.items():
        angle = (1 + place + rng.uniform(-0.1, 0.1)) * np.pi / 4
        gains[instrument] = np.array([np.cos(angle), np.sin(angle)], np.float32)
    return gains


def play(
    score: Score, samples: int, sample_rate: int, rng: np.random.Generator, gains: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Render the accompaniment, float32 (channels, samples): chords, bass, drums and, before the singer starts, the melody.

    `gains` has the gain of each instrument in each channel. Without `gains` there is one channel.
    """
    genre, mono = score.genre, np.ones(1, np.float32)
    sound = np.zeros((1 if gains is None else 2, samples), np.float32)
    for bar in range(len(score.chords)):
        if bar < score.end:
            strokes = [*chord_strokes(score, bar), *bass_strokes(score, bar), *drum_strokes(score, bar)]
            strokes += lead_strokes(score, bar)
        else:
            strokes = last_strokes(score, bar) if bar == score.end else []
        for at, instrument, pitch, beats, loud in strokes:
            late = 0.004 * rng.random()  # random deviation of note times
            start = int((score.second(bar, at) + late) * sample_rate)
            length = int((beats * genre.beat + 0.06 if beats else 0.3) * sample_rate)
            stop = min(samples, start + length)
            if start < stop:
                tone = note(instrument, pitch, length, sample_rate)[: stop - start]
                level = np.float32(loud * (0.9 + 0.2 * rng.random()))
                gain = mono if gains is None else gains[instrument]
                sound[:, start:stop] += tone * (gain * level)[:, None]
    return sound
