"""Find beats and note onsets of a recording with librosa (beat tracker: Ellis 2007); all times are in seconds.

The onset strength has 43 values per second. It is computed in blocks, so that memory does not grow with the length of the
audio. Beats and onsets are then found in the whole curve. The first call takes about 15 seconds, because librosa compiles its
beat tracker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_prep.audio.blocks import BlockReader

RATE, HOP = 22050, 512
CLEAR = 1.5
PIECE, MARGIN = 2048 * HOP, 8 * HOP  # samples per block, and margin on both sides


class Pulse(NamedTuple):
    """Tempo in beats per minute, times of the beats in seconds, and clarity of the beat.

    `clarity` is the mean onset strength at the beats, divided by the mean onset strength of the whole recording. The tracker
    finds beats in any signal: clarity is 1.1 for noise, up to 1.35 for music without a beat, and above 1.75 for an audible
    beat. Clarity is 0 if there is less than one beat per 2.5 s.
    """

    tempo: float
    beats: Float[np.ndarray, " n"]
    clarity: float = 0.0

    @property
    def is_clear(self) -> bool:
        return self.clarity > CLEAR


def find_beats(path: str | Path) -> Pulse:
    """Find the beats of an audio file; the result has no beats if the file has no onsets."""
    return beats_of(_strength(_sound(path)))


def find_onsets(path: str | Path) -> Float[np.ndarray, " n"]:
    """Return the times of the note onsets of an audio file, in seconds.

    An onset is a peak of the onset strength, moved back to the point where the strength starts to rise.
    """
    return _onsets(_strength(_sound(path)))


def onsets_of(audio: Float[np.ndarray, " t"], sample_rate: int) -> Float[np.ndarray, " n"]:
    """Return the times of the note onsets of mono samples, in seconds."""
    return _onsets(_strength(_at_rate(audio, sample_rate)))


def _onsets(strength: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    import librosa

    if not strength.any():
        return np.zeros(0)
    found = librosa.onset.onset_detect(
        onset_envelope=strength, sr=RATE, hop_length=HOP, backtrack=True, energy=strength, units="time"
    )
    return np.asarray(found, np.float64)


def pulse_of(audio: Float[np.ndarray, " t"], sample_rate: int) -> Pulse:
    """Find the beats of mono samples."""
    return beats_of(_strength(_at_rate(audio, sample_rate)))


def beats_of(strength: Float[np.ndarray, " n"]) -> Pulse:
    """Find the beats of an onset strength curve."""
    import librosa

    if not strength.any():
        return Pulse(0.0, np.zeros(0))
    tempo, beats = librosa.beat.beat_track(onset_envelope=strength, sr=RATE, hop_length=HOP, units="time")
    if len(beats) > 2:  # the tracker searches tempi in steps of 5 per cent; a regression line through its beats is more exact
        tempo = 60 / np.polyfit(np.arange(len(beats)), beats, 1)[0]
    around = np.stack([np.roll(strength, shift) for shift in (-1, 0, 1)]).max(0)
    at = around[np.clip(np.round(np.asarray(beats) * RATE / HOP).astype(int), 0, len(strength) - 1)]
    sparse = len(beats) < len(strength) * HOP / RATE / 2.5
    clarity = 0.0 if sparse else float(at.mean() / around.mean())
    return Pulse(float(np.atleast_1d(tempo)[0]), np.asarray(beats, np.float64), clarity)


def _at_rate(audio: Float[np.ndarray, " t"], sample_rate: int) -> Iterator[Float[np.ndarray, " n"]]:
    import soxr

    at_rate = audio if sample_rate == RATE else soxr.resample(audio, sample_rate, RATE)
    yield np.asarray(at_rate, np.float32)


def _sound(path: str | Path) -> Iterator[Float[np.ndarray, " n"]]:
    with BlockReader(path, sample_rate=RATE, channels=1) as reader:
        yield from (block[0] for block in reader)


def _strength(blocks: Iterator[Float[np.ndarray, " n"]]) -> Float[np.ndarray, " m"]:
    """Return the onset strength, one value per HOP samples, computed in blocks with a margin that is dropped."""
    import librosa

    parts, held, margin, more = [], np.zeros(0, np.float32), 0, True
    while more:
        gathered = [held]
        while sum(map(len, gathered)) < margin + PIECE + MARGIN and (more := (block := next(blocks, None)) is not None):
            gathered.append(block)  # type: ignore[arg-type]  # None ends the loop
        held = np.concatenate(gathered)
        if len(held) <= margin:
            break
        count = PIECE if more else len(held) - margin
        strength = librosa.onset.onset_strength(y=held[: margin + count + MARGIN], sr=RATE, hop_length=HOP)
        parts.append(strength[margin // HOP : (margin + count) // HOP])
        if more:
            held, margin = held[margin + PIECE - MARGIN :], MARGIN
    return np.concatenate(parts) if parts else np.zeros(0)
