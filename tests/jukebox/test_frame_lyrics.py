"""What is sung, frame by frame: the token at each place of a window, silence, several songs, pieces of words, what training drops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from data_prep.align import TimedText
from data_prep.labels import Labels
from jukebox.model.presets import find
from jukebox.song import ConditionDropout, PreparedSong, Song, window_conditions
from priors.conditioning.conditions import SungFrames, stack
from priors.conditioning.vocabulary import PLAIN, Characters, SentencePieceVocabulary, Vocabulary

LABELS = Labels(("unknown", "ann", "bob"), ("unknown", "rock", "waltz"), None)
# windows of 32 frames of 256 samples at 22,050 Hz: 0.372 s, with two places in each frame
CONFIG: Any = find("test_spectral").priors["tokens"].for_corpus(3, 3)
PLACES, PLACE = 64, 128 / 22050
VOCABULARY = Characters(PLAIN)


def prepared(song: Song, vocabulary: Vocabulary = VOCABULARY) -> PreparedSong:
    return PreparedSong.of(song, LABELS, vocabulary, 22050)


def sung(song: PreparedSong, start: int = 0, **training: Any) -> SungFrames:
    found = window_conditions(song, CONFIG, start, **training).sung
    assert found is not None and found.ids.shape == found.left.shape == (1, PLACES)
    return found


def timed(text: str, *times: tuple[float, float]) -> Song:
    """Words with times that are given in places of a window."""
    words = [TimedText(word, a * PLACE, b * PLACE) for word, (a, b) in zip(text.split(), times, strict=True)]
    return Song("ann", (), text, tuple(words), 10.0)


def text_at(found: SungFrames, vocabulary: Vocabulary = VOCABULARY) -> list[str]:
    return [vocabulary.decode([number]) if number else "." for number in found.ids[0].tolist()]


def test_the_characters_of_a_word_share_its_time_evenly_and_between_words_is_silence():
    found = sung(prepared(timed("abcd ef", (8, 24), (40, 44))))
    assert "".join(text_at(found)) == "." * 8 + "aaaabbbbccccdddd" + "." * 16 + "eeff" + "." * 20
    assert torch.allclose(found.left[0, 8:24], 1 - (torch.arange(16) + 0.5) / 16, atol=1e-5)
    assert found.left[0, 40:44].tolist() == pytest.approx([0.875, 0.625, 0.375, 0.125], abs=1e-4)
    assert (found.left[found.ids == 0] == 0).all()


def test_a_window_that_begins_later_has_what_is_sung_then():
    song = prepared(timed("abcd ef", (8, 24), (40, 44)))
    whole = sung(song)
    for start in (3, 10, 20):  # frames, of two places
        later = sung(song, start)
        kept = PLACES - 2 * start
        assert torch.equal(later.ids[0, :kept], whole.ids[0, 2 * start :]) and not later.ids[0, kept:].any()
        assert torch.allclose(later.left[0, :kept], whole.left[0, 2 * start :], atol=1e-4)
    assert not sung(song, 1000).ids.any()


def test_words_may_come_in_any_order_overlap_and_be_without_times():
    swapped = "".join(text_at(sung(prepared(timed("ab cd", (20, 24), (4, 8))))))
    assert swapped[:24] == "....ccdd" + "." * 12 + "aabb"
    overlapping = text_at(sung(prepared(timed("aaaa bb", (0, 16), (8, 12)))))
    assert overlapping[:8] == ["a"] * 8 and overlapping[8:12] == ["b"] * 4  # of two words the one that began last
    assert not sung(prepared(Song(lyrics="la la", seconds=10.0))).ids.any()
    assert not sung(prepared(Song(seconds=10.0))).ids.any()
    assert not sung(prepared(timed("ab", (8, 8)))).ids.any()  # of no length
    partly = Song(
        lyrics="ab xy cd", word_times=(TimedText("ab", 0.0, 4 * PLACE), TimedText("cd", 8 * PLACE, 12 * PLACE)), seconds=9
    )
    assert "".join(text_at(sung(prepared(partly))))[:12] == "aabb....ccdd"


def test_plain_lyrics_are_sung_where_they_are_placed():
    song = Song(lyrics="la li\nlu", seconds=8.0).placed(LABELS)
    first = song.word_times[0]
    start = int((first.start + first.end) / 2 / (2 * PLACE)) - CONFIG.n_ctx // 2
    assert text_at(sung(prepared(song), start))[PLACES // 2] in "la"


def test_every_song_of_a_batch_has_its_own_words():
    songs = [prepared(timed("ab", (0, 4))), prepared(Song(seconds=9.0)), prepared(timed("cd", (2, 6)))]
    together = stack([window_conditions(song, CONFIG, 0) for song in songs]).sung
    assert together is not None and together.ids.shape == (3, PLACES)
    for row, song in enumerate(songs):
        assert torch.equal(together.ids[row], sung(song).ids[0]) and torch.equal(together.left[row], sung(song).left[0])


def test_pieces_of_words_are_sung_for_their_share_of_the_word():
    vocabulary = SentencePieceVocabulary.train(["the river carries all our names\nwe sing until the morning light"] * 4, 300)
    song = prepared(timed("the river", (0, 6), (16, 40)), vocabulary)
    found, tokens = sung(song), vocabulary.encode("the river")
    assert len(tokens.ids) > 3  # some words are several pieces
    river = [int(i) for i, at in zip(tokens.ids, tokens.positions, strict=True) if at >= 4]
    assert not found.ids[0, 6:16].any() and not found.ids[0, 40:].any()
    there = found.ids[0, 16:40].tolist()
    assert list(dict.fromkeys(there)) == list(dict.fromkeys(river)) and len(there) == 24
    counts = np.bincount(np.searchsorted(np.arange(1, len(river)) * 24 / len(river), np.arange(24) + 0.5, side="right"))
    assert [there[i] for i in np.cumsum(counts) - 1] == river


@pytest.mark.parametrize("dropout", [ConditionDropout(lyrics=1.0), ConditionDropout(times=1.0)])
def test_lyrics_and_their_times_are_dropped_in_training_only(dropout):
    song = prepared(timed("abcd", (0, 40)))
    assert not sung(song, dropout=dropout, rng=np.random.default_rng(0)).ids.any()
    assert torch.equal(sung(song, dropout=dropout).ids, sung(song).ids)
    half = ConditionDropout(lyrics=0.5)
    rng = np.random.default_rng(0)
    share = np.mean([sung(song, dropout=half, rng=rng).ids.any().item() for _ in range(200)])
    assert 0.4 < share < 0.6


def test_jitter_moves_all_words_of_a_window_together():
    song, rng = prepared(timed("a b c", (10, 20), (30, 40), (50, 60))), np.random.default_rng(0)
    shifts = []
    for _ in range(50):
        ids = sung(song, dropout=ConditionDropout(jitter=2 * PLACE), rng=rng).ids[0]
        begins = np.flatnonzero(np.diff(ids.numpy(), prepend=0) > 0)
        assert begins.tolist() == [begins[0], begins[0] + 20, begins[0] + 40]
        shifts.append(begins[0] - 10)
    assert 1 < np.std(shifts) < 3 and abs(np.mean(shifts)) < 1
