"""Synthetic songs with lyrics, artists, genres and the true time of every word: the corpus of the demo and of the tests.

A song is a band (`band.py`) and a singer (`voice.py`), computed by numpy from a seed. `annotation.py` specifies the notes and
words. In stereo every instrument has a position, the singer is in the centre, and the reverberation differs between the sides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.errors import UserError
from data_prep.synthetic.annotation import Seconds, SongAnnotation, SungWord, annotate_song
from data_prep.synthetic.band import ARTISTS, GENRES, play, stereo_gains
from data_prep.synthetic.voice import sing

LOUDNESS = 0.2  # RMS of a sung vowel; the RMS of the band is 0.4 times as large
FLOOR = 0.001  # RMS of background noise: a prior that is trained on digital silence tends to become silent
COMBS = (0.0297, 0.0371, 0.0411, 0.0437)  # seconds
COMB_SPREAD = 23 / 44100  # seconds by which the delays of the right side are longer (as in Freeverb)


@dataclass(frozen=True)
class SyntheticSong:
    """One song: float32 audio (channels, samples) with values below 0.95, and its annotation."""

    audio: np.ndarray
    sample_rate: int
    annotation: SongAnnotation

    @property
    def artist(self) -> str:
        return self.annotation.artist

    @property
    def genre(self) -> str:
        return self.annotation.genre

    @property
    def lyrics(self) -> str:
        return self.annotation.lyrics

    @property
    def words(self) -> tuple[tuple[str, float, float], ...]:
        """(word, start, end) of every sung word, in seconds."""
        return tuple((word.text, word.start, word.end) for word in self.annotation.words)


def sing_lines(lines: Sequence[Sequence[SungWord]], throat: float, samples: int, sample_rate: int) -> np.ndarray:
    """Render the voice alone, float32 (samples,); `throat` scales the formants."""
    sound, ends = np.zeros(samples, np.float32), set[float]()
    for line in lines:
        ends |= {word.end for word in line}
        start, voice = sing([s for word in line for s in word.syllables], ends, sample_rate, throat)
        sound[start : start + len(voice)] += voice[: samples - start]
    return sound


def reverberate(sound: np.ndarray, sample_rate: int, wet: float = 0.13, later: float = 0.0) -> np.ndarray:
    """Add the reverberation of a small room to (samples,): four parallel comb filters (Schroeder).

    Each filter needs one numpy operation per period. `later` seconds are added to the delay of each filter.
    """
    mixed = sound.copy()
    for seconds in COMBS:
        delay = int((seconds + later) * sample_rate)
        turns = -(-len(sound) // delay)
        echo = np.zeros((turns + 1, delay), np.float32)
        echo.ravel()[delay : delay + len(sound)] = sound
        gain = np.float32(0.001 ** (seconds / 0.7))  # decay of 60 dB in 0.7 s
        for turn in range(1, turns + 1):
            echo[turn] += gain * echo[turn - 1]
        mixed[delay:] += np.float32(wet) * echo.ravel()[delay : len(sound)]
    return mixed


def soften(sound: np.ndarray, knee: float = 0.6, ceiling: float = 0.94) -> np.ndarray:
    """Apply soft clipping in place: values above the knee are compressed below the ceiling."""
    room = ceiling - knee
    loud = np.abs(sound) > knee
    sound[loud] = np.sign(sound[loud]) * (knee + room * np.tanh((np.abs(sound[loud]) - knee) / room))
    return sound


def make_song(
    seed: int,
    *,
    seconds: Seconds = 20.0,
    sample_rate: int = 22050,
    channels: int = 1,
    artist: str | None = None,
    genre: str | None = None,
    lyrics: str | None = None,
) -> SyntheticSong:
    """Make one song, a pure function of the arguments; missing artist, genre and lyrics are sampled.

    If `seconds` is a pair (shortest, longest), the length is sampled log-uniformly. Given lyrics are sung as far as they fit.
    Only letters sound; other characters are silent. With 2 `channels` the same song is in stereo.
    """
    if channels not in (1, 2):
        raise UserError(f"a synthetic song of {channels} channels; expected 1 (mono) or 2 (stereo)")
    annotation = annotate_song(seed, seconds=seconds, artist=artist, genre=genre, lyrics=lyrics)
    band_rng, noise_rng, pan_rng = (np.random.default_rng([seed, i]) for i in (3, 4, 6))
    samples = round(annotation.seconds * sample_rate)
    voice = sing_lines(annotation.lines, annotation.score.artist.throat, samples, sample_rate)
    gains = stereo_gains(pan_rng) if channels == 2 else None
    band = play(annotation.score, samples, sample_rate, band_rng, gains)
    for side in band:  # equally loud on both sides
        side *= np.float32(0.4 * LOUDNESS / (np.sqrt(np.mean(side * side)) + 1e-9))
    dry = band + np.float32(LOUDNESS) * voice
    mix = np.stack([reverberate(side, sample_rate, later=i * COMB_SPREAD) for i, side in enumerate(dry)])
    fade = min(samples, int(0.4 * sample_rate))
    mix[:, samples - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    mix = soften(mix)
    mix += np.float32(FLOOR * 12**0.5) * (noise_rng.random(mix.shape, np.float32) - np.float32(0.5))
    return SyntheticSong(mix, sample_rate, annotation)


def corpus_song(index: int, seed: int, artist: str | None = None) -> tuple[int, str, str]:
    """Return the seed, artist and genre of song `index` of a corpus; `annotate_song` annotates the song with them.

    Genres alternate, and so do artists if no artist is given.
    """
    own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    return own, artist or ARTISTS[index % 4].name, GENRES[index % 3 if artist else index // 4 % 3].name


def write_song(
    index: int, *, folder: Path, seed: int, seconds: Seconds, sample_rate: int, channels: int, artist: str | None
) -> dict:
    """Write song `index` of a corpus as a file; return its row of songs.jsonl."""
    from data_prep.audio.audio import write_wav

    own, artist, genre = corpus_song(index, seed, artist)
    song = make_song(own, seconds=seconds, sample_rate=sample_rate, channels=channels, artist=artist, genre=genre)
    path = f"song_{index:04d}.wav"
    write_wav(folder / path, song.audio, sample_rate)
    words = [[word, round(start, 4), round(end, 4)] for word, start, end in song.words]
    return {"path": path, "artist": artist, "genre": genre, "lyrics": song.lyrics, "words": words}


def make_corpus(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    seconds: Seconds = 20.0,
    sample_rate: int = 22050,
    channels: int = 1,
    artist: str | None = None,
    workers: int = 2,
) -> Path:
    """Write `count` songs and songs.jsonl, and return the folder; without `artist` the four artists alternate.

    If `seconds` is a pair (shortest, longest), each song has a random length. The bytes depend on the seed and not on
    `workers`.
    """
    from data_prep.pool import is_leader, map_songs

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "seconds": seconds, "sample_rate": sample_rate, "channels": channels, "artist": artist}
    write = partial(write_song, folder=folder, **settings)
    rows = list(map_songs(write, range(count), workers=workers, what="synthetic songs"))
    if is_leader():  # the other ranks under mpirun get no rows
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "songs.jsonl").write_text(text, encoding="utf-8", newline="\n")
    return folder
