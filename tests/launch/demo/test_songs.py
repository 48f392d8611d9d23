"""What the songs of the evidence are asked to be, and that a second call samples nothing again."""

from __future__ import annotations

import pytest

from data_prep.synthetic.annotation import SENTENCES, WORDS
from data_prep.synthetic.voice import split_syllables
from jukebox import Jukebox
from jukebox.runs.run import Run
from launch.demo.songs import UNSEEN, requested, sample_songs, unseen_words, untrained_model

from .conftest import PLAN


def test_three_seeds_of_four_songs_have_each_artist_with_each_genre():
    assert len({(s.artist, s.genre) for s in (requested(seed, i, 5.0) for seed in range(3) for i in range(4))}) == 12


def test_no_unseen_word_is_of_the_corpus_and_each_has_the_syllables_that_it_is_listed_with():
    corpus = {word for words in WORDS.values() for word in words} | {word for line in SENTENCES for word in line.split()}
    assert not corpus & {word for words in UNSEEN.values() for word in words}
    assert {len(split_syllables(word)) - count for count, words in UNSEEN.items() for word in words} == {0}


def test_unseen_words_are_sung_at_the_times_of_those_that_they_replace():
    true, other = (requested(1, 2, 20.0, unseen) for unseen in (False, True))
    assert [(w.start, w.end) for w in true.words] == [(w.start, w.end) for w in other.words] and true.lyrics != other.lyrics
    assert unseen_words(true.lyrics, 5) == unseen_words(true.lyrics, 5) != unseen_words(true.lyrics, 6)


def test_every_run_is_made_and_a_second_call_changes_none(sampled):
    names = {"generated", "unseen", "continued_0", "continued_1", "minute", "untrained"}
    files = {path: path.stat().st_mtime_ns for path in (sampled / "songs").glob("*/progress.jsonl")}
    assert {path.parent.name for path in files} == names
    sample_songs(sampled, 0, PLAN)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_continuations_begin_with_the_held_out_songs(sampled):
    run = Run.open(sampled / "songs" / "continued_1")
    assert run.request["prompt"]["seconds"] == pytest.approx(PLAN.prompt, abs=0.1)


def test_the_untrained_prior_has_other_weights_of_the_same_shapes(sampled):
    model = Jukebox.from_pretrained(sampled / "model")
    trained, untrained = (m.prior("tokens").state_dict() for m in (model, untrained_model(model, sampled / "untrained")))
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in untrained.items()}
    assert any(not trained[k].equal(untrained[k]) for k in trained)
