"""The verbs that change a song, as typed: what they write and say, and one line for what cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile

from launch.cli import main
from tests.jukebox.editing.test_verbs import samples, with_masked, write_song


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return with_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return write_song(tmp_path_factory.mktemp("songs") / "song.wav", seconds=1.5, subtype="PCM_24")


FEW = ["--passes", "2,1,1"]


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_edit_writes_beside_the_song_and_says_what_is_new(model, song, capsys):
    code, said, _ = run(capsys, "edit", model.folder, song, "--start", "0:00.5", "--end", "1", "--artist", "ann", *FEW)
    made = song.with_name("song_edit.wav")
    assert code == 0 and str(made) in said and "0:00.500 to 0:01.000" in said and "20 ms" in said
    old, new = samples(song), samples(made)
    assert np.array_equal(new[:22050], old[:22050]) and np.array_equal(new[44100:], old[44100:]) and len(new) == len(old)
    code, said, error = run(capsys, "edit", model.folder, song, "--start", "0.4", "--end", "1", *FEW)
    assert code == 2 and "name another --out" in error
    code, said, error = run(capsys, "edit", model.folder, song, "--start", "0.5", "--end", "1", "--artist", "ann", *FEW)
    assert code == 0 and "1 of 1 were there already" in said


def test_vary_tells_how_much_is_kept(model, song, tmp_path, capsys):
    out = tmp_path / "new.flac"
    code, said, _ = run(capsys, "vary", model.folder, song, "--keep_levels", "2", "--periodic", "4", "--out", out, *FEW)
    columns = math.ceil(1.5 * 22050 / 128)
    kept = (columns + 20 * math.ceil(columns / 4)) * 5 / (columns * 128 / 22050) / 1000
    assert code == 0 and f"kept {kept:.3f} of" in said and soundfile.info(out).subtype == "PCM_24"
    assert soundfile.info(out).frames == soundfile.info(song).frames
    out = tmp_path / "contradicted.wav"
    code, said, _ = run(capsys, "vary", model.folder, song, "--keep_levels", "0", "--out", out, *FEW)
    assert code == 0 and f"{16 * columns} codes are kept under coarser ones that change" in said


def test_extend_and_compress(model, song, tmp_path, capsys):
    code, said, _ = run(
        capsys, "extend", model.folder, song, "--before", "0.25", "--after", "0:00.5", "--out", tmp_path / "longer", *FEW
    )
    assert code == 0 and soundfile.info(tmp_path / "longer.wav").duration == 2.25
    assert np.array_equal(samples(tmp_path / "longer.wav")[11025:][: 3 * 22050], samples(song))
    code, said, _ = run(capsys, "compress", model.folder, song, "--kbps", "0.9", "--out", tmp_path / "small.wav", *FEW)
    assert code == 0 and "kept 0.86" in said  # the top level alone: 172.27 columns of 5 bits


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["edit", "SONG", "--start", "1", "--end", "1"], "is empty"),
        (["edit", "SONG", "--start", "1.2", "--end", "1"], "is empty"),
        (["edit", "SONG", "--start", "1", "--end", "1:00"], "1.500 s long"),
        (["edit", "SONG", "--start", "2", "--end", "3"], "1.500 s long"),
        (["edit", "SONG", "--start", "one", "--end", "3"], "--start got 'one'"),
        (["edit", "nothing.wav", "--start", "1", "--end", "2"], "no such file"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--passes", "3"], "expected 3 numbers"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--takes", "0"], "expected 1 or more"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--out", "new.mp3"], "name it new.wav"),
        (["vary", "SONG"], "nothing of the song would be kept"),
        (["vary", "SONG", "--periodic", "-1"], "a period from 0"),
        (["vary", "SONG", "--keep_levels", "7"], "levels from 0 to 2"),
        (["vary", "SONG", "--random", "1.5"], "a probability"),
        (["extend", "SONG"], "one of them above it"),
        (["compress", "SONG", "--kbps", "0"], "one code alone"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(model, song, tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    verb, first, *rest = words
    out = [] if "--out" in words else ["--out", "new"]
    code, _, error = run(capsys, verb, model.folder, song if first == "SONG" else first, *rest, *out)
    assert code == 2 and line in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_masked_prior_says_how_to_get_one(tiny_model, song, tmp_path, capsys):
    code, _, error = run(capsys, "edit", tiny_model.folder, song, "--start", "0", "--end", "1", "--out", tmp_path / "new")
    assert code == 2 and "train masked" in error
