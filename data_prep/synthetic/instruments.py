"""Synthesised notes of a small band: a plucked string, an organ, a reed, a bell, a bass and a drum kit.

The string is Karplus and Strong (1983), the bell is Chowning's FM (1973), and organ and reed are sums of sines. A note,
including its noise, is a pure function of (instrument, pitch, length, sample rate), so that it can be cached. A song has about
four hundred notes, but few different ones. After the first songs of a genre nearly all notes are in the cache. All noise is
below about 6 kHz, because a codec with a small training budget loses higher frequencies.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

import numpy as np

LOUDNESS = 0.2  # RMS of the first quarter second of every pitched note
CEILING = 5000.0  # Hz; partials above are left out
DRAWBARS = {1: 1.0, 2: 0.6, 3: 0.45, 4: 0.3, 6: 0.16, 8: 0.08}  # harmonic -> amplitude of the organ


def hertz(pitch: float) -> float:
    """Return the frequency in Hz of a MIDI pitch; A4 has pitch 69 and 440 Hz."""
    return 440.0 * 2.0 ** ((pitch - 69) / 12)


def noise_band(key: str, length: int, low: float, high: float, sample_rate: int) -> np.ndarray:
    """Return white noise between two soft edges in Hz, (length,) with RMS 1; the same key returns the same noise."""
    white = np.random.default_rng(crc32(key.encode())).standard_normal(length)
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), 1.0)
    edges = 1 / np.sqrt((1 + (low / frequency) ** 6) * (1 + (frequency / high) ** 8))
    noise = np.fft.irfft(np.fft.rfft(white) * edges, length)
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9)


def pluck(pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise a plucked string: a burst of noise in a delay loop with a low-pass filter (Karplus and Strong)."""
    period = sample_rate / hertz(pitch)
    delay = int(period - 0.5)
    part = period - 0.5 - delay  # fractional delay of the loop, without which high strings are out of tune
    gain = 0.001 ** (period / sample_rate / 2.2)  # decay of 60 dB in 2.2 s, besides the low-pass filter
    taps = gain * np.convolve([0.5, 0.5], [1 - part, part])
    burst = noise_band(f"pluck {pitch}", delay + 2, 0.0, 2000.0, sample_rate)
    burst = burst - np.roll(burst, max(1, delay // 5))  # plucked at a fifth of the string
    string = np.zeros(length + 2 * delay + 2)
    string[: delay + 2] = burst - burst.mean()
    for start in range(delay + 2, length + delay + 2, delay):  # one period of the loop at a time
        turn = slice(start - delay, start)
        string[start : start + delay] = sum(tap * string[turn.start - i : turn.stop - i] for i, tap in enumerate(taps))
    return string[delay + 2 : delay + 2 + length]


def organ(pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise a drawbar organ: six steady harmonics and a slow tremolo."""
    t = np.arange(length) / sample_rate
    tone = np.zeros(length)
    for k, amplitude in DRAWBARS.items():
        if k * hertz(pitch) < min(CEILING, 0.45 * sample_rate):
            tone += amplitude * np.sin(2 * np.pi * k * hertz(pitch) * t)
    return tone * (1 - 0.08 * np.cos(2 * np.pi * 5.8 * t)) * np.minimum(1, t / 0.018)


def reed(pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise an accordion: a reed with bright harmonics and a second, slightly sharp reed, so that both beat."""
    t = np.arange(length) / sample_rate
    tone = np.zeros(length)
    for detune in (1.0, 1.0045):
        for k in range(1, 13):
            frequency = k * hertz(pitch) * detune
            if frequency < min(CEILING, 0.45 * sample_rate):
                colour = 0.35 + 1 / (1 + ((frequency - 1100) / 500) ** 2)
                tone += colour / k**0.7 * np.sin(2 * np.pi * frequency * t + k * k)
    return tone * np.minimum(1, t / 0.03)


def bell(pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise a struck bell by frequency modulation (Chowning): bright and inharmonic at first, a soft sine at the end."""
    t = np.arange(length) / sample_rate
    phase = 2 * np.pi * hertz(pitch) * t
    strike = 1.6 * np.exp(-t / 0.25) * np.sin(3.5 * phase)
    return (np.sin(phase + strike) + 0.35 * np.sin(2.0 * phase) * np.exp(-t / 0.3)) * np.exp(-t / 0.75)


def bass(pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise a bass guitar: ten harmonics, of which higher ones decay faster."""
    t = np.arange(length) / sample_rate
    k = np.arange(1, 11)[:, None]
    tone = np.sin(2 * np.pi * k * hertz(pitch) * t) * np.exp(-t * (0.7 + 0.9 * k)) / k**0.9
    return tone.sum(0)


def drum(name: str, length: int, sample_rate: int) -> np.ndarray:
    """Synthesise a drum stroke: kick, tom, snare, brush, hat or open (hat), intentionally darker than real drums."""
    t = np.arange(length) / sample_rate
    if name in ("kick", "tom"):
        low, high, ring = (48.0, 90.0, 0.11) if name == "kick" else (95.0, 70.0, 0.16)
        phase = 2 * np.pi * (low * t + high * 0.035 * (1 - np.exp(-t / 0.035)))  # the frequency falls from low + high to low
        click = noise_band(name, length, 900.0, 3000.0, sample_rate) * np.exp(-t / 0.006)
        return 1.1 * np.sin(phase) * np.exp(-t / ring) + 0.18 * click
    low, high, decay, level = {
        "snare": (700.0, 4200.0, 0.075, 0.42),
        "brush": (1200.0, 4000.0, 0.09, 0.30),
        "hat": (2600.0, 5500.0, 0.035, 0.34),
        "open": (2400.0, 5500.0, 0.14, 0.28),
    }[name]
    stroke = level * noise_band(name, length, low, high, sample_rate) * np.exp(-t / decay)
    if name == "brush":
        stroke *= np.minimum(1, t / 0.03)
    if name == "snare":
        stroke += 0.5 * np.sin(2 * np.pi * 185 * t) * np.exp(-t / 0.06)
    return stroke


PITCHED = {"pluck": pluck, "organ": organ, "reed": reed, "bell": bell, "bass": bass}


@lru_cache(maxsize=1500)
def note(instrument: str, pitch: int, length: int, sample_rate: int) -> np.ndarray:
    """Return one note, float32 (length,), read-only; it begins and ends at zero, and all pitched notes are equally loud.

    `instrument` is a key of PITCHED or the name of a drum. A drum ignores `pitch`.
    """
    if instrument in PITCHED:
        tone = PITCHED[instrument](pitch, length, sample_rate)
        tone = tone * (LOUDNESS / (np.sqrt(np.mean(tone[: sample_rate // 4] ** 2)) + 1e-9))
    else:
        tone = drum(instrument, length, sample_rate)
    rise, fall = min(length, sample_rate // 700), min(length, sample_rate // 30)
    tone[:rise] *= np.arange(rise) / rise
    tone[length - fall :] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(fall) + 1) / fall)
    tone = tone.astype(np.float32)
    tone.flags.writeable = False
    return tone
