"""The Python API: the codes and the audio of the command line, weights that stay loaded, one job at a time."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read
from data_prep.errors import UserError
from jukebox import (
    Audio,
    Callbacks,
    Cancelled,
    Codes,
    EditOptions,
    Jukebox,
    KeptPrompt,
    MachineOptions,
    Progress,
    Run,
    SamplingOptions,
    SamplingParams,
    Song,
)
from jukebox.loaded import LoadedModel, one_job
from jukebox.model.folder import ModelFolder, build_prior
from launch.cli import main
from priors.autoregressive.config import AutoregressiveParams
from priors.masked.config import MaskedParams
from tests.jukebox.editing.edits import with_masked

SONG = Song(artist="ann", genre="rock", lyrics="la la la")
ONE = MachineOptions(threads=1, device="cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Jukebox:
    return Jukebox.from_pretrained(with_masked(tmp_path_factory.mktemp("model")).folder)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    t = np.arange(4 * 44100) / 44100
    noise = np.random.default_rng(0).normal(0, 0.02, (2, len(t)))
    path = tmp_path_factory.mktemp("recording") / "mine.wav"
    Audio((0.4 * np.sin(2 * np.pi * 300 * t) + noise).astype(np.float32), 44100).save(path)
    return path


def test_generate_gives_the_codes_and_the_audio_of_the_command_line_with_the_same_defaults(model, tmp_path):
    (tmp_path / "words.txt").write_text("la la la")
    words = [
        "--artist",
        "ann",
        "--genre",
        "rock",
        "--lyrics",
        tmp_path / "words.txt",
        "--seconds",
        0.5,
        "--seed",
        7,
        "--threads",
        1,
    ]
    assert main(list(map(str, ["sample", model.folder, *words, "--out", tmp_path / "run"]))) == 0
    audio, run = model.generate(SONG, seconds=0.5, seed=7, machine=ONE), Run.open(tmp_path / "run")
    assert audio.codes is not None
    for level, stream in enumerate(model.spec.names):
        assert np.array_equal(audio.codes.streams[stream], run.codes(level)[0])
    assert np.array_equal(audio.samples, read(run.audio_path(0, 0))[0]) and audio.sample_rate == 22050
    kept = model.generate(SONG, seconds=0.5, seed=7, machine=ONE, run_folder=tmp_path / "kept")
    assert {k: kept.request[k] for k in ("params", "route", "samples")} == {
        k: run.request[k] for k in ("params", "route", "samples")
    }
    assert np.array_equal(kept.codes(0), run.codes(0)) and (kept.folder / "index.html").is_file()


def test_parameters_and_seed_change_the_song_and_no_temperature_repeats_it(model):
    def codes(**settings) -> np.ndarray:
        made = model.generate(SONG, seconds=0.2, machine=ONE, **settings)
        return made.codes.streams["vq.2"]

    base = codes(seed=1)
    assert np.array_equal(base, codes(seed=1)) and not np.array_equal(base, codes(seed=2))
    assert not np.array_equal(base, codes(seed=1, params=SamplingParams(temperature=3.0)))
    cold = SamplingParams(temperature=0.0, temperature_lower=0.0)
    assert np.array_equal(codes(seed=1, params=cold), codes(seed=2, params=cold))
    per_stream = {"vq.2": {"temperature": 0.0}, "vq.1": AutoregressiveParams(temperature=0.0)}
    assert np.array_equal(codes(seed=1, params=per_stream), codes(seed=2, params=cold))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"params": SamplingParams(passes=(3, 2))}, "no prior of this route has --passes"),
        ({"params": MaskedParams(passes=3)}, "no prior of this route has the parameter 'noise'|'passes'"),
        ({"params": {"vq.7": {}}}, "route jukebox writes vq.2, vq.1, vq.0"),
        ({"params": SamplingParams(temperature=-1.0)}, "must not be negative"),
        ({"options": SamplingOptions(route="diffusion")}, "no route 'diffusion'; it has jukebox, masked"),
        ({"options": SamplingOptions(takes=2)}, "name its folder with run_folder"),
        ({"seconds": -1.0}, "expected seconds above 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_job_behind(settings, line, model):
    with pytest.raises(UserError, match=line):
        model.generate(SONG, **{"seconds": 0.2, "machine": ONE, **settings})
    with one_job():
        pass


def test_unknown_names_and_characters_are_warnings(model):
    with pytest.warns(UserWarning, match="knows no artist 'nobody'"):
        model.generate(Song(artist="nobody"), seconds=0.1, machine=ONE)
    with pytest.warns(UserWarning, match="left out of the lyrics"):
        model.generate(Song(lyrics="la \u2603"), seconds=0.1, machine=ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(SONG, seconds=0.1, machine=ONE)


def test_weights_are_read_once(model, monkeypatch):
    reads = []
    plain = ModelFolder.prior
    monkeypatch.setattr(
        ModelFolder, "prior", lambda self, name, dtype="float32": reads.append(name) or plain(self, name, dtype)
    )
    fresh = Jukebox.from_pretrained(model.folder)
    for seed in (1, 2, 3):
        fresh.generate(SONG, seconds=0.1, seed=seed, machine=ONE)
    assert reads == ["prior_2", "prior_1", "prior_0"]
    assert fresh.to("cpu") is fresh and fresh.device == "cpu"


def test_a_file_that_changed_is_read_again(model):
    loaded = LoadedModel(model.info)
    first = loaded.prior("prior_2")
    assert loaded.prior("prior_2") is first
    model.save_prior("prior_2", ModelFolder.prior(model, "prior_2"))
    assert loaded.prior("prior_2") is not first


def test_a_continuation_keeps_the_recording_at_its_own_rate_and_channels(model, recording):
    audio = model.continue_(SONG, recording, prompt_seconds=1, seconds=1.5, machine=ONE)
    old = Audio.load(recording)
    kept = 172 * 128 * 2  # whole codes of the coarsest stream, at twice the model's rate
    assert (audio.sample_rate, audio.channels) == (44100, 2) and audio.seconds == pytest.approx(1.5, abs=0.01)
    assert np.array_equal(audio.samples[:, :kept], old.samples[:, :kept])
    again = model.continue_(SONG, old, prompt_seconds=1, seconds=1.5, machine=ONE)  # from an Audio
    assert np.array_equal(again.codes.streams["vq.2"], audio.codes.streams["vq.2"])


def test_an_edit_leaves_the_rest_and_a_file_keeps_its_run(model, recording, tmp_path):
    old, settings = Audio.load(recording), {"machine": ONE, "params": SamplingParams(passes=(2, 2, 2))}
    made = model.edit(recording, 1, 2, out=tmp_path / "new.wav", edit=EditOptions(fade=0.01), **settings)
    assert np.array_equal(made.samples[:, :44100], old.samples[:, :44100])
    assert np.array_equal(made.samples[:, 88200:], old.samples[:, 88200:])
    assert not np.array_equal(made.samples[:, 44100:88200], old.samples[:, 44100:88200])
    assert (
        np.array_equal(made.samples, Audio.load(tmp_path / "new.wav").samples) and (tmp_path / "new.run" / "run.json").is_file()
    )
    varied = model.vary(old, KeptPrompt(periodic=4), 1, 2, **settings)
    assert varied.samples.shape == old.samples.shape
    longer = model.extend(old, 0.5, 0.25, song=SONG, **settings)
    assert longer.samples.shape[1] == old.samples.shape[1] + 33075
    (tmp_path / "new.wav").unlink()
    model.resume(tmp_path / "new.run")
    assert np.array_equal(made.samples, Audio.load(tmp_path / "new.wav").samples)


def test_encode_and_decode_are_those_of_the_codec(model, recording, tmp_path):
    codes = model.encode(recording)
    assert {name: len(x) for name, x in codes.streams.items()} == {"vq.0": 689 * 16, "vq.1": 689 * 4, "vq.2": 689}
    assert all(x.dtype == np.uint16 for x in codes.streams.values())
    for stream in ("", "vq.1"):
        audio = model.decode(codes, stream)
        assert audio.samples.shape == (1, 689 * 128) and audio.sample_rate == 22050
    codes.save(tmp_path / "codes.npz")
    again = Codes.load(tmp_path / "codes.npz")
    assert all(np.array_equal(again.streams[name], x) for name, x in codes.streams.items())
    assert list(model.encode(Audio.load(recording), ["vq.2"]).streams) == ["vq.2"]
    with pytest.raises(UserError, match="no codes of 'vq.9'"):
        model.decode(codes, "vq.9")


def test_a_mistake_in_a_stream_raises_before_the_first_block(model):
    with pytest.raises(UserError, match="no route 'diffusion'"):
        model.stream(SONG, options=SamplingOptions(route="diffusion"))


def test_streamed_blocks_are_the_audio_of_generate(model):
    blocks = list(model.stream(SONG, seconds=0.6, seed=3, machine=ONE))
    assert len(blocks) > 1
    whole = model.generate(SONG, seconds=0.6, seed=3, machine=ONE)
    assert np.array_equal(np.concatenate([block.samples for block in blocks], axis=1), whole.samples)


def test_progress_comes_and_a_cancelled_run_is_resumed_to_the_same_codes(model, tmp_path):
    seen: list[Progress] = []
    settings = {"seconds": 0.6, "seed": 3, "machine": ONE}
    whole = model.generate(SONG, **settings, run_folder=tmp_path / "whole", callbacks=Callbacks(progress=seen.append))
    assert [p.stream for p in seen if p.share == 1.0] == ["vq.2", "vq.1", "vq.0"]
    with pytest.raises(Cancelled):
        cancel = Callbacks(cancel=lambda: (tmp_path / "run" / "codes" / "level_1_sample_0.u16").is_file())
        model.generate(SONG, **settings, run_folder=tmp_path / "run", callbacks=cancel)
    half = Run.open(tmp_path / "run")
    assert 0 < half.count(1) < half.total(1)
    again = model.resume(tmp_path / "run")
    assert all(np.array_equal(again.codes(level), whole.codes(level)) for level in range(3))


def test_a_run_is_branched_upsampled_and_replayed(model, tmp_path):
    run = model.generate(SONG, 0.4, seed=3, machine=ONE, run_folder=tmp_path / "run", options=SamplingOptions(levels=(2,)))
    assert run.count(2) == 68 and run.count(0) == 0
    model.upsample(run, machine=MachineOptions())
    assert Run.open(run.folder).count(0) == 68 * 16
    other = model.branch(tmp_path / "run", tmp_path / "branch", keep_seconds=0.2, machine=ONE)
    assert np.array_equal(other.codes(2)[:, :34], Run.open(run.folder).codes(2)[:, :34])
    masked = model.upsample(tmp_path / "run", tmp_path / "masked", level=2, route="masked", machine=ONE)
    assert masked.request["priors"] == {"2": "prior_2", "1": "masked", "0": "masked"}
    model.replay(tmp_path / "branch", tmp_path / "again")


def test_runs_of_a_model_that_was_moved_go_on_and_those_of_another_model_raise(model, tmp_path):
    first = Jukebox.from_pretrained(shutil.copytree(model.folder, tmp_path / "first"))
    run = first.generate(SONG, 0.3, seed=3, machine=ONE, run_folder=tmp_path / "run", options=SamplingOptions(levels=(2,)))
    moved = Jukebox.from_pretrained(first.folder.rename(tmp_path / "moved"))
    assert moved.branch(run.folder, tmp_path / "branch", keep_seconds=0.1, machine=ONE).count(2) == run.total(2)
    assert moved.upsample(run.folder).count(0) == run.total(0)
    assert moved.resume(run.folder).request["model"] == str(moved.folder)
    moved.save_prior("prior_1", build_prior(moved.info.priors["prior_1"].config))
    for verb in (lambda: moved.resume(run.folder), lambda: moved.branch(run.folder, tmp_path / "no", keep_seconds=0.1)):
        with pytest.raises(UserError, match=r"prior_1.safetensors of .* changed"):
            verb()


def test_threads_are_restored_and_a_second_job_is_refused(model):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        blocks = model.stream(SONG, seconds=0.6, machine=ONE)
        next(blocks)
        with pytest.raises(UserError, match="another job of this process is not finished"):
            model.generate(SONG, seconds=0.1, machine=ONE)
        with pytest.raises(UserError, match="another job of this process is not finished"):
            model.to("cpu")  # a captured step has the addresses of weights
        blocks.close()
        model.generate(SONG, seconds=0.1, machine=ONE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".aiff"])
def test_audio_is_saved_in_every_format_and_loaded(suffix, tmp_path):
    wave = (0.5 * np.sin(np.arange(22050)[None] / 20)).astype(np.float32)
    audio = Audio(np.repeat(wave, 2, axis=0), 22050)
    again = Audio.load(audio.save(tmp_path / f"a{suffix}"))
    assert (again.sample_rate, again.channels) == (22050, 2)
    error = np.abs(again.samples[:, :20000] - audio.samples[:, :20000]).max()
    assert error < (0.1 if suffix in (".mp3", ".ogg") else 1 / 32768)
    assert audio._repr_html_().startswith("<audio controls src=")
    with pytest.raises(UserError, match="cannot be written"):
        audio.save(tmp_path / "a.xyz")


def test_a_genre_is_one_name_or_several():
    assert Song(genre="rock, waltz").genres == ("rock", "waltz") and Song(genres=("rock",), genre="waltz").genres == (
        "rock",
        "waltz",
    )
