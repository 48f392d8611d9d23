"""Figures of a reconstruction: each gets worse with the fault that it is there to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_prep.synthetic import songs, voice
from data_prep.synthetic.annotation import annotate_song
from data_prep.synthetic.instruments import hertz
from data_prep.synthetic.songs import make_song
from jukebox.evaluation import reconstruction as R

RATE, SECONDS = 22050, 10.0


@pytest.fixture(scope="module")
def song():
    return make_song(7, seconds=SECONDS, artist="Harbour Lights", genre="rock")


@pytest.fixture(scope="module")
def truth(song):
    return R.synthetic_truth(song.annotation)


def smeared(audio: np.ndarray, window: int = 2048) -> np.ndarray:
    """Magnitudes as they are, phases at random: strokes fill their window."""
    x, hann = torch.from_numpy(audio), torch.hann_window(window)
    spectrum = torch.stft(x, window, window // 4, window=hann, return_complex=True)
    turn = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0)) * 6.2832
    return torch.istft(torch.polar(spectrum.abs(), turn), window, window // 4, window=hann, length=len(audio)).numpy()


def test_the_notes_of_the_truth_are_those_that_are_sung(song, truth, monkeypatch):
    sung = {}
    real = songs.sing

    def record(line, *args):
        sung.update({round(syllable.start, 6): hertz(syllable.pitch) for syllable in line})
        return real(line, *args)

    monkeypatch.setattr(songs, "sing", record)
    make_song(7, seconds=SECONDS, artist=song.artist, genre=song.genre)
    starts = np.array(list(sung))
    assert len(truth.notes) > 5
    for note in truth.notes:
        start = starts[np.abs(starts + R.VIBRATO_FROM - note.start).argmin()]
        assert note.start == pytest.approx(start + R.VIBRATO_FROM, abs=0.01) and note.hz == pytest.approx(sung[start])


def test_the_true_vibrato_is_found(song, truth):
    assert 0.9 < R.vibrato_gain(song.audio[0], RATE, truth.notes) < 1.1


def test_a_voice_without_vibrato_has_less(song, truth, monkeypatch):
    real = voice.controls

    def steady(line, *args):
        pitch, *rest = real(line, *args)
        kernel = np.ones(36) / 36  # one period of the vibrato
        return np.exp(np.convolve(np.pad(np.log(pitch), (18, 17), "edge"), kernel, "valid")), *rest

    monkeypatch.setattr(voice, "controls", steady)
    flat = make_song(7, seconds=SECONDS, artist=song.artist, genre=song.genre)
    assert R.vibrato_gain(flat.audio[0], RATE, truth.notes) < 0.4


def test_vibrato_of_another_tune_is_not_found(song):
    other = R.synthetic_truth(annotate_song(11, seconds=SECONDS, artist="Glass Orchard", genre="waltz"))
    assert R.vibrato_gain(song.audio[0], RATE, other.notes) < 0.8


def test_vibrato_without_notes_is_unknown(song):
    assert np.isnan(R.vibrato_gain(song.audio[0], RATE, ()))


def test_strokes_stand_where_the_truth_says(song, truth):
    envelope = R.band_envelope(song.audio[0], RATE, *R.STROKE_BAND)
    at = [round(second * RATE) for second in truth.strokes if second > 0.1]
    after, before = (np.mean([envelope[a + d : a + d + 400].mean() for a in at]) for d in (80, -800))
    assert after > 3 * before


def test_smeared_strokes_rise_slowly(song, truth):
    original, worse = (np.median(R.rise_times(x, RATE, truth.strokes)) for x in (song.audio[0], smeared(song.audio[0])))
    assert worse > 2 * original


def test_the_rise_time_of_a_ramp_is_measured():
    t = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 4000 * t)
    made = [R.rise_times((tone * np.clip((t - 0.5) * 1000 / ms, 0, 1)).astype(np.float32), RATE, [0.5])[0] for ms in (10, 30)]
    assert made == pytest.approx([8, 24], abs=2)


def test_an_original_has_no_false_partials_and_added_lines_are_counted(song):
    t = np.arange(len(song.audio[0])) / RATE
    veil = 0.004 * sum(np.sin(2 * np.pi * hz * t) for hz in (3333, 3777, 4222, 4555))
    assert R.false_partials(song.audio[0], song.audio[0], RATE) == 0
    assert R.false_partials(song.audio[0], song.audio[0] + veil, RATE) > 1


def test_noise_between_partials_is_leakage_and_louder_music_in_them_is_not(song):
    rng = np.random.default_rng(0)
    assert R.leakage(song.audio[0], song.audio[0], RATE) == pytest.approx(0, abs=1e-5)
    assert R.leakage(song.audio[0], song.audio[0] + 0.01 * rng.standard_normal(len(song.audio[0])), RATE) > 3


def test_figures_without_a_truth_are_two(song, truth):
    assert set(R.reconstruction_figures(song.audio[0], song.audio[0], RATE)) == {"false", "leak_db"}
    assert set(R.reconstruction_figures(song.audio[0], song.audio[0], RATE, truth)) == {
        "false",
        "leak_db",
        "vibrato",
        "rise_ms",
    }
