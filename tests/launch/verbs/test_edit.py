"""The verbs that edit a song, as typed: their flags, what they write and print, and one line for a user error."""

from __future__ import annotations

import math
import re
import shlex
import struct
from dataclasses import fields
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile

from data_prep.metadata.kept import Kept
from jukebox.params import DeviceOptions, EditOptions, KeptPrompt, SamplingParams, TakeOptions
from launch.cli import main
from launch.cli.commands import VERBS, load
from launch.cli.usage import read_usage
from launch.verbs import edit as verbs
from launch.verbs.sample import LabelFlags, SongFlags
from tests.data_prep.metadata.test_kept import CUE, INFO, chunks, tagged_mp3, with_chunks
from tests.jukebox.editing.edits import RATE, samples, with_masked, write_song


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return with_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return write_song(tmp_path_factory.mktemp("songs") / "song.wav", seconds=1.5, subtype="PCM_24")


FEW = ["--passes", "2,1,1"]
EDITS = {  # verb -> its flags, those of the dataclasses by these
    "edit": ["start", "end", "out", SongFlags, TakeOptions, SamplingParams, EditOptions, DeviceOptions],
    "vary": [KeptPrompt, "start", "end", "out", LabelFlags, TakeOptions, SamplingParams, EditOptions, DeviceOptions],
    "extend": ["before", "after", "out", SongFlags, TakeOptions, SamplingParams, EditOptions, DeviceOptions],
    "compress": ["kbps", "start", "end", "out", LabelFlags, TakeOptions, SamplingParams, EditOptions, DeviceOptions],
}


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("verb", EDITS)
def test_the_flags_are_those_of_the_dataclasses(verb, capsys):
    flags = {flag.name: flag for flag in read_usage(verb, getattr(verbs, verb)).flags}
    expected: list[str] = []
    for each in EDITS[verb]:
        of_class = [] if isinstance(each, str) else [field for field in fields(each) if field.name != "more"]
        expected += [each] if isinstance(each, str) else [field.name for field in of_class]
        assert all(flags[field.name].default == field.default for field in of_class)
    assert list(flags) == expected
    code, printed, _ = run(capsys, verb, "--help")
    assert code == 0 and all(f"--{name} " in printed for name in flags)


@pytest.mark.parametrize("verb", EDITS)
def test_help_with_a_model_has_the_parameters_of_its_masked_prior(model, verb, capsys):
    code, printed, _ = run(capsys, verb, model.folder, "--help")
    assert code == 0 and "--passes" in printed and "--temperature_lower" in printed and "--guidance" not in printed


def documented() -> list[list[str]]:
    """The commands of the first block of docs/editing.md."""
    block = (Path(__file__).parents[3] / "docs" / "editing.md").read_text("utf-8").split("```")[1]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("jukebox")]


def test_every_verb_is_documented():
    assert {words[0] for words in documented()} == {*EDITS, "codec", "resume", "replay"}


@pytest.mark.parametrize("page", ["editing.md", "sampling.md"])
def test_documented_flags_are_flags_of_their_verbs(page):
    text, count = (Path(__file__).parents[3] / "docs" / page).read_text("utf-8"), 0
    for block in text.split("```")[1::2]:
        for line in block.splitlines():
            if match := re.match(r"jukebox ([a-z]+) ", line):
                verb, target = match[1], VERBS.get(match[1], ("", ""))[0]
                assert target, f"{page} has a verb that is not there: {line}"
                usage = read_usage(verb, load(target))
                assert not {word[2:] for word in re.findall(r"--\w+", line)} - {flag.name for flag in usage.flags}, line
                count += 1
    assert count > 5


