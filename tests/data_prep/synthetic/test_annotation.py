"""The annotation of a synthetic song agrees with its audio, for each character and bar."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.synthetic.annotation import annotate_song, song_seconds
from data_prep.synthetic.band import ARTISTS, GENRES
from data_prep.synthetic.songs import make_song
from data_prep.synthetic.voice import NOISE, VOICED, plain


def test_every_letter_that_sounds_has_a_span_and_the_spans_fill_the_word():
    words = annotate_song(3, lyrics="the gol-den river\nwill I'm é 123 sing").words
    assert [word.text for word in words] == ["the", "gol-den", "river", "will", "I'm", "é", "123", "sing"]
    for word in words:
        spans = word.characters
        assert [c for c, _, _ in spans] == [c for c in plain(word.text) if c in VOICED or c in NOISE]
        assert all(end == pytest.approx(start) for (_, _, end), (_, start, _) in pairwise(spans))
        if spans:
            assert spans[0][1] == pytest.approx(word.start) and spans[-1][2] == pytest.approx(word.end)


def test_chords_are_one_a_bar_up_to_the_last_which_is_the_tonic():
    for seed in range(12):
        song = annotate_song(seed, seconds=13.7)
        assert (len(song.chords) - 1) * song.bar_seconds <= 13.7 < len(song.chords) * song.bar_seconds
        assert set(song.chords) <= set(range(7)) and song.chords[-1] == 0
        assert song.bar_seconds == pytest.approx(60 / song.bpm * song.bar_beats)
        artist = next(each for each in ARTISTS if each.name == song.artist)
        assert song.scale == artist.scale and song.tonic in artist.tonics
        assert {(p - song.tonic) % 12 for bar in range(len(song.chords)) for p in song.score.chord(bar)} <= set(song.scale)


def chroma(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """The power (12,) of each pitch class between 60 and 1000 Hz."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    frequency = np.fft.rfftfreq(len(sound), 1 / sample_rate)
    heard = (frequency > 60) & (frequency < 1000)
    classes = np.rint(69 + 12 * np.log2(frequency[heard] / 440)).astype(int) % 12
    return np.bincount(classes, power[heard], minlength=12)


def test_the_chords_of_an_annotation_are_those_of_the_audio():
    true, shifted = [], []
    for seed in range(4):
        song = make_song(seed, seconds=12.0, lyrics="", artist=ARTISTS[seed % 2].name)  # no drone, which holds one chord
        length = round(song.annotation.bar_seconds * song.sample_rate)
        for bar in range(1, len(song.annotation.chords) - 1):
            power = chroma(song.audio[0, bar * length : (bar + 1) * length], song.sample_rate)
            pitches = [p % 12 for p in song.annotation.score.chord(bar)]
            true.append(power[pitches].sum() / power.sum())
            shifted.append(power[[(p + 1) % 12 for p in pitches]].sum() / power.sum())
    assert np.mean(true) > 0.6 > 0.3 > np.mean(shifted)


def test_lengths_are_log_uniform_between_the_shortest_and_the_longest():
    lengths = np.array([song_seconds((4.0, 64.0), seed) for seed in range(400)])
    assert lengths.min() >= 4.0 and lengths.max() <= 64.0
    share = np.histogram(np.log2(lengths), bins=[2, 3, 4, 5, 6])[0] / 400
    assert share == pytest.approx(np.full(4, 0.25), abs=0.07)
    assert song_seconds(7.0, 3) == 7.0 and song_seconds((7.0, 7.0), 3) == pytest.approx(7.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, (0.0, 3.0), (4.0, 3.0)])
def test_a_length_that_is_none_is_an_error(seconds):
    with pytest.raises(UserError, match="expected a length above 0"):
        annotate_song(0, seconds=seconds)


def test_what_is_drawn_depends_on_the_seed_alone_and_may_be_named():
    song = annotate_song(5, seconds=9.0)
    assert song == annotate_song(5, seconds=9.0) != annotate_song(6, seconds=9.0)
    assert song == annotate_song(5, seconds=9.0, artist=song.artist, genre=song.genre, lyrics=song.lyrics)
    assert {annotate_song(seed, seconds=1.0).genre for seed in range(20)} == {genre.name for genre in GENRES}
