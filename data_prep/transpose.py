"""Transposed songs: songs that are played faster or slower, as more training music for priors.

A song at 2^(k/12) times its speed is k semitones higher and shorter. So it is read with a lower sample rate, and its samples are
taken as samples at the rate of the codec. Only the codes of a transposed song are stored, under the name `SONG@+2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from data_prep.align import TimedText
from data_prep.errors import UserError
from data_prep.manifest import SongRow

MOST = 12.0  # semitones up or down


def speed(semitones: float) -> float:
    """Return the speed of a song that is transposed by this number of semitones, as a factor."""
    return 2.0 ** (semitones / 12)


def check_semitones(semitones: Iterable[float]) -> None:
    """Raise UserError unless every number is an allowed transposition."""
    for each in semitones:
        if not 0 < abs(each) <= MOST:
            raise UserError(f"--semitones has {each:g}; expected numbers from -{MOST:g} to {MOST:g} without 0, as in -2,2")


def transpose(row: SongRow, semitones: float) -> SongRow:
    """Return the row of the transposed song, with its own name, length and word times."""
    factor = speed(semitones)
    words = tuple(TimedText(word.text, word.start / factor, word.end / factor) for word in row.word_times)
    name = f"{row.song}@{semitones:+g}"
    return replace(row, song=name, seconds=row.seconds / factor, word_times=words, semitones=semitones)


def reading_rate(sample_rate: int, semitones: float) -> int:
    """Return the rate, in Hz, at which a file is read so that its samples at `sample_rate` are the transposed song."""
    return round(sample_rate / speed(semitones))


def find_transposed(songs: Iterable[str], rows: Mapping[str, SongRow]) -> dict[str, SongRow]:
    """Return the rows of those `songs` that are transposed songs of `rows`, by name."""
    found = {}
    for song in songs:
        name, _, number = song.rpartition("@")
        if song not in rows and name in rows:
            with suppress(ValueError):
                found[song] = transpose(rows[name], float(number))
    return found
