"""Beats and onsets of made sounds, whose times are known."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep import beats
from data_prep.audio.audio import write_wav


def clicks(times: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """Decaying tones over a little noise, one at each time."""
    sound = np.random.default_rng(0).normal(0, 1e-3, round(seconds * rate)).astype(np.float32)
    at = np.arange(rate // 2) / rate
    for time in times:
        begin = round(time * rate)
        part = (0.6 * np.exp(-20 * at) * np.sin(2 * np.pi * 880 * at)).astype(np.float32)[: len(sound) - begin]
        sound[begin : begin + len(part)] += part
    return sound


@pytest.mark.long  # librosa takes seconds to import, and compiles what finds peaks, some 15 seconds
def test_notes_begin_where_they_do(tmp_path):
    times = np.array([0.5, 1.1, 1.4, 2.6, 3.9])
    write_wav(tmp_path / "song.wav", clicks(times, 5.0, 44100)[None], 44100)
    found = beats.find_onsets(tmp_path / "song.wav")
    assert len(found) == len(times) and np.abs(found - times).max() < 0.06


@pytest.mark.long
def test_strength_in_pieces_is_that_of_the_whole(monkeypatch):
    sound = clicks(np.arange(0.3, 11.5, 0.41), 12.0, beats.RATE)
    whole = beats._strength(iter([sound]))
    monkeypatch.setattr(beats, "PIECE", 64 * beats.HOP)
    pieces = beats._strength(iter(np.array_split(sound, 50)))
    assert len(pieces) == len(whole) == len(sound) // beats.HOP
    assert np.abs(pieces - whole).max() < 0.02 * whole.max()
    assert len(beats._strength(iter([]))) == 0


@pytest.mark.long  # and its tracker
@pytest.mark.parametrize("tempo", [90.0, 120.0, 126.0])  # the tracker's own steps there: 123.0, 129.2
def test_beats_are_found_at_their_tempo(tmp_path, tempo):
    times = np.arange(0.4, 20.0, 60 / tempo)
    write_wav(tmp_path / "song.wav", clicks(times, 20.0, 44100)[None], 44100)
    pulse = beats.find_beats(tmp_path / "song.wav")
    assert abs(pulse.tempo / tempo - 1) < 0.01
    near = np.abs(pulse.beats[:, None] - times[None]).min(axis=1)
    assert np.median(near) < 0.05 and len(pulse.beats) > 0.8 * len(times)
    silent = beats.pulse_of(np.zeros(22050, np.float32), 22050)
    assert silent.tempo == 0 and not len(silent.beats)