def test_edit_writes_beside_the_song_and_prints_what_is_new(model, song, capsys):
    code, printed, _ = run(capsys, "edit", model.folder, song, "--start", "0:00.5", "--end", "1", "--artist", "ann", *FEW)
    made = song.with_name("song_edit.wav")
    assert code == 0 and str(made) in printed and "0:00.500 to 0:01.000" in printed and "20 ms" in printed
    old, new = samples(song), samples(made)
    assert np.array_equal(new[:22050], old[:22050]) and np.array_equal(new[44100:], old[44100:]) and len(new) == len(old)
    code, printed, error = run(capsys, "edit", model.folder, song, "--start", "0.4", "--end", "1", *FEW)
    assert code == 2 and "name another --out" in error
    code, printed, error = run(capsys, "edit", model.folder, song, "--start", "0.5", "--end", "1", "--artist", "ann", *FEW)
    assert code == 0 and "1 of 1 were there already" in printed


def test_vary_prints_how_much_is_kept(model, song, tmp_path, capsys):
    out = tmp_path / "new.flac"
    code, printed, _ = run(capsys, "vary", model.folder, song, "--keep_levels", "2", "--periodic", "4", "--out", out, *FEW)
    columns = math.ceil(1.5 * 22050 / 128)
    kept = (columns + 20 * math.ceil(columns / 4)) * 5 / (columns * 128 / 22050) / 1000
    assert code == 0 and f"kept {kept:.3f} of" in printed and soundfile.info(out).subtype == "PCM_24"
    assert soundfile.info(out).frames == soundfile.info(song).frames
    out = tmp_path / "contradicted.wav"
    code, printed, _ = run(capsys, "vary", model.folder, song, "--keep_levels", "0", "--out", out, *FEW)
    assert code == 0 and f"{16 * columns} codes are kept under coarser ones that change" in printed


def test_extend_and_compress(model, song, tmp_path, capsys):
    code, printed, _ = run(
        capsys, "extend", model.folder, song, "--before", "0.25", "--after", "0:00.5", "--out", tmp_path / "longer", *FEW
    )
    assert code == 0 and soundfile.info(tmp_path / "longer.wav").duration == 2.25
    assert np.array_equal(samples(tmp_path / "longer.wav")[11025:][: 3 * 22050], samples(song))
    code, printed, _ = run(capsys, "compress", model.folder, song, "--kbps", "0.9", "--out", tmp_path / "small.wav", *FEW)
    assert code == 0 and "kept 0.86" in printed  # the top level alone: 172.27 columns of 5 bits


def test_an_edit_keeps_what_the_file_carries_and_names_the_rest_once(model, tmp_path, capsys):
    song = with_chunks(write_song(tmp_path / "song.wav", seconds=1.0), (b"cue ", CUE), (b"LIST", INFO), (b"xyz1", b"?"))
    words = ["extend", model.folder, song, "--before", "0.25", "--out", tmp_path / "new.wav", *FEW]
    code, _, error = run(capsys, *words)
    found = chunks(tmp_path / "new.wav")
    assert code == 0 and struct.unpack_from("<I", found[b"cue "], 24)[0] == 100 + 11025 and found[b"LIST"] == INFO
    assert error.splitlines().count("new.wav lacks what song.wav had: xyz1 chunk") == 1
    song.unlink()
    made = (tmp_path / "new.wav").read_bytes()
    (tmp_path / "new.wav").unlink()
    assert run(capsys, "resume", tmp_path / "new.run")[0] == 0 and (tmp_path / "new.wav").read_bytes() == made


def test_an_edit_of_an_mp3_keeps_its_tag_in_wav_and_in_mp3(model, tmp_path, capsys):
    song = tagged_mp3(tmp_path / "song.mp3")
    for name, expected in (("new", "new.wav"), ("again.mp3", "again.mp3")):
        words = ["edit", model.folder, song, "--start", "0.2", "--end", "0.4", "--out", tmp_path / name, *FEW]
        code, printed, error = run(capsys, *words)
        file = mutagen.File(tmp_path / expected)
        assert code == 0 and "lacks" not in error and file.tags["TIT2"] == "Nacht" and len(file.tags.getall("APIC")) == 2
        assert ("it is written as MPEG_LAYER_III" in printed) == (expected == "again.mp3")
        assert soundfile.info(tmp_path / expected).frames == soundfile.info(song).frames


