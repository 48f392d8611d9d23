"""A codec and a prior of another package, registered by entry points, go the whole way without a change to the project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.codes import CodesReader
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from launch.cli import main
from vqvae.registry import CODECS

TOYS = Path(__file__).parent / "toys"
ENTRY_POINTS = """\
[jukebox.codecs.config]
toy-codec = toy_codec:ToyCodecConfig
[jukebox.codecs.model]
toy-codec = toy_codec:ToyCodec
[jukebox.priors.config]
toy-prior = toy_prior:ToyPriorConfig
[jukebox.priors.model]
toy-prior = toy_prior:ToyPrior
[jukebox.priors.params]
toy-prior = toy_prior:ToyParams
[jukebox.tasks]
toy-codec = toy_codec:ToyCodecTask
toy-prior = launch.training.tasks.prior:PriorTask
[jukebox.presets]
toy = toy_codec:PRESET
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy package, installed: its folder and its metadata are on the path."""
    site = tmp_path_factory.mktemp("site")
    (site / "toy-0.1.dist-info").mkdir()
    (site / "toy-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (site / "toy-0.1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    for name in ("toy_codec", "toy_prior"):  # another test has modules of the same names
        sys.modules.pop(name, None)
    sys.path[:0] = [str(site), str(TOYS)]
    yield
    for path in (str(site), str(TOYS)):
        sys.path.remove(path)
    for name in ("toy_codec", "toy_prior"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder and a model folder, made by the verbs of the command line alone."""
    root = tmp_path_factory.mktemp("toy")
    music, data, model = root / "music", root / "data", root / "model"
    music.mkdir()
    for i in range(8):
        t = np.arange(24_000) / 8000
        wave = 0.4 * np.sin(2 * np.pi * (220 + 40 * i) * t) + 0.01 * np.random.default_rng(i).standard_normal(len(t))
        write_wav(music / f"artist {i % 2} - song {i}.wav", wave[None].astype(np.float32), 8000)
    steps = [
        ["prepare", music, "--out", data, "--min_seconds", "1", "--test_share", "0.4"],
        ["train", "toy-codec", data, "--preset", "toy", "--out", model],
        ["encode", data, model],
        ["train", "toy-prior", data, "--preset", "toy", "--out", model],
    ]
    for words in steps:
        assert main(list(map(str, words))) == 0, words
    return data, model


def test_config_json_names_kinds_and_the_package_that_brings_them(trained):
    config = json.loads((trained[1] / "config.json").read_text())
    assert [(each["kind"], each["package"]) for each in config["codecs"] + config["priors"]] == [
        ("toy-codec", "toy"), ("toy-prior", "toy")
    ]  # fmt: skip
    assert "toy_codec" not in json.dumps(config) and str(TOYS) not in json.dumps(config)


