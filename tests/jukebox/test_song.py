"""A song as conditions: the right characters at the right seconds, and optional conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_prep.align import TimedText
from data_prep.labels import Labels
from jukebox.model.presets import find
from jukebox.song import ConditionDropout, PreparedSong, Song, window_conditions
from priors.conditioning.vocabulary import PLAIN, Characters

LABELS = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None)
# windows of 32 codes of 128 samples at 22,050 Hz: 0.186 s; 16 characters
CONFIG = find("test").priors["prior_2"].for_corpus(3, 3)
VOCABULARY = Characters(PLAIN)
STEP = 128 / 22050


def prepared(song: Song) -> PreparedSong:
    return PreparedSong.of(song, LABELS, VOCABULARY, 22050)


def words(count: int) -> Song:
    """Words of four characters, one per second."""
    text = " ".join("abcdefghij"[i % 10] * 4 for i in range(count))
    return Song(
        "ann", ("rock",), text, tuple(TimedText(w, float(i), i + 1.0) for i, w in enumerate(text.split())), float(count)
    )


@pytest.mark.parametrize("second", [0, 3, 7, 19])
def test_a_window_hears_the_letters_that_are_sung_in_it_at_their_seconds(second):
    song = prepared(words(20))
    start = round((second + 0.4) / STEP)
    lyrics = window_conditions(song, CONFIG, start).lyrics
    near = lyrics.seconds[0].abs().nan_to_num(99).argmin()
    assert VOCABULARY.decode([lyrics.ids[0, near]]) == "abcdefghij"[second % 10]
    at = (song.seconds - start * STEP)[np.flatnonzero(song.ids == lyrics.ids[0, near].item())]
    assert np.abs(at - lyrics.seconds[0, near].item()).min() < 1e-3


def test_lyrics_without_times_are_spread_over_the_song_and_short_ones_are_padded_on_the_left():
    song = prepared(Song(lyrics="abcdefghijklmnopqrstuvwxyz" * 4, seconds=100.0))
    firsts = [window_conditions(song, CONFIG, round(s / STEP)).lyrics for s in (0, 50, 99)]
    assert [VOCABULARY.decode(x.ids[0][:3]) for x in firsts] == ["abc", "pqr"[:0] + VOCABULARY.decode(song.ids[44:47]), "klm"]
    assert all(x.seconds.isnan().all() for x in firsts)
    short = window_conditions(prepared(Song(lyrics="abc", seconds=9.0)), CONFIG, 0).lyrics
    assert short.ids[0, :13].eq(0).all() and VOCABULARY.decode(short.ids[0]) == "abc"


def test_plain_lyrics_are_placed_before_they_are_sung():
    song = Song("ann", ("rock",), "la la\nli li", seconds=8.0)
    placed = song.placed(LABELS)
    assert len(placed.word_times) == 4 and 0 <= placed.word_times[0].start < placed.word_times[-1].end <= 8
    assert placed.placed(LABELS) is placed and Song().placed(LABELS).word_times == ()


def test_labels_timing_and_absence():
    cond = window_conditions(prepared(words(20)), CONFIG, 100)
    assert cond.artist.tolist() == [1] and cond.genres[0, 0].item() == 1 and (cond.genres[0, 1:] == -1).all()
    assert cond.timing.tolist() == [[20 * 22050, 12800, 32 * 128]]
    bare = window_conditions(prepared(Song(seconds=20.0)), CONFIG, 100)
    assert bare.artist.tolist() == [0] and bare.lyrics.ids.eq(0).all() and bare.lyrics.seconds.isnan().all()


def test_wear_drops_and_jitters_in_training_only():
    song, dropout = prepared(words(20)), ConditionDropout(labels=1.0, lyrics=1.0)
    gone = window_conditions(song, CONFIG, 100, dropout=dropout, rng=np.random.default_rng(0))
    assert gone.artist.tolist() == [0] and gone.genres[0, 0].item() == 0 and gone.lyrics.ids.eq(0).all()
    kept = window_conditions(song, CONFIG, 100, dropout=dropout)  # no generator: not training
    assert kept.artist.tolist() == [1] and kept.lyrics.ids.ne(0).any()
    timeless = window_conditions(song, CONFIG, 100, dropout=ConditionDropout(times=1.0), rng=np.random.default_rng(0)).lyrics
    assert timeless.seconds.isnan().all() and timeless.ids.ne(0).any()
    shaken = window_conditions(song, CONFIG, 100, dropout=ConditionDropout(jitter=0.1), rng=np.random.default_rng(0)).lyrics
    differences = (shaken.seconds - kept.lyrics.seconds)[~torch.isnan(kept.lyrics.seconds)]
    assert 0.03 < differences.std().item() < 0.3