@pytest.mark.parametrize(("kbps", "part"), [(7, []), (0.9, ["--start", "0.301", "--end", "1.2"]), (1000, [])])
def test_what_compress_keeps_is_a_file_of_the_printed_bits_which_codec_decodes(model, tmp_path, capsys, kbps, part):
    song = write_song(tmp_path / "song.wav", RATE, 1, seconds=16.0 if kbps == 7 else 1.5)
    words = ["compress", model.folder, song, "--kbps", kbps, *part, "--seed", "7", "--out", tmp_path / "new.wav", *FEW]
    code, printed, error = run(capsys, *words)
    made = tmp_path / "new.codes"
    assert code == 0 and f"{made}: what is kept, {made.stat().st_size:,} bytes" in printed, error
    if kbps == 7:
        stated = float(re.search(r"kept ([\d.]+) of", printed)[1])
        assert made.stat().st_size * 8 / 16 / 1000 == pytest.approx(stated, rel=0.05)
    song.unlink()
    code, _, error = run(capsys, "codec", "decode", made, "--model", model.folder, "--out", tmp_path / "again.flac")
    assert code == 0, error
    begin, end = (round(float(each) * RATE) for each in part[1::2]) if part else (0, None)
    first, again = samples(tmp_path / "new.wav")[begin:end], samples(tmp_path / "again.flac")
    assert first.shape == again.shape
    if not part:  # what was around a range, the decoder is not conditioned on
        assert np.abs(first - again).max() < 2e-4


def test_a_file_of_codes_that_is_damaged_or_of_another_model_is_one_line(model, song, tiny_model, tmp_path, capsys):
    assert run(capsys, "compress", model.folder, song, "--kbps", "5", "--out", tmp_path / "new.wav", *FEW)[0] == 0
    made = tmp_path / "new.codes"
    code, _, error = run(capsys, "codec", "decode", made, "--model", tiny_model.folder)
    assert code == 2 and "train masked" in error
    made.write_bytes(made.read_bytes()[:-9])
    code, _, error = run(capsys, "codec", "decode", made, "--model", model.folder)
    assert code == 2 and "or it is damaged" in error and error.count("\n") <= 2
    assert not (tmp_path / "new.decoded.wav").exists()


