"""The whole path on ordinary files, as a user would go it: mp3 files in folders -> manifest -> codes -> priors -> sound."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from mutagen.mp3 import EasyMP3

from data_prep.audio.writers import write_audio
from data_prep.synthetic.songs import make_song
from launch.cli import main


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Ten songs as people own them: tagged mp3, stereo among them, words beside them, in folders with unicode names."""
    folder = tmp_path_factory.mktemp("müsic")
    for i in range(10):
        song = make_song(i, seconds=7.0, sample_rate=32000 if i % 2 else 44100)
        sound = np.concatenate([song.audio, 0.5 * song.audio]) if i % 3 == 0 else song.audio
        path = folder / f"♫ {i % 3}" / f"{i}.mp3"
        write_audio(path, sound, song.sample_rate)
        tags = EasyMP3(path)
        tags.add_tags()
        tags.update(artist=song.artist, genre=song.genre)
        tags.save()
        if i % 2:
            path.with_suffix(".txt").write_text(song.lyrics, encoding="utf-8")
        else:
            lines = [f"[00:{start:05.2f}]{word}" for word, start, _ in song.words]
            path.with_suffix(".lrc").write_text("\n".join(lines), encoding="utf-8")
    (folder / "broken.mp3").write_text("this is no music")
    return folder


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_a_folder_of_mp3_files_becomes_a_model_that_sings_and_continues(music, tmp_path, capsys):
    data, model = tmp_path / "data", tmp_path / "model"
    run("prepare", music, "--out", data, "--test_share", "0.5")
    assert "refused 1" in capsys.readouterr().out
    train = ("--preset", "test", "--out", model, "--steps", "12", "--threads", "1")
    run("train", "vqvae", data, *train)
    run("encode", data, model)
    run("train", "prior", data, *train)
    run("evaluate", model, data, "--windows", "6", "--songs", "3")
    figures = json.loads((model / "evaluation.json").read_text())
    assert set(figures["priors"]) == {"0", "1", "2"} and {"lyrics", "plain", "artist"} <= set(
        figures["priors"]["2"]["controls"]
    )

    words = tmp_path / "words.txt"
    words.write_text("sing tonight\nçélöme ☃ 🎵", encoding="utf-8")
    run(
        "sample",
        model,
        "--seconds",
        "1",
        "--seed",
        "7",
        "--out",
        tmp_path / "song",
        "--lyrics",
        words,
        "--artist",
        "311",
        "--genre",
        "a,b",
    )
    said = capsys.readouterr().out
    assert "knows no artist '311'" in said and "'☃' x1" in said
    asked = json.loads((tmp_path / "song" / "run.json").read_text())
    assert asked["samples"][0]["artist"] == "311" and asked["samples"][0]["genres"] == ["a", "b"]

    recording = next(music.rglob("3.mp3"))
    run("continue", model, recording, "--prompt_seconds", "0.5", "--seconds", "1", "--out", tmp_path / "more")
    for name in ("song", "more"):
        assert (tmp_path / name / "index.html").is_file()
        for level in range(3):
            with wave.open(str(tmp_path / name / "audio" / f"level_{level}_sample_0.wav")) as file:
                assert file.getnframes() == 22050 // 128 * 128
