"""Metrics of one piece, each beside a control that must be worse. Orders are compared, not values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from data_prep.align import TimedText
from data_prep.synthetic import voice
from data_prep.synthetic.band import ARTISTS, GENRES
from data_prep.synthetic.songs import make_song
from jukebox.evaluation import sound as S
from jukebox.evaluation.recogniser import train_recogniser
from jukebox.song import Song

RATE, SECONDS = 22050, 16.0


def synthetic(seed: int, artist: int, genre: int) -> S.EvaluatedSong:
    made = make_song(seed, seconds=SECONDS, artist=ARTISTS[artist].name, genre=GENRES[genre].name)
    times = tuple(TimedText(*word) for word in made.words)
    return S.EvaluatedSong(made.audio[0], Song(made.artist, (made.genre,), made.lyrics, times, SECONDS))


@pytest.fixture(scope="module")
def songs() -> list[S.EvaluatedSong]:
    return [synthetic(40 + i, i % 4, i % 3) for i in range(6)]


def mean(values) -> float:
    return float(np.mean(list(values)))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def bar_of(song: Song) -> float:
    genre = S.named_genre(song)
    assert genre
    return genre.bar * genre.beat


def test_the_tempo_is_its_genre_s_and_no_other_s(songs):
    right = {g.name: [S.tempo_is_right(s.audio, RATE, g.bpm) for s in songs if g.name in s.song.genres] for g in GENRES}
    wrong = [S.tempo_is_right(s.audio, RATE, g.bpm) for g in GENRES for s in songs if g.name not in s.song.genres]
    assert mean(map(mean, right.values())) > 0.8 > 0.1 >= mean(wrong)


def test_half_and_double_tempo_count_and_other_ratios_do_not():
    t = np.arange(10 * RATE) / RATE
    clicks = (np.sin(2 * np.pi * 900 * t) * np.exp(-40 * (t % 0.5))).astype(np.float32)  # 120 a minute
    assert [S.tempo_is_right(clicks, RATE, bpm) for bpm in (60, 120, 240, 90, 180, 110)] == [True] * 3 + [False] * 3


def test_more_peaks_are_in_the_scale_than_of_noise_or_of_shuffled_frames(songs):
    artists = [artist for s in songs if (artist := S.named_artist(s.song))]
    true = mean(S.in_scale(s.audio, RATE, a.scale, a.tonics) for s, a in zip(songs, artists))
    frames = [S.shuffled(s.audio, RATE // 20, rng()) for s in songs]
    false = mean(S.in_scale(audio, RATE, a.scale, a.tonics) for audio, a in zip(frames, artists))
    noise = rng().standard_normal(len(frames[0])).astype(np.float32)
    assert true > false + 0.05 and true > S.in_scale(noise, RATE, ARTISTS[0].scale, ARTISTS[0].tonics) + 0.15


def test_the_strokes_of_a_song_are_sharp_and_noise_has_none(songs):
    rock = songs[1].audio
    burst = rng().standard_normal(800) * np.hanning(800)
    smeared = np.fft.irfft(np.fft.rfft(rock) * np.fft.rfft(burst, len(rock)), len(rock)).astype(np.float32)
    assert S.attack(smeared, RATE) > 2 * S.attack(rock, RATE)
    assert S.attack(S.coloured_noise(rock), RATE) > 2 * S.attack(rock, RATE)


def test_true_stroke_times_may_be_given(songs):
    beat = S.GENRES[1].beat
    at = [beat * i for i in range(4, 20)]  # a hat on every beat
    assert S.attack(songs[1].audio, RATE, at) < 10


def test_a_voice_moves_and_a_voice_on_quantised_pitch_does_not(songs, monkeypatch):
    real = voice.controls

    def quantised(line, *args):
        pitch, *rest = real(line, *args)
        return 440 * 2 ** (np.round(12 * np.log2(pitch / 440)) / 12), *rest

    monkeypatch.setattr(voice, "controls", quantised)
    flat = synthetic(41, 1, 1)
    assert S.moving_pitch(songs[1].audio, RATE) > 4 * S.moving_pitch(flat.audio, RATE)
    assert S.moving_pitch(songs[1].audio, RATE) > 4 * S.moving_pitch(S.coloured_noise(songs[1].audio), RATE)


def test_a_progression_repeats_after_four_bars_and_in_another_order_it_does_not(songs):
    true = mean(S.progression(s.audio, RATE, bar_of(s.song)) for s in songs)
    parts = [(S.shuffled(s.audio, round(bar_of(s.song) * RATE), rng()), bar_of(s.song)) for s in songs]
    assert true > 0.15 + mean(S.progression(audio, RATE, bar) for audio, bar in parts)


def test_a_progression_needs_five_bars(songs):
    assert math.isnan(S.progression(songs[0].audio[: 3 * RATE], RATE, 1.0))


@pytest.mark.parametrize("length", [0, 1, 7, 20])
def test_the_longest_shared_run_is_that_which_was_planted(length):
    training = [rng().integers(0, 512, (n, 2)) for n in (90, 50, 70)]
    codes = np.random.default_rng(1).integers(600, 900, (40, 2))
    codes[11 : 11 + length] = training[1][20 : 20 + length]
    assert S.longest_shared_run(codes, training) == length


def test_a_run_is_of_one_song_and_of_all_books():
    training = [np.arange(20).reshape(10, 2), 100 + np.arange(20).reshape(10, 2)]
    assert S.longest_shared_run(np.concatenate([training[0][5:], training[1][:3]]), training) == 5
    assert S.longest_shared_run(training[0] + [0, 1], training) == 0


def test_a_copy_is_nearest_and_a_transposed_copy_is_not(songs):
    tracks = [S.chroma_track(s.audio, RATE) for s in songs[:4]]
    copy = S.nearest_song(songs[1].audio[3 * RATE : 12 * RATE], RATE, tracks)
    transposed = S.nearest_song(songs[1].audio[3 * RATE : 12 * RATE], RATE, [track.roll(1, 0) for track in tracks])
    assert copy < 0.05 < 0.1 < transposed and copy < S.nearest_song(songs[5].audio, RATE, tracks)


def test_controls_of_codes_keep_what_they_should():
    codes = rng().integers(0, 9, (50, 2))
    moved = S.shuffled_codes(codes, rng())
    assert sorted(map(tuple, moved)) == sorted(map(tuple, codes)) and (moved != codes).any()
    drawn = S.unigram_codes([codes * 2, codes * 2], 30, rng())
    assert drawn.shape == (30, 2) and (drawn % 2 == 0).all()


def test_a_collage_is_made_of_pieces_of_training_songs():
    training = [np.arange(1000, dtype=np.float32)[None], 5000 + np.arange(1000, dtype=np.float32)[None]]
    made = S.collage(training, 250, 100, rng())
    assert made.shape == (1, 250) and (np.diff(made[0, :100]) == 1).all() and (np.diff(made[0, 100:200]) == 1).all()


def test_controls_have_rows_beside_the_songs_and_are_worse(songs):
    recogniser = train_recogniser([(s.audio, s.song) for s in songs], RATE, steps=20)
    training = S.TrainingSongs([S.chroma_track(songs[0].audio, RATE)], [np.zeros((9, 1), int)])
    held = [s._replace(codes=np.zeros((4, 1), int), original=s.audio) for s in songs[:2]]
    groups = {"songs": held} | S.control_pieces(held, [s.audio for s in songs], RATE)
    rows = {row["what"]: row for row in json.loads(json.dumps(S.song_rows(groups, recogniser, training), allow_nan=False))}
    assert rows["songs"]["vowels"] > rows["another song's lyrics"]["vowels"]
    assert rows["songs"]["genre"] > rows["another's labels"]["genre"]
    assert rows["songs"]["shared_s"] == SECONDS and rows["bars shuffled"]["shared_s"] is None
    assert rows["songs"]["tempo_se"] is not None and rows["songs"]["leak_db"] == pytest.approx(0, abs=1e-4)
    lines = S.song_table(list(rows.values())).splitlines()
    assert len(lines) == 2 + len(rows) == 2 + 7 and "moving_pitch" in lines[0]
