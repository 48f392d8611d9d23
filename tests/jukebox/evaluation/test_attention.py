"""Attention and the true times of the words: the sung characters, and the head that follows them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.align import TimedText
from data_prep.labels import Labels
from jukebox.evaluation.attention import alignment_figures, attention_windows, best_head, by_lines, tokens_sung
from jukebox.evaluation.held_out import HeldOutWindow
from jukebox.model.presets import find
from jukebox.song import PreparedSong, Song
from priors.autoregressive.model import AutoregressivePrior
from priors.conditioning.vocabulary import PLAIN, Characters, SentencePieceVocabulary

LABELS = Labels(("unknown",), ("unknown",), None)
CONFIG = find("test").priors["prior_2"]  # windows of 32 codes of 128 samples at 22,050 Hz: 0.186 s; 16 characters
STEP = 128 / 22050
LINES = ["the moon under river", "we sing", "moon again"]


def sung_by(each: float = 0.12) -> Song:
    """Three lines, a word each 0.12 seconds, half of that silent."""
    text = "\n".join(LINES)
    times = tuple(TimedText(word, i * each, (i + 0.5) * each) for i, word in enumerate(text.split()))
    return Song(lyrics=text, word_times=times, seconds=len(times) * each)


@pytest.mark.parametrize(
    "vocabulary", [Characters(PLAIN), SentencePieceVocabulary.train(["\n".join(LINES)] * 20, 320)], ids=["characters", "pieces"]
)
@pytest.mark.parametrize("start", [0, 40, 90])
def test_the_letters_sung_at_a_step_are_those_of_the_word_whose_time_it_is(vocabulary, start):
    song = sung_by()
    heard = PreparedSong.of(song, LABELS, vocabulary, 22050)
    (told,) = attention_windows([song], [song], LABELS, vocabulary, CONFIG, [HeldOutWindow(0, 0, start)])
    assert torch.equal(told.sung, tokens_sung(song, heard, CONFIG, start)) and told.sung.any()
    for step, lyric_tokens in enumerate(told.sung):
        second = (start + step + 0.5) * STEP
        word = next((w.text for w in song.word_times if w.start <= second < w.end), "")
        text = vocabulary.decode(told.lyrics.ids[0][lyric_tokens]).strip()
        assert text == word or (text and text in word and lyric_tokens[0]) or not lyric_tokens.any(), (text, word)
        assert word or not lyric_tokens.any()


def test_a_song_told_by_lines_keeps_their_first_and_last_second():
    song = by_lines(sung_by())
    assert [time.text for time in song.word_times] == LINES
    assert [time.start for time in song.word_times] == pytest.approx([0.0, 0.48, 0.72])
    assert [time.end for time in song.word_times] == pytest.approx([0.42, 0.66, 0.9])
    assert by_lines(Song()).word_times == ()


def given_windows(count: int = 12) -> tuple[list[Song], list[HeldOutWindow], torch.Tensor]:
    rng = np.random.default_rng(0)
    songs = [replace(sung_by(each), artist=None) for each in (0.1, 0.12, 0.14, 0.16)]
    windows = [HeldOutWindow(i % 4, (i + 1) % 4, int(rng.integers(90))) for i in range(count)]
    return songs, windows, torch.from_numpy(rng.integers(0, 32, (count, 32)))


@pytest.mark.parametrize("sharp", [0, 1])
def test_the_head_that_follows_the_words_is_found_and_scored_on_songs_it_was_not_chosen_on(sharp):
    torch.manual_seed(0)
    prior = AutoregressivePrior(CONFIG).eval()
    slopes = torch.full((2,), -20.0)
    slopes[sharp] = math.log(2000.0)  # seconds count for one head alone
    cross = prior.trunk.blocks[1].attn
    cross.slope.data = slopes
    songs, windows, codes = given_windows()
    told = attention_windows(songs, songs, LABELS, Characters(PLAIN), CONFIG, windows)
    choosing = np.array([w.song % 2 == 0 for w in windows])
    best = best_head(prior, codes, told, choosing)
    assert (best.layer, best.head) == (1, sharp) and len(best.scores) == 6
    assert best.scores.mean() > 0.8
    swapped = [t._replace(sung=t.sung.roll(8, -1)) for t in told]  # on the songs it is scored on, other characters are true
    false = best_head(prior, codes, [s if w.song % 2 else t for t, s, w in zip(told, swapped, windows)], choosing)
    assert (false.layer, false.head) == (1, sharp) and false.scores.mean() < 0.2


def test_without_a_time_bias_there_is_nothing_to_switch_off_and_without_words_no_score():
    torch.manual_seed(0)
    prior = AutoregressivePrior(replace(CONFIG, trunk=replace(CONFIG.trunk, time_bias=False))).eval()
    songs, windows, codes = given_windows()
    figures = alignment_figures(prior, songs, LABELS, Characters(PLAIN), windows, codes, 0)
    assert figures is not None and set(figures["trials"]) == {"another song", "untrained"}
    assert figures["songs"] == 2 and figures["windows"] == 6
    lines = [by_lines(song) for song in songs]  # who knows lines alone does not know which word is sung
    assert alignment_figures(prior, lines, LABELS, Characters(PLAIN), windows, codes, 0) is None