def test_tags_that_cannot_be_written_cost_no_audio(model, song, tmp_path, capsys):
    source = tmp_path / "song.flac"
    soundfile.write(source, samples(song), 44100)
    words = ["edit", model.folder, source, "--start", "0.2", "--end", "0.4", "--out", tmp_path / "new.flac", *FEW]
    assert run(capsys, *words)[0] == 0
    # more than a block of a flac holds
    Kept(comments=[("TITLE", "x" * (1 << 24))]).save(tmp_path / "new.run" / "tags.json")
    (tmp_path / "new.flac").unlink()
    code, _, error = run(capsys, *words)
    assert code == 0 and "new.flac lacks what song.flac had: all tags (" in error
    assert soundfile.info(tmp_path / "new.flac").frames == soundfile.info(source).frames


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
        (["edit", "SONG", "--start", "0", "--end", "1", "--out", "new.m4a"], "expected a name that ends in .wav"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--out", "new.txt"], "expected a name that ends in .wav"),
        (["edit", "SONG", "--end", "1"], "--start is missing"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--temperature", "-1"], "must not be negative"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--top_p", "2"], "top_p lies in [0, 1]"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--guidance", "3"], "there is no flag --guidance"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--passes", "2,x,1"], "--passes got '2,x,1', expected whole numbers"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--fade", "-0.1"], "--fade"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--dtype", "float8"], "--dtype got 'float8', expected one of"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--lyrics", "no.txt"], "--lyrics 'no.txt' cannot be read"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--route", "masked"], "there is no flag --route"),
        (["edit", "SONG", "--start", "0", "--end", "1", "--temprature", "1"], "did you mean --temperature?"),
        (["vary", "SONG", "--periodic", "4", "--lyrics", "words.txt"], "there is no flag --lyrics"),
        (["vary", "SONG", "--keep_levels", "2,one"], "--keep_levels got '2,one', expected whole numbers"),
        (["vary", "SONG", "--periodic", "4", "--redraw_levels", "3"], "levels from 0 to 2"),
        (["vary", "SONG", "--periodic", "4", "--width", "0"], "a width from 1"),
        (["vary", "SONG", "--periodic", "4", "--start", "1", "--end", "1"], "is empty"),
        (["extend", "SONG", "--before", "-1"], "--before got '-1'"),
        (["extend", "SONG", "--after", "x"], "--after got 'x'"),
        (["compress", "SONG"], "--kbps is missing"),
        (["vary", "SONG"], "nothing of the song would be kept"),
        (["vary", "SONG", "--periodic", "-1"], "a period from 0"),
        (["vary", "SONG", "--keep_levels", "7"], "levels from 0 to 2"),
        (["vary", "SONG", "--random", "1.5"], "a probability"),
        (["extend", "SONG"], "one of them above it"),
        (["compress", "SONG", "--kbps", "0"], "one code alone"),
    ],
)
def test_a_bad_value_is_one_line_and_nothing_is_written(model, song, tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    verb, first, *rest = words
    out = [] if "--out" in words else ["--out", "new"]
    code, _, error = run(capsys, verb, model.folder, song if first == "SONG" else first, *rest, *out)
    assert code == 2 and line in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_masked_prior_is_one_line_that_names_the_command_to_train_one(tiny_model, song, tmp_path, capsys):
    code, _, error = run(capsys, "edit", tiny_model.folder, song, "--start", "0", "--end", "1", "--out", tmp_path / "new")
    assert code == 2 and "train masked" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_edit_that_was_interrupted_is_finished_by_resume_and_repeated_by_replay(model, song, tmp_path, capsys):
    words = ["edit", model.folder, song, "--start", "0.5", "--end", "1", "--takes", "2", "--out", tmp_path / "new", *FEW]
    code, printed, _ = run(capsys, *words)
    assert code == 0 and f"{tmp_path / 'new_1.wav'}\n{tmp_path / 'new_2.wav'}" in printed
    made = (tmp_path / "new_2.wav").read_bytes()
    (tmp_path / "new_2.wav").unlink()
    code, printed, _ = run(capsys, "resume", tmp_path / "new.run")
    assert code == 0 and (tmp_path / "new_2.wav").read_bytes() == made
    code, printed, _ = run(capsys, "replay", tmp_path / "new.run")
    assert code == 0 and "level 0: the same" in printed and (tmp_path / "new.run_replay" / "codes").is_dir()
    for other in (["branch", tmp_path / "new.run"], ["upsample", tmp_path / "new.run"]):
        code, _, error = run(capsys, *other)
        assert code == 2 and "is an edit of a recording" in error and error.count("\n") == 1


def test_absurd_takes_and_ends_are_one_line_or_what_they_mean(model, song, tmp_path, capsys):
    out = tmp_path / "out.wav"
    code, _, error = run(capsys, "extend", model.folder, song, "--after", "0.1", "--takes", "1000000000000", "--out", out, *FEW)
    assert code == 2 and "GB are available" in error
    code, _, error = run(capsys, "extend", model.folder, song, "--after", "99999999999", "--out", out, *FEW)
    assert code == 2 and "GB are available" in error and not out.exists()
    assert run(capsys, "vary", model.folder, song, "--end", "0.3", "--prefix", "1e300", "--out", out, *FEW)[0] == 0
