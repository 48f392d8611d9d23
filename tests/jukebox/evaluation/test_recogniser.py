"""What the recogniser reads in songs that it was not trained on, beside false conditions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from data_prep.align import TimedText
from data_prep.errors import UserError
from data_prep.synthetic.band import ARTISTS, GENRES
from data_prep.synthetic.songs import make_song
from jukebox.evaluation.recogniser import (
    CONSONANT,
    SILENT,
    Recogniser,
    frame_classes,
    label_accuracy,
    train_recogniser,
    vowel_accuracy,
)
from jukebox.song import Song

RATE = 22050


def synthetic(seed: int, artist: int, genre: int) -> tuple[np.ndarray, Song]:
    made = make_song(seed, seconds=8.0, artist=ARTISTS[artist].name, genre=GENRES[genre].name)
    times = tuple(TimedText(*word) for word in made.words)
    return made.audio[0], Song(made.artist, (made.genre,), made.lyrics, times, 8.0)


def corpus(count: int, seed: int = 0) -> list[tuple[np.ndarray, Song]]:
    return [synthetic(seed + i, i % 4, i // 4 % 3) for i in range(count)]


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return train_recogniser(corpus(16), RATE, steps=60)


@pytest.fixture(scope="module")
def held() -> list[tuple[np.ndarray, Song]]:
    return corpus(8, seed=500)


def test_the_vowels_of_a_song_are_read_and_not_those_of_another(recogniser, held):
    true = np.mean([vowel_accuracy(recogniser, audio, song) for audio, song in held])
    false = np.mean([vowel_accuracy(recogniser, audio, song) for (audio, _), (_, song) in zip(held, held[1:] + held[:1])])
    assert true > 0.5 and true > false + 0.2


def test_a_piece_without_a_voice_has_no_right_vowels(recogniser, held):
    assert vowel_accuracy(recogniser, np.zeros_like(held[0][0]), held[0][1]) < 0.3


def test_vowels_need_word_times(recogniser, held):
    assert np.isnan(vowel_accuracy(recogniser, held[0][0], replace(held[0][1], word_times=())))


def test_artist_and_genre_are_read_and_another_s_are_not(recogniser, held):
    true = np.mean([label_accuracy(recogniser, audio, song) for audio, song in held], axis=0)
    others = held[5:] + held[:5]  # no song's artist or genre is the same
    false = np.mean([label_accuracy(recogniser, audio, song) for (audio, _), (_, song) in zip(held, others)], axis=0)
    assert (true > false + 0.4).all()


def test_labels_names_an_artist_and_a_genre(recogniser, held):
    named = [recogniser.labels(audio) for audio, _ in held]
    assert np.mean([artist == song.artist for (artist, _), (_, song) in zip(named, held)]) > 0.5
    assert {genre for _, genre in named} <= {genre.name for genre in GENRES}


def test_labels_that_it_does_not_know_have_no_accuracy(recogniser, held):
    assert np.isnan(label_accuracy(recogniser, held[0][0], Song("Nobody", ("polka",)))).all()


def test_characters_share_the_time_of_their_word():
    classes = frame_classes(Song(word_times=(TimedText("sun", 1.0, 2.0),)), 150)
    assert classes[:50].unique().tolist() == [SILENT] and classes[100:].unique().tolist() == [SILENT]
    assert classes[51].item() == CONSONANT and classes[75].item() == 2 + "aeiouy".index("u")


def test_two_trainings_with_one_seed_have_one_hash_and_with_another_another():
    songs = corpus(2)
    hashes = [train_recogniser(songs, RATE, seed=seed, steps=2).hash for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train_recogniser(corpus(1), RATE, steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_a_saved_recogniser_is_loaded_the_same(recogniser, held, tmp_path):
    recogniser.save(tmp_path / "r.safetensors")
    loaded = Recogniser.load(tmp_path / "r.safetensors")
    assert loaded.hash == recogniser.hash and loaded.config == recogniser.config
    assert torch.equal(loaded.sung(held[0][0]), recogniser.sung(held[0][0]))


def test_a_file_with_other_weights_than_its_hash_says_is_rejected(recogniser, tmp_path):
    path = tmp_path / "r.safetensors"
    recogniser.save(path)
    with safe_open(path, "pt") as file:
        header, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(state | {"mean": state["mean"] + 1}, path, header)
    with pytest.raises(UserError, match=recogniser.hash):
        Recogniser.load(path)


def test_a_file_that_is_no_recogniser_is_rejected(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="expected a recogniser"):
        Recogniser.load(tmp_path / "x.safetensors")


def test_songs_without_labels_cannot_train_it():
    with pytest.raises(UserError, match="0 artists and 0 genres"):
        train_recogniser([(np.zeros(RATE * 5, np.float32), Song())], RATE)
