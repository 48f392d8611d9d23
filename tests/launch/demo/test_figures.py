"""Parts of songs as pieces: their words, their codes and what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.align import TimedText
from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.song import Song
from launch.demo.figures import Corpus, cut_song, recogniser, truth_of
from launch.demo.lanes import RECOGNISER

from .conftest import LENGTHS


@pytest.fixture
def corpus(seed_folder) -> Corpus:
    return Corpus(ModelFolder.from_pretrained(seed_folder / "model"), seed_folder / "data")


def test_the_words_of_a_part_are_those_inside_it_from_its_beginning():
    song = Song(word_times=(TimedText("la", 0.5, 1.5), TimedText("lo", 2.0, 2.5), TimedText("lu", 2.5, 3.5)))
    assert cut_song(song, 1.0, 2.0).word_times == (TimedText("lo", 1.0, 1.5),)


def test_the_beginning_of_a_song_has_codes_and_another_part_has_none(corpus):
    first, later = (corpus.piece(corpus.held[0], 2.0, start) for start in (0.0, 1.0))
    assert first.codes is not None and len(first.codes) == 2 * 22050 // corpus.model.spec.stream("tokens").hop
    assert later.codes is None and np.abs(first.audio[:, 22050:] - later.audio[:, :22050]).max() < 1e-6


def test_the_truth_of_a_song_is_that_of_its_corpus_and_no_other_s(corpus):
    assert truth_of(corpus.held[0], 0, LENGTHS).strokes
    with pytest.raises(UserError, match="corpus of seed 1"):
        truth_of(corpus.held[0], 1, LENGTHS)


def test_training_songs_and_held_out_songs_are_different_songs(corpus):
    training = corpus.training()
    assert len(training.codes) == len(training.tracks) == len(corpus.train) > 0 and training.features is not None
    assert not {row.song for row in corpus.train} & {row.song for row in corpus.held}


def test_a_recogniser_that_is_there_is_kept(seed_folder, capsys):
    before = (seed_folder / RECOGNISER).read_bytes()
    recogniser(str(seed_folder / "data"), out=str(seed_folder / RECOGNISER), seed=9)
    assert (seed_folder / RECOGNISER).read_bytes() == before and "recogniser " in capsys.readouterr().out