def test_training_lowers_the_losses_of_both(trained):
    for part in ("toy-codec", "toy"):
        lines = [json.loads(line) for line in (trained[1] / "training" / part / "log.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < 0.8 * lines[0]["loss"], part


def test_encoded_songs_hold_two_books_and_latents_in_their_own_dtypes(trained):
    data, model = trained
    info = ModelInfo.read(model)
    for stream, dtype, shape in (("toy.codes", np.uint8, (2,)), ("toy.latents", np.float32, (8,))):
        reader = CodesReader(data / "codes" / info.codes_hash(stream))
        song = reader.songs[0]
        frames = reader.read(song, stream)
        assert frames.dtype == dtype and frames.shape == (24_000 // info.spec.stream(stream).hop, *shape)


def test_encoding_in_pieces_equals_encoding_the_whole(trained):
    codec = ModelFolder.from_pretrained(trained[1]).codec()
    wave = torch.randn(1, 1, 3000)
    whole, long = codec.encode(wave, codec.spec.names), codec.encode_long(wave, codec.spec.names)
    assert all(torch.equal(whole[name], long[name]) for name in whole)
    assert codec.decode_long(long["toy.latents"], "toy.latents").shape == (1, 1, 3000 // 128 * 128)


def test_a_plan_counts_the_toy_prior(trained, capsys):
    assert main(["plan", "sample", str(trained[1]), "--seconds", "3", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "predicted:" in printed and "level 1" in printed


def test_evaluate_measures_the_toy_prior_beside_a_control(trained, tmp_path):
    data, model = trained
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(model), str(data), "--out", str(out), "--windows", "8", "--songs", "3"]) == 0
    figures = json.loads(out.read_text())
    assert "toy" in figures["priors"] and set(figures["codec"]) == {"0", "1"}


# ---- sampling, by the verbs of every other prior


def jukebox(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


def latents(run: Path, sample: int = 0) -> np.ndarray:
    """The latents of a run as they are on disk."""
    return np.fromfile(run / "codes" / f"level_1_sample_{sample}.f32", "<f4").reshape(-1, 8)


@pytest.fixture(scope="module")
def song(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("song") / "song.wav"
    t = np.arange(32_000) / 8000
    write_wav(path, (0.4 * np.sin(2 * np.pi * 300 * t))[None].astype(np.float32), 8000)
    return path


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """Two songs of 3 seconds: 187 latents, in windows of 16 that overlap."""
    out = tmp_path_factory.mktemp("runs") / "run"
    jukebox(
        "sample", trained[1], "--seconds", 3, "--takes", 2, "--artist", "artist 0", "--seed", 5, "--threads", 1, "--out", out
    )
    return out


def test_the_toy_prior_samples_latents_that_its_codec_decodes(trained, run):
    request = json.loads((run / "run.json").read_text())
    assert (request["route"], request["levels"], request["priors"]) == ("toy-prior", [1], {"1": "toy"})
    assert request["params"] == {"1": {"steps": 4, "spread": 0.1}} and request["noise"] == {"1": "toy.latents"}
    assert latents(run).shape == (187, 8) and np.isfinite(latents(run)).all()
    assert not np.array_equal(latents(run, 0), latents(run, 1))
    with wave.open(str(run / "audio" / "level_1_sample_0.wav")) as file:
        assert (file.getnframes(), file.getframerate()) == (187 * 128, 8000)


def test_a_continuation_keeps_the_latents_of_its_prompt_and_the_recording_itself(trained, song, tmp_path):
    out = tmp_path / "continued"
    jukebox("continue", trained[1], song, "--prompt_seconds", 1, "--seconds", 2, "--threads", 1, "--out", out)
    model = ModelFolder.from_pretrained(trained[1])
    prompt = torch.from_numpy(read(song)[0][None, :, : 62 * 128])
    encoded = model.codec(["toy.latents"]).encode(prompt, ["toy.latents"])["toy.latents"][0]
    assert np.array_equal(latents(out)[:62], encoded.numpy()) and len(latents(out)) == 125
    joined, original = read(out / "audio" / "joined_level_1_sample_0.flac")[0], read(song)[0]
    assert np.array_equal(joined[:, : 62 * 128], original[:, : 62 * 128]) and joined.shape[1] == 125 * 128


def test_an_edit_changes_the_region_and_nothing_else(trained, song):
    jukebox("edit", trained[1], song, "--start", 1, "--end", 2, "--threads", 1, "--out", song.with_name("edited.wav"))
    old, new = read(song)[0], read(song.with_name("edited.wav"))[0]
    assert np.array_equal(old[:, :8000], new[:, :8000]) and np.array_equal(old[:, 16000:], new[:, 16000:])
    assert (old[:, 8000:16000] != new[:, 8000:16000]).mean() > 0.9
    run = song.with_name("edited.run")
    with np.load(run / "known.npz") as known:
        kept, mask = known["toy.latents"], known["toy.latents.mask"]
    assert np.array_equal(latents(run)[mask], kept[mask]) and 62 <= (~mask).sum() <= 64
    assert not np.array_equal(latents(run)[~mask], kept[~mask])


def test_the_command_line_shows_and_takes_the_sampling_parameters_of_the_toy_prior(trained, run, tmp_path, capsys):
    assert main(["sample", str(trained[1]), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--steps INTEGER" in shown and "refinement steps of a window (default 4)" in shown and "--temperature" not in shown
    jukebox("sample", trained[1], "--seconds", 3, "--seed", 5, "--threads", 1, "--steps", 1, "--out", tmp_path / "one")
    assert json.loads((tmp_path / "one" / "run.json").read_text())["params"] == {"1": {"steps": 1, "spread": 0.1}}
    assert not np.array_equal(latents(tmp_path / "one"), latents(run))
    assert main(["sample", str(trained[1]), "--temperature", "0.5", "--out", str(tmp_path / "none")]) == 2
    assert "there is no flag --temperature" in capsys.readouterr().err


def test_a_replay_gives_the_same_bytes(run, tmp_path):
    jukebox("replay", run, "--out", tmp_path / "again")
    assert latents(tmp_path / "again").tobytes() == latents(run).tobytes()


def test_memory_that_runs_out_between_two_blocks_of_a_window_halves_the_batch_and_replay_gives_the_same_bytes(
    trained, tmp_path, monkeypatch
):
    import toy_prior

    from jukebox.sampling import sampler

    plain, blocks = toy_prior.ToyPrior.sample, []

    def sample(self, state):
        for update in plain(self, state):
            if update.values.shape[1]:
                blocks.append(len(update.values))
                if len(blocks) == 4:  # the second block of the second window
                    raise MemoryError
            yield update

    monkeypatch.setattr(toy_prior.ToyPrior, "sample", sample)
    monkeypatch.setattr(sampler, "EVERY", 0.0)
    jukebox("sample", trained[1], "--seconds", 1, "--takes", 2, "--seed", 5, "--threads", 1, "--out", tmp_path / "run")
    (cut,) = json.loads((tmp_path / "run" / "run.json").read_text())["cuts"]
    assert cut["into"] == [[0], [1]] and blocks[:5] == [2, 2, 2, 2, 1]
    third = json.loads((tmp_path / "run" / "progress.jsonl").read_text().splitlines()[2])
    assert (third["start"], third["codes_total"]) == (cut["start"], cut["at"])  # the first block of that window was on disk
    jukebox("replay", tmp_path / "run", "--out", tmp_path / "again")
    assert all(latents(tmp_path / "again", i).tobytes() == latents(tmp_path / "run", i).tobytes() for i in range(2))


KILLED = """
import os, signal, sys
import jukebox.sampling.sampler as sampler, jukebox.sampling.window_checkpoint as states, toy_prior
from launch.cli import main

sampler.EVERY, states.EVERY, states.RATE = 0.0, 0.0, float("inf")
plain, count = toy_prior.ToyPrior.sample, [0]

def sample(self, state):
    for update in plain(self, state):
        yield update  # the sampler goes on when what came is on disk, and the state is saved
        count[0] += 1
        if count[0] == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

toy_prior.ToyPrior.sample = sample
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("updates", [2, 5, 15])  # in the steps of the first window, between its two blocks, in a later window
def test_a_run_killed_in_the_middle_of_a_window_resumes_to_the_same_bytes(updates, trained, run, tmp_path):
    out = tmp_path / "killed"
    words = [
        "sample",
        trained[1],
        "--seconds",
        3,
        "--takes",
        2,
        "--artist",
        "artist 0",
        "--seed",
        5,
        "--threads",
        1,
        "--out",
        out,
    ]
    path = os.pathsep.join([p for p in sys.path if p])
    command = [sys.executable, "-c", KILLED, str(updates), *map(str, words)]
    process = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [path.name for path in (out / "states").iterdir()] == ["level_1_sample_0.pt"]
    codes = out / "codes" / "level_1_sample_0.f32"
    assert not codes.is_file() or len(codes.read_bytes()) < len(latents(run).tobytes())
    jukebox("resume", out)
    assert all(latents(out, i).tobytes() == latents(run, i).tobytes() for i in range(2))


def test_without_the_package_the_error_names_it(trained, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site" not in Path(path).name or "site-packages" in path])
    with pytest.raises(ValueError, match="toy-codec.*install the package toy"):
        CODECS.load("toy-codec", "toy")
