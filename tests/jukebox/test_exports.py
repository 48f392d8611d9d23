"""What leaves a run for other programs."""

from __future__ import annotations

import csv
import json

import mutagen
import numpy as np
import pytest
import soundfile

from data_prep.errors import UserError
from data_prep.synthetic.songs import make_corpus
from jukebox import MachineOptions, SamplingOptions, Song
from jukebox.exports import cues_of
from launch.cli import main


@pytest.fixture(scope="module")
def run(spectral_model, tmp_path_factory):
    song, machine = Song(artist="ann", lyrics="la la\nso"), MachineOptions(threads=1, device="cpu")
    folder = tmp_path_factory.mktemp("made") / "run"
    return spectral_model.generate(song, 0.5, seed=5, options=SamplingOptions(takes=2), machine=machine, run_folder=folder)


def test_a_wav_of_16_bits_is_the_run_s_own_and_one_of_floats_is_not_rounded(spectral_model, run, tmp_path):
    true, rate = soundfile.read(run.audio_path(run.finest, 1), dtype="float32")
    paths = {bits: spectral_model.export(run, tmp_path / f"{bits}.wav", 2, bits=bits) for bits in (16, 24, 32)}
    made = {bits: soundfile.read(path, dtype="float32") for bits, path in paths.items()}
    assert np.array_equal(made[16][0], true) and made[32][1] == rate
    assert 0 < np.abs(made[32][0] - true).max() <= 2 / 32768
    assert np.abs(made[32][0] - made[24][0]).max() < 1e-6


def test_tags_hold_the_request_and_no_path(spectral_model, run, tmp_path):
    tags = mutagen.File(spectral_model.export(run, tmp_path / "a.flac"))
    asked = json.loads(tags["jukebox_request"][0])
    assert asked["seed"] == 5 and asked["song"]["lyrics"] == "la la\nso" and asked["take"] == 1
    assert str(spectral_model.folder.parent) not in str(dict(tags))


def test_cues_are_the_lines_and_the_end_of_the_prompt(run):
    begins = [word[1] for word in run.request["samples"][0]["word_times"]]
    assert cues_of(run.folder, run.request, 1) == [(begins[0], "la la"), (begins[2], "so")]
    assert cues_of(run.folder, run.request | {"prompt": {"seconds": 0.3}}, 1)[2] == (0.3, "prompt ends")


def test_a_page_has_the_files_of_its_words(run):
    page = (run.folder / "index.html").read_text()
    for take in (1, 2):
        for suffix in ("lrc", "srt", "vtt", "labels.txt"):
            assert (run.folder / "lyrics" / f"take_{take}.{suffix}").read_text().strip()
            assert f'href="lyrics/take_{take}.{suffix}"' in page


def test_save_writes_a_take_and_names_one_that_is_not_there(run, tmp_path, capsys):
    assert main(["save", str(run.folder), "--out", str(tmp_path / "song.mp3"), "--take", "2"]) == 0
    assert soundfile.info(tmp_path / "song.mp3").format == "MP3"
    assert main(["save", str(run.folder), "--out", str(tmp_path / "x.wav"), "--take", "3"]) == 2
    assert "there is no take 3" in capsys.readouterr().err and not (tmp_path / "x.wav").exists()


def test_a_run_without_audio_is_named(spectral_model, run):
    run.audio_path(run.finest, 0).rename(run.folder / "away")
    with pytest.raises(UserError, match="take 1 of run has no audio yet"):
        spectral_model.export(run, run.folder / "x.wav")
    (run.folder / "away").rename(run.audio_path(run.finest, 0))


@pytest.mark.long
def test_held_out_songs_are_exported_in_pairs_with_a_table(spectral_model, tmp_path, capsys):
    make_corpus(tmp_path / "corpus", 4, seconds=3.0, workers=1)
    data, out = str(tmp_path / "data"), tmp_path / "pairs"
    assert main(["prepare", str(tmp_path / "corpus" / "songs.jsonl"), "--out", data, "--test_share", "0.5"]) == 0
    command = [
        "evaluate",
        str(spectral_model.folder),
        data,
        "--export",
        str(out),
        "--songs",
        "2",
        "--export_seconds",
        "0.5",
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    rows = list(csv.DictReader((out / "pairs.csv").open(encoding="utf-8")))
    kinds = ["reference", *spectral_model.trained_streams(), "generated"]
    assert rows and list(rows[0]) == ["song", "artist", "genres", "lyrics", *kinds]
    for row in rows:
        audio = {kind: soundfile.read(out / row[kind], dtype="float32")[0] for kind in kinds}
        assert len({len(samples) for samples in audio.values()}) == 1
        true, made = audio["reference"], audio[kinds[1]]
        assert not np.array_equal(true, made) and not np.array_equal(made, audio["generated"])
