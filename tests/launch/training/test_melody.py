"""The latent codec and latent diffusion from the command line: training, kills, the route, continuing and inpainting."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from jukebox.report.curves import explain
from jukebox.runs.request import replayed
from jukebox.runs.run import Run
from jukebox.sampling import window_checkpoint
from jukebox.sampling.walk import resume
from launch.cli import main
from launch.training.log import read_log
from priors.diffusion.config import DiffusionParams
from priors.diffusion.network import DualPathNetwork
from tests.jukebox.sampling.kills import Killed, assert_same

TOKENS, LATENT = 1, 2  # levels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of synthetic songs, and beside it a model with hardly trained codecs."""
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 4, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    assert main(["train", "spectral", *flags(root), "--steps", "3"]) == 0
    return root


def flags(root: Path, model: str = "model") -> list[str]:
    return [str(root / "data"), "--preset", "test_melody", "--out", str(root / model), "--threads", "1"]


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """A model with all of it, hardly trained."""
    shutil.copytree(root / "model", root / "whole")
    assert main(["train", "latent", *flags(root, "whole"), "--steps", "4"]) == 0
    assert main(["encode", str(root / "data"), str(root / "whole"), "--levels", "latent,tokens"]) == 0
    for part in ("diffusion", "tokens"):
        assert main(["train", part, *flags(root, "whole"), "--steps", "4"]) == 0
    return root / "whole"


def sampled(model: Path, out: Path, seconds: float = 1.5, steps: int = 3) -> Run:
    words = ["sample", str(model), "--route", "melody", "--seconds", str(seconds), "--steps", str(steps), "--threads", "1"]
    assert main([*words, "--out", str(out)]) == 0
    return Run.open(out)


def test_autoencoder_and_discriminators_learn_in_turns_and_the_tokens_stay(trained, root):
    lines = read_log(trained / "training" / "latent" / "log.jsonl")
    assert {"loss", "kl_loss", "scales_loss", "waveform_loss", "matching_loss", "discriminator_loss"} <= set(lines[0])
    assert not [name for name in lines[0] if not explain(name)[1]], "each name of the log is explained"
    assert all(np.isfinite(line["kl_loss"]) for line in lines)
    before, after = ModelFolder.from_pretrained(root / "model"), ModelFolder.from_pretrained(trained)
    assert before.info.codes_hash("tokens") == after.info.codes_hash("tokens")
    assert after.trained_streams() == ("spectral", "tokens", "latent")
    names = load_file(trained / "codec_latent.safetensors")
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}, "discriminators are not kept"


@pytest.mark.parametrize("part, file", [("latent", "codec_latent.safetensors"), ("diffusion", "prior_diffusion.safetensors")])
def test_a_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(trained, root, part, file):
    other = shutil.copytree(trained, root / f"other_{part}", ignore=shutil.ignore_patterns("training", file))
    for steps in ("2", "4"):
        assert main(["train", part, *flags(root, other.name), "--steps", steps]) == 0
    a, b = (load_file(folder / file) for folder in (trained, other))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_the_latents_of_the_songs_have_a_deviation_of_1_for_the_diffusion(trained):
    lines = read_log(trained / "training" / "diffusion" / "log.jsonl")
    assert not [name for name in lines[0] if not explain(name)[1]]
    prior = ModelFolder.from_pretrained(trained).prior("diffusion")
    assert prior.fitted and 0 < prior.deviation.max() < 1


