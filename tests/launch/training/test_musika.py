"""The second autoencoder and the latent GAN from the command line: training, kills, routes, and what runs make of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_prep.manifest import load_manifest, prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.model.folder import ModelFolder
from jukebox.report.curves import explain
from jukebox.runs.run import Run
from launch.cli import main
from launch.corpus.controls import note_density
from launch.training.log import read_log
from priors.gan.config import GanParams


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of synthetic songs whose controls are given, and beside it a model with a hardly trained codec."""
    root = tmp_path_factory.mktemp("songs")
    make_corpus(root / "corpus", 4, seed=0, seconds=3.0, workers=1)
    prepare(root / "corpus" / "songs.jsonl", root / "data", test_share=0.3, workers=1)
    measured = {row.hash: {"tempo": 100.0, "onsets": [0.5, 1.0, 1.5]} for row in load_manifest(root / "data")}
    (root / "data" / "controls.json").write_text(json.dumps(measured))
    assert main(["train", "spectral", *flags(root), "--steps", "3"]) == 0
    return root


def flags(root: Path, model: str = "model") -> list[str]:
    return [str(root / "data"), "--preset", "test_musika", "--out", str(root / model), "--threads", "1"]


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """A model with all of it, hardly trained."""
    shutil.copytree(root / "model", root / "whole")
    assert main(["train", "stacked", *flags(root, "whole"), "--steps", "2"]) == 0
    assert main(["encode", str(root / "data"), str(root / "whole"), "--levels", "2"]) == 0
    assert main(["train", "gan", *flags(root, "whole"), "--steps", "4"]) == 0
    return root / "whole"


def test_the_second_autoencoder_is_a_training_of_its_own_that_leaves_the_first(root):
    before, model = load_file(root / "model" / "codec.safetensors"), ModelFolder.from_pretrained(root / "model")
    hashes = {name: model.info.codes_hash(name) for name in ("tokens", "spectral")}
    assert model.trained_streams() == ("spectral", "tokens") and model.info.codes_hash("spectral.2") == ""
    for _ in range(2):  # the second time it is done already
        assert main(["train", "stacked", *flags(root), "--steps", "3", "--examples_every", "3"]) == 0
    after = load_file(root / "model" / "codec.safetensors")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"stacked"}
    assert {name: model.info.codes_hash(name) for name in hashes} == hashes and model.info.codes_hash("spectral.2")
    assert model.trained_streams() == ("spectral", "tokens", "spectral.2")
    lines = read_log(root / "model" / "training" / "stacked" / "log.jsonl")
    assert {"latent_loss", "discriminator_loss"} <= set(lines[0])
    assert not [name for name in lines[0] if not explain(name)[1]], "each name of the log is explained"
    assert len(list((root / "model" / "training" / "stacked" / "examples").glob("*.wav"))) == 2


def test_generator_and_critic_learn_in_turns_and_what_is_kept_is_the_average_of_the_generator(trained, root):
    lines = read_log(trained / "training" / "gan" / "log.jsonl")
    assert {"loss", "critic_loss", "critic_certainty", "critic_penalty_weight", "made_deviation"} <= set(lines[0])
    assert not [name for name in lines[0] if not explain(name)[1]], "each name of the log is explained"
    last = ModelFolder.from_pretrained(trained).prior("gan")
    assert ModelFolder.from_pretrained(trained).info.priors["gan"].config.spec.writes == ("spectral.2",)
    checkpoint = sorted((trained / "training" / "gan").glob("step_*"))[-1]
    weights = load_file(next(iter(checkpoint.glob("*.safetensors"))))
    name = "generator.outlet.weight"
    assert torch.equal(weights[f"average/{name}"], last.state_dict()[name]), "what is saved is the average"
    assert not torch.equal(weights[f"weights/{name}"], last.state_dict()[name])
    assert torch.equal(weights["weights/critic.mixing"], last.state_dict()["critic.mixing"])
    assert "average/critic.score.weight" not in weights


def test_a_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(trained, root):
    other = shutil.copytree(trained, root / "other", ignore=shutil.ignore_patterns("gan", "prior_gan*"))
    for steps in ("2", "4"):
        assert main(["train", "gan", *flags(root, "other"), "--steps", steps]) == 0
    a, b = (load_file(folder / "prior_gan.safetensors") for folder in (trained, other))
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def test_the_route_samples_latents_of_any_length_and_their_audio(trained, tmp_path):
    assert (
        main(["sample", str(trained), "--route", "musika", "--seconds", "3", "--out", str(tmp_path / "run"), "--density", "3"])
        == 0
    )
    run = Run.open(tmp_path / "run")
    assert run.request["levels"] == [2] and run.request["params"]["2"] == asdict(GanParams(density=3.0))
    assert (
        main(["sample", str(trained), "--route", "musika", "--seconds", "5", "--out", str(tmp_path / "long"), "--density", "3"])
        == 0
    )
    long, short = (Run.open(tmp_path / name).codes(2, [0])[0] for name in ("long", "run"))
    np.testing.assert_allclose(long[: len(short)], short, atol=1e-3)
    assert main(["replay", str(tmp_path / "run"), "--out", str(tmp_path / "again")]) == 0
    assert (
        main(
            ["sample", str(trained), "--route", "musika", "--seconds", "3", "--out", str(tmp_path / "bad"), "--truncation", "5"]
        )
        == 2
    )


def test_generated_latents_become_tokens_that_another_route_continues(trained, root, tmp_path):
    assert main(["train", "tokens", *flags(root, "whole"), "--from_audio", "--steps", "1"]) == 0
    musika = ["sample", str(trained), "--route", "musika", "--seconds", "4", "--levels", "2,1", "--out", str(tmp_path / "run")]
    assert main(musika) == 0
    codec: Any = ModelFolder.from_pretrained(trained).codec(["tokens", "spectral.2"])
    run = Run.open(tmp_path / "run")
    assert run.request["encodes"] == [1] and run.sampled_levels == [2]
    latents, tokens = (torch.from_numpy(run.codes(level, [0]).astype(kind)) for level, kind in ((2, np.float32), (1, np.int64)))
    with torch.no_grad():
        expected = codec.quantiser.encode(codec.second.decoder(latents))
    assert (tokens == expected).float().mean() > 0.99, "quantised without audio in between; blocks of the grid round otherwise"
    more = ["--prompt_seconds", "2", "--seconds", "5", "--out", str(tmp_path / "continued")]
    assert main(["continue", str(trained), str(tmp_path / "run"), "--route", "spectral", *more]) == 0
    continued = Run.open(tmp_path / "continued")
    given = continued.request["given"]["1"]
    assert given > 100 and np.array_equal(continued.codes(1, [0], stop=given), tokens[:, :given].numpy())


def test_the_density_of_notes_is_their_number_per_second_also_at_the_ends():
    even = note_density(list(np.arange(0.125, 20, 0.25)), 200, 0.1)
    assert np.abs(even - 4).max() < 0.3
    changing = note_density([*np.arange(0, 10, 0.5), *np.arange(10, 20, 0.125)], 200, 0.1)
    assert changing[:50].max() < 2.5 and changing[-50:].min() > 7 and np.abs(note_density([], 20, 0.1)).max() == 0
