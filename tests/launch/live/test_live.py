"""`jukebox live`: the music of a run without its end, controls by lines, restarts, files and pipes, constant memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder, build_codec
from jukebox.model.presets import find
from jukebox.runs.run import Run
from jukebox.sampling.live import LiveMusic
from jukebox.song import Song
from launch.cli import main
from launch.live.live import LineControls
from priors.gan.config import GanParams
from tests.launch.live.musika import random_musika

RATE, PATCH = 22050, 8 * 512 / 22050


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_musika(tmp_path_factory.mktemp("live") / "model")


@pytest.fixture(autouse=True)
def no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


def music(model: Path, **options) -> LiveMusic:
    return LiveMusic(ModelFolder.from_pretrained(model), Song(), options.pop("params", None), **options)


def sound(live: LiveMusic, **options) -> np.ndarray:
    return np.concatenate(list(live.blocks(**options)), axis=1)


def test_the_beginning_of_a_longer_request_is_the_shorter_request(model):
    long, short = (sound(music(model), seconds=seconds) for seconds in (8.0, 4.0))
    assert np.array_equal(long[:, : 4 * RATE], short) and short.shape == (1, 4 * RATE) and short.std() > 1e-4


def test_live_music_is_that_of_a_run_with_the_same_seed(model, tmp_path):
    assert (
        main(["sample", str(model), "--route", "musika", "--seconds", "4", "--seed", "3", "--out", str(tmp_path / "run")]) == 0
    )
    codes = Run.open(tmp_path / "run").codes(2, [0])[0]
    live = music(model, seed=3)
    patches = torch.cat([live.latents(i) for i in range(len(codes) // 8)]).numpy()
    np.testing.assert_allclose(patches, codes[: len(patches)], atol=1e-3)
    assert np.abs(patches - torch.cat([music(model, seed=4).latents(i) for i in range(len(codes) // 8)]).numpy()).mean() > 1e-3


def test_music_that_begins_later_goes_on_as_it_would_have_without_an_interruption(model):
    whole = sound(music(model), seconds=9.0)
    assert np.array_equal(sound(music(model), start=5.5, seconds=3.5), whole[:, round(5.5 * RATE) :])
    with pytest.raises(UserError, match="start -1, seconds 0; expected 0 or more"):
        next(music(model).blocks(start=-1.0))


def test_a_change_takes_effect_at_its_patch_and_not_before(model):
    def changed(second: float) -> dict:
        return {"tempo": 180.0} if second == pytest.approx(16 * PATCH) else {}

    live, plain = music(model), music(model)
    steady = sound(music(model, params={"spectral.2": {"tempo": 0.0}}), seconds=8.0)
    made = sound(live, seconds=8.0, changes=changed)
    assert live.params.tempo == 180.0 and plain.params.tempo == 0.0
    reach = plain.codec.config.receptive_field("spectral.2")
    safe = round(16 * PATCH * RATE) - reach
    assert np.array_equal(made[:, :safe], steady[:, :safe]) and np.abs(made - steady)[:, safe + 2 * reach :].max() > 1e-4


def test_a_loop_repeats_its_latents_and_a_style_of_its_own_changes_them(model):
    looped = music(model, params={"spectral.2": {"loop": True}})
    assert torch.allclose(looped.latents(1), looped.latents(5), atol=1e-6)
    a, b, c = (music(model, params={"spectral.2": {"style": style}}).latents(0) for style in (7, 7, 8))
    assert torch.equal(a, b) and (a - c).abs().max() > 1e-4


def test_lines_change_parameters_once_and_those_that_are_not_understood_are_answered(capsys):
    controls = LineControls(GanParams)
    controls.read(
        ["tempo 120\n", "\n", "volume 3\n", "density many\n", "truncation 9\n", "tempo inf\n", "loop on\n", "style 7\n"]
    )
    controls.read(["quit\n", "tempo 90\n"])
    assert (
        controls.changes(1.5) == {"tempo": 120.0, "loop": True, "style": 7} and controls.changes(3.0) == {} and controls.ended
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "'volume 3': expected truncation, loop, tempo, density, style and a value (on or off), or quit"
    assert lines[1].startswith("'density many'") and "tempo 120.0 from second 1.50 on" in lines and len(lines) == 7
    assert lines[2:4] == ["truncation 9; expected 0.1 to 3.9, or quit", "tempo inf; expected 0 to 1000, or quit"]


def test_a_file_is_whole_and_the_length_of_a_patch_is_printed(model, tmp_path, capsys):
    assert (
        main(["live", str(model), "--out", str(tmp_path / "x.wav"), "--seconds", "3", "--density", "2", "--threads", "1"]) == 0
    )
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (3 * RATE, RATE, 1)
    printed = capsys.readouterr().out
    assert f"every {PATCH:.2f} s" in printed and "3.00 s of music in" in printed
    assert main(["live", str(model), "--out", str(tmp_path / "x.mp3"), "--seconds", "1"]) == 2
    assert "live writes .wav files" in capsys.readouterr().err


def test_a_pipe_gets_raw_samples_or_a_wav_without_end_and_nothing_else(model, capfdbinary):
    for form, head in (("raw", 0), ("wav", 44)):
        assert main(["live", str(model), "--out", "-", "--seconds", "2", "--form", form]) == 0
        out = capfdbinary.readouterr().out
        assert len(out) == head + 2 * 2 * RATE
        if head:
            assert out[:4] == b"RIFF" and struct.unpack("<L", out[40:44])[0] > 2**31


def test_quit_ends_music_without_end(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("tempo 100\nquit\n"))
    assert main(["live", str(model), "--out", str(tmp_path / "x.wav")]) == 0
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert 0 < file.getnframes() < 60 * RATE


def test_the_sound_card_needs_an_optional_package(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["live", str(model), "--seconds", "1"]) == 2
    assert "pip install 'jukebox-music[live]'" in capsys.readouterr().err


def test_a_model_without_a_gan_has_no_live_route_and_names_its_first_missing_part(tmp_path, capsys):
    def advice(folder: str, preset: str, codec: bool = False) -> str:
        opened = ModelFolder.create(tmp_path / folder, find(preset).codec)
        if codec:
            opened.save_codec(build_codec(find(preset).codec))
        assert main(["live", str(tmp_path / folder), "--out", "-"]) == 2
        return capsys.readouterr().err

    assert (
        "no codec of it has the stream spectral.2: train a model that has one, first by `jukebox train spectral DATA"
        in advice("a", "test_spectral")
    )
    assert "is not trained: run `jukebox train stacked DATA" in advice("b", "test_musika")
    assert "it has no latent GAN: run `jukebox train gan DATA" in advice("c", "test_musika", codec=True)


def test_the_card_gets_the_samples(model, monkeypatch, capsys):
    written = []

    class Card:
        def __init__(self, rate, channels, dtype):
            assert (rate, channels, dtype) == (RATE, 1, "int16")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, block: bytes) -> bool:
            written.append(block)
            return len(written) == 2

    monkeypatch.setitem(sys.modules, "sounddevice", type("m", (), {"RawOutputStream": Card}))
    assert main(["live", str(model), "--seconds", "4"]) == 0
    assert len(b"".join(written)) == 2 * 4 * RATE and "had to wait 1 times" in capsys.readouterr().err


CHILD = """
import resource, sys
import torch
torch.set_num_threads(1)
from jukebox.model.folder import ModelFolder
from jukebox.sampling.live import LiveMusic
from jukebox.song import Song
live = LiveMusic(ModelFolder.from_pretrained(sys.argv[1]), Song())
for minutes in (1, 10):
    for _ in live.blocks(seconds=60.0 * minutes):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_ten_minutes_take_the_memory_of_one(model):
    out = subprocess.run([sys.executable, "-c", CHILD, str(model)], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[1]) <= 1.2 * int(out[0])


@pytest.mark.long
def test_a_killed_process_leaves_a_whole_file_that_a_restart_continues(model, tmp_path):
    command = [sys.executable, "-m", "launch.cli", "live", str(model), "--seed", "5", "--threads", "1"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "a.wav")], stdin=subprocess.PIPE)
    path = tmp_path / "a.wav"
    while not (path.is_file() and path.stat().st_size > 2 * 16 * RATE):  # its header may be a block behind
        assert process.poll() is None
    process.kill()
    process.wait()
    with wave.open(str(path)) as file:
        first = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    subprocess.run([*command, "--out", str(tmp_path / "b.wav"), "--start", "6", "--seconds", "4"], check=True)
    with wave.open(str(tmp_path / "b.wav")) as file:
        again = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.array_equal(again, first[6 * RATE : 10 * RATE])
