"""Transposed songs: pitch, length and word times change by one factor, and names lead back to the song."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_prep.align import TimedText
from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from data_prep.manifest import SongRow
from data_prep.transpose import check_semitones, find_transposed, reading_rate, transpose

RATE = 22050
WORDS = (TimedText("la", 1.0, 2.0), TimedText("so", 2.0, 4.0))
ROW = SongRow("a@b.wav", "a@b.wav", 4.0, RATE, 1, "ann", (), "la so", WORDS, "", "train")


def loudest(audio: np.ndarray) -> float:
    """The frequency with the most energy, in Hz at RATE."""
    return float(np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1]))).argmax() * RATE / audio.shape[1])


@pytest.mark.parametrize("semitones", [-3.0, -0.5, 2.0, 12.0])
def test_a_transposed_tone_is_higher_and_shorter_by_one_factor(semitones, tmp_path):
    write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)[None], RATE)
    audio, _ = read(tmp_path / "a.wav", sample_rate=reading_rate(RATE, semitones))
    made = transpose(ROW, semitones)
    assert abs(audio.shape[1] / RATE - made.seconds) < 1e-3 and abs(loudest(audio) - 440 * 4 / made.seconds) < 1
    assert made.word_times[1] == TimedText("so", made.seconds / 2, made.seconds)


def test_the_name_of_a_transposed_song_leads_back_to_its_row():
    rows = {ROW.song: ROW, "c.wav": replace(ROW, song="c.wav")}
    for semitones in (-2.0, 0.5):
        made = transpose(ROW, semitones)
        assert find_transposed([ROW.song, made.song, "c.wav", "c.wav@x", "d.wav@+2"], rows) == {made.song: made}


@pytest.mark.parametrize("wrong", [0.0, 12.5, -13.0, float("nan")])
def test_other_numbers_of_semitones_are_mistakes(wrong):
    check_semitones([-12.0, 12.0])
    with pytest.raises(UserError, match="--semitones has"):
        check_semitones([2.0, wrong])
