"""A stream whose frames hold three codes goes the whole way with a masked prior: trained, sampled, edited, resumed, replayed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from launch.cli import main
from launch.training.tasks.prior import PriorTask
from launch.training.tasks.task import TaskSetup

TOYS = Path(__file__).parent / "toys"
ENTRY_POINTS = """\
[jukebox.codecs.config]
toy-tokens = toy_tokens:ToyTokensConfig
[jukebox.codecs.model]
toy-tokens = toy_tokens:ToyTokens
[jukebox.tasks]
toy-tokens = toy_codec:ToyCodecTask
[jukebox.presets]
toy-tokens = toy_tokens:PRESET
"""
RATE, HOP, BOOKS = 8000, 64, 3


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy package, installed: its folder and its metadata are on the path."""
    site, names = tmp_path_factory.mktemp("site"), ("toy_codec", "toy_prior", "toy_tokens")
    (site / "tokens-0.1.dist-info").mkdir()
    (site / "tokens-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tokens\nVersion: 0.1\n")
    (site / "tokens-0.1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    for name in names:  # another test has modules of the same names
        sys.modules.pop(name, None)
    sys.path[:0] = [str(site), str(TOYS)]
    yield
    for path in (str(site), str(TOYS)):
        sys.path.remove(path)
    for name in names:
        sys.modules.pop(name, None)


def jukebox(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


def tone(path: Path, pitch: float, seconds: float) -> Path:
    t = np.arange(round(seconds * RATE)) / RATE
    write_wav(path, (0.4 * np.sin(2 * np.pi * pitch * t))[None].astype(np.float32), RATE)
    return path


@pytest.fixture(scope="module")
def trained(toys, tmp_path_factory) -> tuple[Path, Path]:
    """A data folder and a model folder, made by the verbs of the command line alone."""
    root = tmp_path_factory.mktemp("toy")
    music, data, model = root / "music", root / "data", root / "model"
    music.mkdir()
    for i in range(8):
        tone(music / f"artist {i % 2} - song {i}.wav", 220 + 40 * i, 3.0)
    jukebox("prepare", music, "--out", data, "--min_seconds", 1, "--test_share", 0.4)
    jukebox("train", "toy-tokens", data, "--preset", "toy-tokens", "--out", model)
    jukebox("encode", data, model)
    jukebox("train", "masked", data, "--preset", "toy-tokens", "--out", model)
    return data, model


def tokens(run: Path) -> np.ndarray:
    """The codes of a run as they are on disk."""
    return np.fromfile(run / "codes" / "level_0_sample_0.u8", np.uint8).reshape(-1, BOOKS)


SAMPLE = ["--seconds", 1.5, "--artist", "artist 0", "--seed", 5, "--threads", 1]


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Path:
    """A song of 187 frames, in windows of 64 that overlap."""
    out = tmp_path_factory.mktemp("runs") / "run"
    jukebox("sample", trained[1], *SAMPLE, "--out", out)
    return out


# ---- training


def task(trained: tuple[Path, Path], books: int = BOOKS) -> PriorTask:
    from toy_tokens import PRESET

    model = ModelFolder.from_pretrained(trained[1])
    config = replace(PRESET.priors["masked"].for_corpus(3, 3), books=books)  # type: ignore[call-arg]
    return PriorTask(TaskSetup(model, "masked", trained[0], PRESET.prior_recipes["masked"], 0, "cpu", config))


def test_training_lowers_the_loss(trained):
    lines = [json.loads(line) for line in (trained[1] / "training" / "masked" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]


def test_the_mean_of_the_losses_of_a_batchs_parts_is_the_batchs_loss(trained):
    made = task(trained)
    made.open()
    (whole,) = (made.loss(batch, 7) for batch in made.share([made.batch(7, 0, 1)]))
    parts = [made.loss(batch, 7) for batch in made.share([made.batch(7, rank, 4) for rank in range(4)])]
    assert set(whole) == {"loss", "bits"} and made.amount == 8 * 64 * BOOKS
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) / 4 == pytest.approx(value.item(), rel=1e-5), name


def test_a_prior_begins_with_the_vectors_of_each_book_of_its_codec(trained):
    made = task(trained)
    vectors = ModelFolder.from_pretrained(trained[1]).codec().embeddings("toy.tokens")
    assert vectors is not None
    for book, v in enumerate(vectors):
        table = made.model.embedding.x_emb[BOOKS - 1 - book].weight
        assert torch.allclose(table, (v - v.mean(0)) / v.std(0) * 0.3, atol=1e-5)


def test_a_prior_of_another_number_of_books_than_its_stream_is_an_error(trained):
    with pytest.raises(UserError, match="holds 3 codes, one of the prior 2; configure it with books=3"):
        task(trained, books=2)


def test_evaluate_measures_bits_of_frames_beside_another_song(trained, tmp_path):
    out = tmp_path / "figures.json"
    jukebox("evaluate", trained[1], trained[0], "--out", out, "--windows", 8, "--songs", 3)
    figures = json.loads(out.read_text())["priors"]["masked"]
    assert 0 < figures["bits"] < 4 * BOOKS and set(figures["controls"]) == {"another song, half known"}


# ---- sampling and editing


def test_a_run_has_frames_of_all_books_within_range(run):
    request = json.loads((run / "run.json").read_text())
    assert request["priors"] == {"0": "masked"} and request["params"]["0"]["passes"] == 12
    assert tokens(run).shape == (187, BOOKS) and tokens(run).max() < 16
    assert read(run / "audio" / "level_0_sample_0.wav")[0].shape == (1, 187 * HOP)


def test_a_plan_counts_the_passes_of_all_books(trained, tmp_path, monkeypatch):
    from jukebox.sampling import sampler
    from launch.verbs.plan import plan

    steps, plain = [], sampler.LevelSampler._values

    def values(self, *given):
        yield from plain(self, *given)
        steps.append(self.steps)

    monkeypatch.setattr(sampler.LevelSampler, "_values", values)
    planned = plan("sample", str(trained[1]), seconds=1.5, threads=1, device="cpu")
    jukebox("sample", trained[1], "--seconds", 1.5, "--threads", 1, "--out", tmp_path / "run")
    (level,) = planned.levels
    assert level.steps == steps[-1] == len(steps) * (12 + 6 + 3)


def test_an_edit_changes_the_region_and_no_known_frame(trained, tmp_path):
    song = tone(tmp_path / "song.wav", 300, 3.0)
    jukebox("edit", trained[1], song, "--start", 1.2, "--end", 1.6, "--threads", 1, "--out", tmp_path / "edited.wav")
    old, new = read(song)[0], read(tmp_path / "edited.wav")[0]
    start, end = round(1.2 * RATE), round(1.6 * RATE)
    assert np.array_equal(old[:, :start], new[:, :start]) and np.array_equal(old[:, end:], new[:, end:])
    assert (old[:, start:end] != new[:, start:end]).mean() > 0.9
    run = tmp_path / "edited.run"
    with np.load(run / "known.npz") as known:
        kept, mask = known["toy.tokens"], known["toy.tokens.mask"]
    made, unknown = tokens(run), np.flatnonzero(~mask)
    assert kept.shape == made.shape and mask.ndim == 1 and 0 < unknown[0] and unknown[-1] < len(mask) - 1
    assert np.array_equal(made[mask], kept[mask]) and (made[~mask] != kept[~mask]).any(axis=0).all()
    request = json.loads((run / "run.json").read_text())
    assert request["kept"] == [0.0, pytest.approx(BOOKS * 4 * RATE / HOP), 0]  # bits per second, of all codes of the region


def test_a_replay_gives_the_same_bytes(run, tmp_path):
    jukebox("replay", run, "--out", tmp_path / "again")
    assert tokens(tmp_path / "again").tobytes() == tokens(run).tobytes()


KILLED = """
import os, signal, sys
import jukebox.sampling.sampler as sampler, jukebox.sampling.window_checkpoint as states
from launch.cli import main
from priors.masked.model import MaskedPrior

sampler.EVERY, states.EVERY, states.RATE = 0.0, 0.0, float("inf")
plain, count = MaskedPrior.sample, [0]

def sample(self, state):
    for update in plain(self, state):
        yield update  # the sampler goes on when the state is saved
        count[0] += 1
        if count[0] == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

MaskedPrior.sample = sample
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("passes", [14, 34])  # in the second book, in the first book of a later window
def test_a_run_killed_in_a_book_resumes_to_the_same_bytes(passes, trained, run, tmp_path):
    out = tmp_path / "killed"
    words = [str(word) for word in ("sample", trained[1], *SAMPLE, "--out", out)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    command = [sys.executable, "-c", KILLED, str(passes), *words]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [path.name for path in (out / "states").iterdir()] == ["level_0_sample_0.pt"]
    saved = torch.load(out / "states" / "level_0_sample_0.pt", weights_only=True)["tensors"]
    assert saved["known.toy.tokens/0"].float().mean() > saved["known.toy.tokens/2"].float().mean()
    jukebox("resume", out)
    assert tokens(out).tobytes() == tokens(run).tobytes()
