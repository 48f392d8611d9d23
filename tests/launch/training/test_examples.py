"""Audio and images that a training leaves on its way: they are there, they change, and they do not change the training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.audio.audio import read
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.report.spectrograms import heat
from launch.cli import main
from launch.corpus.encode import encode
from launch.training.log import read_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of synthetic songs, beside it a model of the test preset whose codec has left examples."""
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 6, seed=0, seconds=2.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    assert main([*command(root / "data", "vqvae"), "--steps", "20", "--examples_every", "10"]) == 0
    encode(str(root / "data"), str(root / "model"))
    return root / "data"


def command(data: Path, what: str, model: str = "model", level: str = "") -> list[str]:
    where = ["--out", str(data.parent / model), "--threads", "1", *(["--level", level] if level else [])]
    return ["train", what, str(data), "--preset", "test", *where]


def examples(data: Path, part: str, model: str = "model") -> list[str]:
    return sorted(path.name for path in (data.parent / model / "training" / part / "examples").glob("*"))


def test_a_codec_leaves_its_reconstruction_of_a_song_and_its_codebook(data):
    names = [f"step_00000{step}_{what}" for step in (10, 20) for what in ("codebook.png", "reconstruction.wav")]
    for level in range(3):
        assert examples(data, f"vqvae_{level}") == sorted(["original.wav", *names])
    folder = data.parent / "model" / "training" / "vqvae_0" / "examples"
    original, first, second = (read(folder / name)[0] for name in ("original.wav", names[1], names[3]))
    assert original.shape == first.shape == second.shape and 1.9 < original.shape[1] / 22050 < 2
    errors = [np.square(made - original).mean() for made in (first, second)]
    assert errors[1] < errors[0]  # it has learned in between


def test_a_prior_leaves_a_sampled_window_and_its_attention_and_trains_as_without_them(data):
    logs = []
    for model, flags in (("with", ["--examples_every", "4"]), ("without", [])):
        shutil.copytree(data.parent / "model", data.parent / model, ignore=shutil.ignore_patterns("training"))
        for level in "21":
            assert main([*command(data, "prior", model, level), "--steps", "8", *flags]) == 0
        lines = [read_log(data.parent / model / "training" / f"prior_{level}" / "log.jsonl") for level in "21"]
        logs.append([[(line["loss"], line["gradient_norm"]) for line in each] for each in lines])
    assert logs[0] == logs[1] and len(logs[0][0]) == 8
    assert [name for name in examples(data, "prior_2", "with") if "8" in name] == [
        "step_0000008_attention.png",
        "step_0000008_sample.wav",
    ]
    assert examples(data, "prior_1", "with") == ["step_0000004_sample.wav", "step_0000008_sample.wav"]
    assert examples(data, "prior_2", "without") == []
    assert main(["report", "train", str(data.parent / "with")]) == 0
    page = (data.parent / "with" / "training.html").read_text()
    assert page.count("data:audio/wav") == 2 and page.count("data:image/png") == 1 and "sample, step 8" in page


def test_wandb_without_a_network_gets_numbers_audio_and_images(data, monkeypatch):
    pytest.importorskip("wandb")
    pytest.importorskip("soundfile")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shutil.copytree(data.parent / "model", data.parent / "sent", ignore=shutil.ignore_patterns("training"))
    assert main([*command(data, "prior", "sent", "2"), "--steps", "4", "--examples_every", "4", "--wandb", "songs"]) == 0
    (run,) = (data.parent / "sent" / "training" / "prior_2" / "wandb").glob("offline-run-*")
    media = [path.suffix for path in run.rglob("media/**/*") if path.is_file()]
    assert sorted(media) == [".png", ".wav"] and list(run.glob("*.wandb"))


def test_an_image_is_written_of_a_matrix_of_any_size(tmp_path):
    for shape in ((3, 4), (600, 5), (1, 1)):
        assert heat(np.zeros(shape), tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


def test_a_prior_of_several_streams_leaves_the_audio_of_its_finest(data):
    shutil.copytree(data.parent / "model", data.parent / "all", ignore=shutil.ignore_patterns("training"))
    assert (
        main(
            [
                "train",
                "masked",
                str(data),
                "--preset",
                "test",
                "--out",
                str(data.parent / "all"),
                "--steps",
                "2",
                "--examples_every",
                "2",
            ]
        )
        == 0
    )
    (audio,) = (data.parent / "all" / "training" / "masked" / "examples").iterdir()
    assert audio.name == "step_0000002_sample.wav" and np.isfinite(read(audio)[0]).all()
