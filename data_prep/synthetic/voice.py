"""A singing voice by letters: harmonics of the sung pitch, weighted by three formants per letter.

Every letter has one sound, as if spelling were phonetic. Vowels and voiced consonants are three Lorentzian peaks over the
harmonics. The other consonants are a band of noise, with a gap before plosives. The controls (pitch, formants, loudness) have a
frame every 5 ms and are smoothed, so that the formants glide. In a syllable each consonant takes 75 ms, and the vowels share
the rest.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_prep.align import syllables
from data_prep.synthetic.instruments import CEILING, hertz, noise_band

CONTROL = 0.005  # seconds per control frame
CONSONANT = 0.075  # seconds per consonant
VOWELS = "aeiouy"

# voiced letter -> three formants in Hz, and a level
VOICED = {
    "a": (780, 1250, 2500, 1.0), "e": (500, 1800, 2500, 1.0), "i": (290, 2150, 2900, 0.95),
    "o": (480, 830, 2400, 1.0), "u": (320, 660, 2300, 0.95), "y": (280, 1950, 2600, 0.9),
    "l": (360, 1150, 2800, 0.5), "r": (420, 1150, 1550, 0.55), "m": (250, 950, 2100, 0.4),
    "n": (260, 1450, 2400, 0.4), "w": (300, 600, 2200, 0.5), "j": (280, 1900, 2600, 0.4),
    "v": (260, 1150, 2200, 0.3), "z": (260, 1500, 2500, 0.25), "b": (220, 800, 2100, 0.12),
    "d": (220, 1600, 2500, 0.12), "g": (220, 1900, 2300, 0.12),
}  # fmt: skip
# letter with noise -> its band in Hz (low, high), its level, and the share of its time that is silent before the noise
NOISE = {
    "s": (3400, 5800, 0.30, 0.0), "z": (3400, 5600, 0.14, 0.0), "f": (1500, 5000, 0.15, 0.0),
    "v": (1500, 4500, 0.06, 0.0), "h": (700, 2400, 0.20, 0.0), "x": (2600, 5200, 0.26, 0.3),
    "c": (1500, 2800, 0.40, 0.55), "k": (1400, 2600, 0.42, 0.55), "q": (1100, 2200, 0.42, 0.55),
    "t": (2600, 5000, 0.40, 0.55), "p": (500, 1400, 0.42, 0.55), "b": (400, 1200, 0.25, 0.6),
    "d": (2000, 4200, 0.25, 0.6), "g": (1200, 2400, 0.25, 0.6), "j": (2000, 4500, 0.22, 0.3),
}  # fmt: skip
BANDWIDTH = np.array([95.0, 120.0, 180.0], np.float32)
STRENGTH = np.array([1.0, 0.58, 0.22], np.float32)


class Syllable(NamedTuple):
    """Letters sung on one pitch (MIDI) from `start` to `end` (seconds)."""

    characters: str
    pitch: float
    start: float
    end: float


def plain(text: str) -> str:
    """Return the text in lower case without accents; its length does not change."""
    return "".join(unicodedata.normalize("NFKD", c)[0].lower()[0] for c in text)


@lru_cache(maxsize=4096)
def split_syllables(word: str) -> tuple[str, ...]:
    """Split a word into as many syllables as `align.syllables` counts: golden -> gol, den; river -> ri, ver; hm -> hm.

    The concatenated syllables are the word.
    """
    count, groups = syllables(word), list(re.finditer(f"[{VOWELS}]+", plain(word)))
    if len(groups) == count:  # the last consonant between two groups of vowels begins a syllable
        cuts = [0, *(group.start() - 1 for group in groups[1:]), len(word)]
    else:  # no vowels, or letters of another alphabet
        cuts = [len(word) * i // count for i in range(count + 1)]
    return tuple(word[a:b] for a, b in pairwise(cuts))


def character_spans(syllable: Syllable) -> list[tuple[str, float, float]]:
    """Return (letter, start, end) of the letters that sound, in seconds; together they fill the syllable."""
    characters = [c for c in plain(syllable.characters) if c in VOICED or c in NOISE]
    vowels = sum(c in VOWELS for c in characters)
    seconds = syllable.end - syllable.start
    short = min(CONSONANT, 0.5 * seconds / max(1, len(characters) - vowels)) if vowels else seconds / max(1, len(characters))
    long = (seconds - short * (len(characters) - vowels)) / max(1, vowels)
    spans, at = [], syllable.start
    for c in characters:
        end = at + (long if c in VOWELS else short)
        spans.append((c, at, end))
        at = end
    return spans


@lru_cache(maxsize=512)
def hiss(character: str, length: int, sample_rate: int) -> np.ndarray:
    """Return the noise of one letter, float32 (length,), with its gap, its envelope and its level."""
    low, high, level, gap = NOISE[character]
    t = np.arange(length) / length
    sounding = np.clip((t - gap) / (1 - gap), 0, 1)
    shape = sounding * (1 - sounding) * 4 if gap == 0 else np.minimum(1, sounding * 20) * (1 - sounding) ** 2
    return (level * shape * noise_band(f"voice {character}", length, low, high, sample_rate)).astype(np.float32)


def smooth(track: np.ndarray, frames: int) -> np.ndarray:
    """Return the running mean over an odd number of frames, applied twice along axis 0; the ends are repeated."""
    for _ in range(2):
        padded = np.concatenate([track[:1]] * (frames // 2 + 1) + [track] + [track[-1:]] * (frames // 2))
        total = np.cumsum(padded, axis=0, dtype=np.float64)
        track = (total[frames:] - total[:-frames]) / frames
    return track


def controls(line: Sequence[Syllable], word_ends: set[float], start: float, frames: int, step: float, throat: float):
    """Return pitch in Hz (frames,), formants in Hz (frames, 3) and loudness (frames,) of a line, every `step` seconds."""
    pitch, formants, loudness = np.zeros(frames), np.zeros((frames, 3)), np.zeros(frames)
    wobble = np.zeros(frames)

    def frame(second: float) -> int:
        return round((second - start) / step)

    last = 0
    for syllable in line:
        a, b = frame(syllable.start), frame(syllable.end)
        pitch[last:b] = syllable.pitch
        age = np.arange(b - a) * step
        wobble[a:b] = np.clip((age - 0.12) / 0.2, 0, 1)
        for character, begin, end in character_spans(syllable):
            i, j = frame(begin), frame(end)
            if character in VOICED:
                *peaks, level = VOICED[character]
                formants[last:j] = np.multiply(peaks, throat)
                loudness[i:j] = level
                last = j
        loudness[a:b] *= 1 - 0.2 * age / max(step, syllable.end - syllable.start)
        loudness[max(a, b - (7 if syllable.end in word_ends else 2)) : b] *= 0.25
    pitch[frame(line[-1].end) :] = line[-1].pitch
    formants[last:] = formants[max(0, last - 1)]
    loudness[max(0, frame(line[-1].end) - 4) :] = 0.0
    vibrato = 1 + 0.009 * smooth(wobble, 5) * np.sin(2 * np.pi * 5.5 * step * np.arange(frames))
    return hertz(0) * 2 ** (smooth(pitch, 7) / 12) * vibrato, smooth(formants, 5), smooth(loudness, 3)


def harmonics(pitch: np.ndarray, formants: np.ndarray, loudness: np.ndarray, top: float) -> np.ndarray:
    """Return the amplitudes (K, frames) float32 of the harmonics below `top` Hz; every frame has RMS `loudness`."""
    count = int(top / pitch.min())
    k = np.arange(1, count + 1, dtype=np.float32)[:, None]
    frequency = k * pitch.astype(np.float32)
    amplitude = np.float32(0.012) / np.sqrt(k) * np.ones_like(frequency)
    for i in range(3):
        distance = (frequency - formants[:, i].astype(np.float32)) / BANDWIDTH[i]
        amplitude += STRENGTH[i] / (1 + distance * distance)
    amplitude *= np.clip((top - frequency) / 1000, 0, 1)
    amplitude *= loudness.astype(np.float32) / np.sqrt(np.sum(amplitude * amplitude, 0) / 2)
    return amplitude * np.where(np.cos(np.pi * k * k / count) < 0, -1, 1).astype(np.float32)  # these signs lower the peak


def sum_of_sines(amplitude: np.ndarray, pitch: np.ndarray, hop: int, sample_rate: int, block: int = 192) -> np.ndarray:
    """Synthesise harmonics with linearly interpolated amplitudes (K, frames) and pitch (frames,); ((frames - 1) * hop,).

    Clenshaw's recurrence needs one cosine and one sine per sample, and a few multiply-adds per harmonic.
    """
    ramp = (np.arange(hop, dtype=np.float32) / hop)[None, :]
    step = pitch[:-1, None] + (pitch[1:, None] - pitch[:-1, None]) * ramp
    phase = np.cumsum(step.ravel() * (2 * np.pi / sample_rate))
    phase = np.mod(phase, 2 * np.pi).astype(np.float32).reshape(-1, hop)  # (frames - 1, hop)
    twice, slope = 2 * np.cos(phase), np.diff(amplitude, axis=1)
    sound = np.sin(phase)
    for start in range(0, len(phase), block):  # the buffers of one block fit into the processor's cache
        rows = slice(start, min(start + block, len(phase)))
        now, before, old = (np.zeros((rows.stop - start, hop), np.float32) for _ in range(3))
        for k in range(len(amplitude) - 1, -1, -1):  # b_k = a_k + 2 cos b_(k+1) - b_(k+2)
            np.multiply(before, twice[rows], out=now)
            now -= old
            now += amplitude[k, rows, None]
            np.multiply(slope[k, rows, None], ramp, out=old)
            now += old
            now, before, old = old, now, before
        sound[rows] *= before
    return sound.ravel()


def sing(line: Sequence[Syllable], word_ends: set[float], sample_rate: int, throat: float = 1.0) -> tuple[int, np.ndarray]:
    """Synthesise a line of syllables; return (index of its first sample, float32 audio with RMS 1 in vowels).

    `word_ends` are the end times of words. `throat` scales the formants (above 1: a shorter throat).
    """
    hop = max(1, round(CONTROL * sample_rate))
    first, step = round(line[0].start * sample_rate), hop / sample_rate
    frames = int((line[-1].end - line[0].start) / step) + 3
    pitch, formants, loudness = controls(line, word_ends, first / sample_rate, frames, step, throat)
    top = min(CEILING, 0.45 * sample_rate)
    sound = sum_of_sines(harmonics(pitch, formants, loudness, top), pitch, hop, sample_rate)
    for syllable in line:
        for character, begin, end in character_spans(syllable):
            if character in NOISE:
                noise = hiss(character, max(2, int((end - begin) * sample_rate)), sample_rate)
                at = round(begin * sample_rate) - first
                room = sound[at : at + len(noise)]
                room += noise[: len(room)]
    return first, sound