def test_the_route_samples_tokens_then_latents_in_windows_of_a_pass_per_step(trained, tmp_path, capsys):
    run = sampled(trained, tmp_path / "run")
    assert run.request["levels"] == [TOKENS, LATENT] and list(run.request["priors"].values()) == ["tokens", "diffusion"]
    assert run.request["params"]["2"] == asdict(DiffusionParams(3))
    tokens, latents = run.codes(TOKENS, [0])[0], run.codes(LATENT, [0])[0]
    assert len(latents) == 4 * len(tokens) and np.abs(latents).max() <= 1
    windows = len(run.segments(LATENT, 0))
    assert windows == 1 + -(-(len(latents) - 64) // 32)
    assert f"level 2: {len(latents)} codes in {3 * windows} passes" in capsys.readouterr().out
    audio, rate = soundfile.read(run.audio_path(LATENT, 0))
    assert rate == 22050 and len(audio) == 64 * len(latents) and audio.std() > 0
    assert main(["replay", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    assert main(["plan", "sample", str(trained), "--route", "melody", "--seconds", "10", "--bandwidth", "10"]) == 0


def test_parameters_out_of_range_are_one_line(trained, tmp_path, capsys):
    for words in (["--steps", "0"], ["--schedule", "cosine"]):
        assert (
            main(["sample", str(trained), "--route", "melody", "--seconds", "1", "--out", str(tmp_path / "bad"), *words]) == 2
        )
        assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "bad").exists()


def test_a_window_that_was_killed_after_any_step_goes_on_to_equal_bytes(trained, tmp_path, monkeypatch):
    whole = sampled(trained, tmp_path / "whole", 1.0, 6)
    monkeypatch.setattr(window_checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(window_checkpoint, "RATE", np.inf)
    passes, forward, kills = [], DualPathNetwork.forward, {2, 5, 9}

    def counted(self, *given, **more):
        passes.append(1)
        return forward(self, *given, **more)

    def report(written):
        if written.level == LATENT and len(passes) in kills:
            kills.remove(len(passes))
            raise Killed

    monkeypatch.setattr(DualPathNetwork, "forward", counted)
    run = Run.create(tmp_path / "killed", replayed(whole.request))
    for _ in range(3):
        with pytest.raises(Killed):
            resume(run, report=report)
    resume(run, report=report)
    assert_same(run, whole)
    assert len(passes) <= 6 * len(whole.segments(LATENT, 0)) + 3, "a kill costs a step and not the window"


def test_a_song_is_continued_after_its_own_latents_which_stay_bit_exact(trained, root, tmp_path):
    song = next((root / "data").rglob("*.wav"), None) or next((root / "corpus").rglob("*.wav"))
    words = [
        "continue",
        str(trained),
        str(song),
        "--route",
        "melody",
        "--prompt_seconds",
        "1",
        "--seconds",
        "2",
        "--steps",
        "2",
    ]
    assert main([*words, "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    run = Run.open(tmp_path / "run")
    given = run.request["given"]
    assert given[str(LATENT)] == 4 * given[str(TOKENS)] > 60
    wave = torch.from_numpy(soundfile.read(song, dtype="float32", always_2d=True)[0].T[None, :, : given[str(LATENT)] * 64])
    codec = ModelFolder.from_pretrained(trained).codec(["latent"])
    prompt = run.codes(LATENT, [0], stop=given[str(LATENT)])[0]
    assert np.abs(prompt - codec.encode(wave, ["latent"])["latent"][0].numpy())[:-8].max() < 2e-3
    assert run.count(LATENT, [0]) == run.total(LATENT) > given[str(LATENT)]
    first = next(window for window in run.segments(LATENT, 0) if window.end > given[str(LATENT)])
    assert first.start < given[str(LATENT)], "the first new window begins with known frames"


def test_seconds_of_a_recording_are_inpainted_and_the_rest_stays(trained, root, tmp_path):
    rate, at = 22050, np.arange(3 * 22050) / 22050
    soundfile.write(tmp_path / "song.wav", 0.3 * np.sin(2 * np.pi * 330 * at), rate, subtype="FLOAT")
    words = ["edit", str(trained), str(tmp_path / "song.wav"), "--start", "1", "--end", "1.6", "--steps", "2", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "out.wav")]) == 0
    old, new = (soundfile.read(tmp_path / name)[0] for name in ("song.wav", "out.wav"))
    assert len(old) == len(new)
    assert np.array_equal(old[:rate], new[:rate]) and np.array_equal(old[round(1.6 * rate) :], new[round(1.6 * rate) :])
    assert not np.array_equal(old[rate : round(1.6 * rate)], new[rate : round(1.6 * rate)])
    run = Run.open(tmp_path / "out.run")
    kept, mask = run.known(LATENT)
    assert run.request["levels"] == [TOKENS, LATENT] and mask.any() and not mask.all()
    assert np.array_equal(run.codes(LATENT, [0])[0][mask], kept[mask])
