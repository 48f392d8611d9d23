"""Made songs with lyrics, artists, genres and the true time of every word: the corpus of the demo and of the tests.

A song is a band (`band.py`) and a singer (`voice.py`), nothing but numpy and a seed. It is set as plain words are set
everywhere here: a line begins on a bar, a syllable lasts a beat, and after its last word a line rests for a beat at least,
until the next bar. The tune belongs to the bars and not to the words, so other words change the singer and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.align import next_line
from data_prep.errors import UserError
from data_prep.synthetic.band import ARTISTS, GENRES, NEWCOMER, Artist, Genre, Score, play, write_score
from data_prep.synthetic.voice import Syllable, sing, split_syllables

WORDS = {
    "A": ["golden", "silver", "tender", "warm", "cold", "blue", "slow"],
    "N": ["moon", "sun", "star", "wind", "rain", "river", "water", "heart", "night", "summer"],
    "V": ["sing", "run", "fly", "call", "turn", "follow", "wander"],
    "D": ["again", "away", "now", "soon", "down"],
}  # 37 words with those of the sentences below; none has a silent e, so vowel groups are syllables
SENTENCES = (
    "the A N will V D", "the N and N V D", "V D with the A N", "you and the N will V", "the N will V D",
    "V with the A N", "V under the N", "V over the N", "all the A N will V", "you will V and V D",
    "follow the A N", "A N and A N", "N and N V D", "V D and V D", "N over A water",
)  # fmt: skip
LOUDNESS = 0.2  # RMS of a sung vowel; the band has 0.4 of it, so that the voice is 6 dB over it
FLOOR = 0.001  # RMS of the noise under everything: a prior that has heard digital silence learns to fall into it
SungWords = tuple[tuple[str, float, float], ...]  # (word, start, end) in seconds


@dataclass(frozen=True)
class SyntheticSong:
    """One song: mono float32 audio (T,) below 0.95, its labels, its lyrics and (word, start, end) in seconds."""

    audio: np.ndarray
    sample_rate: int
    artist: str
    genre: str
    lyrics: str
    words: SungWords


def make_line(count: int, rng: np.random.Generator) -> str:
    """A line of exactly `count` syllables, out of WORDS and SENTENCES."""
    while True:
        slots = SENTENCES[int(rng.integers(len(SENTENCES)))].split()
        words = [str(rng.choice(WORDS[slot])) if slot in WORDS else slot for slot in slots]
        if sum(len(split_syllables(word)) for word in words) == count and len(set(words)) == len(words):
            return " ".join(words)


def make_lyrics(genre: Genre, seconds: float, rng: np.random.Generator) -> str:
    """As many lines as fit into the song, joined by newlines."""
    lines, beat = [], genre.intro * genre.bar
    while True:
        count = int(rng.choice(genre.syllables))
        if (beat + count) * genre.beat > seconds - 0.3:
            return "\n".join(lines)
        lines.append(make_line(count, rng))
        beat = next_line(beat + count, genre.bar)


def set_lyrics(lyrics: str, genre: Genre, seconds: float) -> Iterator[list[tuple[str, int]]]:
    """Lines of (word, its first beat), each syllable a beat long; what would end after `seconds` is not sung."""
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


def sung_lines(lyrics: str, score: Score, seconds: float) -> Iterator[tuple[list[Syllable], SungWords]]:
    """The syllables of each line as they are sung, and (word, start, end) in seconds."""
    beat = score.genre.beat
    for line in filter(None, set_lyrics(lyrics, score.genre, seconds)):
        syllables, words = [], []
        for word, first in line:
            parts = split_syllables(word)
            for i, part in enumerate(parts, start=first):
                syllables.append(Syllable(part, score.tune[i], i * beat, (i + 1) * beat))
            words.append((word, first * beat, (first + len(parts)) * beat))
        yield syllables, tuple(words)


def sing_lyrics(lyrics: str, score: Score, seconds: float, sample_rate: int) -> tuple[np.ndarray, SungWords]:
    """The voice alone, float32 (T,), and (word, start, end) in seconds."""
    sound = np.zeros(round(seconds * sample_rate), np.float32)
    sung: list[tuple[str, float, float]] = []
    for syllables, words in sung_lines(lyrics, score, seconds):
        sung += words
        start, voice = sing(syllables, {end for _, _, end in sung}, sample_rate, score.artist.throat)
        sound[start : start + len(voice)] += voice[: len(sound) - start]
    return sound, tuple(sung)


def reverberate(sound: np.ndarray, sample_rate: int, wet: float = 0.13) -> np.ndarray:
    """The sound in a small room: four combs of different lengths beside it (Schroeder), one numpy operation a turn."""
    mixed = sound.copy()
    for seconds in (0.0297, 0.0371, 0.0411, 0.0437):
        delay = int(seconds * sample_rate)
        turns = -(-len(sound) // delay)
        echo = np.zeros((turns + 1, delay), np.float32)
        echo.ravel()[delay : delay + len(sound)] = sound
        gain = np.float32(0.001 ** (seconds / 0.7))  # 60 dB in 0.7 s
        for turn in range(1, turns + 1):
            echo[turn] += gain * echo[turn - 1]
        mixed[delay:] += np.float32(wet) * echo.ravel()[delay : len(sound)]
    return mixed


def soften(sound: np.ndarray, knee: float = 0.6, ceiling: float = 0.94) -> np.ndarray:
    """The sound with everything over the knee bent so that nothing reaches the ceiling."""
    room = ceiling - knee
    loud = np.abs(sound) > knee
    sound[loud] = np.sign(sound[loud]) * (knee + room * np.tanh((np.abs(sound[loud]) - knee) / room))
    return sound


def named(what: str, name: str | None, candidates: tuple, rng: np.random.Generator, others: tuple = ()):
    """The artist or genre of that name, or one of `candidates` by chance where no name is given."""
    drawn = candidates[int(rng.integers(len(candidates)))]
    known = (*candidates, *others)
    found = [choice for choice in known if choice.name == name] if name is not None else [drawn]
    if not found:
        raise UserError(f"no {what} is called {name!r}; made songs know {', '.join(c.name for c in known)}")
    return found[0]


def make_song(
    seed: int,
    *,
    seconds: float = 20.0,
    sample_rate: int = 22050,
    artist: str | None = None,
    genre: str | None = None,
    lyrics: str | None = None,
) -> SyntheticSong:
    """One song, a pure function of its arguments; artist, genre and lyrics are drawn where they are not given.

    Given lyrics are sung as far as they fit (`words` says what was sung); letters sound, other characters are silent.
    """
    choice, words_rng, score_rng, band_rng, noise_rng = (np.random.default_rng([seed, i]) for i in range(5))
    who: Artist = named("artist", artist, ARTISTS, choice, (NEWCOMER,))
    manner: Genre = named("genre", genre, GENRES, choice)
    score = write_score(who, manner, seconds, score_rng)
    made = make_lyrics(manner, seconds, words_rng)
    lyrics = made if lyrics is None else lyrics
    voice, words = sing_lyrics(lyrics, score, seconds, sample_rate)
    samples = len(voice)
    band = play(score, samples, sample_rate, band_rng)
    band *= np.float32(0.4 * LOUDNESS / (np.sqrt(np.mean(band * band)) + 1e-9))
    mix = reverberate(band + np.float32(LOUDNESS) * voice, sample_rate)
    fade = min(samples, int(0.4 * sample_rate))
    mix[samples - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    mix = soften(mix)
    mix += np.float32(FLOOR * 12**0.5) * (noise_rng.random(samples, np.float32) - np.float32(0.5))
    return SyntheticSong(mix, sample_rate, who.name, manner.name, lyrics, words)


def song_seed(seed: int, index: int) -> int:
    """The seed of song `index` of a corpus."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def write_song(index: int, *, folder: Path, seed: int, seconds: float, sample_rate: int, artist: str | None) -> dict:
    """Song `index` of a corpus, written as a file; its row of songs.jsonl. Genres, and artists if none is named, in turn."""
    from data_prep.audio.audio import write_wav

    own = song_seed(seed, index)
    genre = GENRES[index % 3 if artist else index // 4 % 3].name
    artist = artist or ARTISTS[index % 4].name
    song = make_song(own, seconds=seconds, sample_rate=sample_rate, artist=artist, genre=genre)
    path = f"song_{index:04d}.wav"
    write_wav(folder / path, song.audio[None], sample_rate)
    words = [[word, round(start, 4), round(end, 4)] for word, start, end in song.words]
    return {"path": path, "artist": artist, "genre": genre, "lyrics": song.lyrics, "words": words}


def make_corpus(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    seconds: float = 20.0,
    sample_rate: int = 22050,
    artist: str | None = None,
    workers: int = 2,
) -> Path:
    """Write `count` songs (all by `artist`, or by four in turn) and songs.jsonl, and return the folder.

    The bytes depend on the seed and not on `workers`.
    """
    from data_prep.pool import is_leader, map_songs

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write = partial(write_song, folder=folder, seed=seed, seconds=seconds, sample_rate=sample_rate, artist=artist)
    rows = list(map_songs(write, range(count), workers=workers, what="made songs"))
    if is_leader():  # the other ranks under mpirun get no rows
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "songs.jsonl").write_text(text, encoding="utf-8", newline="\n")
    return folder
