"""Quality of routes: held-out songs rendered from their own coarsest sequence, beside controls."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.song import Song
from launch.bench.render import ARMS, random_models, with_quality
from launch.cli import main
from launch.render.quality import CONTROLS, quality_of, render


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """A model of random weights with three levels, tokens and latents."""
    return random_models(tmp_path_factory.mktemp("model"), ("test", "test_melody"), 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    make_corpus(folder / "corpus", 4, seconds=2.0, workers=0)
    prepare(folder / "corpus" / "songs.jsonl", folder / "data", test_share=0.5, workers=1)
    return folder / "data"


def test_a_route_of_one_stream_decodes_it_and_others_sample_what_is_finer(model):
    wave = 0.1 * torch.randn(1, 3 * 4096, generator=torch.Generator().manual_seed(0))
    codec = model.codec(["tokens"])
    expected = codec.decode_long(codec.encode_long(wave[None], ["tokens"])["tokens"], "tokens", wave.shape[-1])[0]
    assert render(model, "spectral", {}, wave, Song(), 0).equal(expected)
    first, again, other = (render(model, "melody", {"steps": 2}, wave, Song(), seed) for seed in (0, 0, 1))
    assert first.shape == wave.shape and first.equal(again) and not first.equal(other)


def test_every_arm_and_control_has_both_distances(model, data):
    arms = {name: ARMS[name] for name in ("masked", "diffusion, 5 steps", "phase decoder")}
    found = quality_of(model, str(data), arms, 1.0, 0)
    assert list(found) == [*arms, *CONTROLS]
    assert all(row["mel"] > 0 and math.isfinite(row["frechet"]) for row in found.values())
    rows = with_quality([{"arm": name, "passes": 1} for name in arms], found)
    assert [row["arm"] for row in rows] == list(found) and rows[0] == {"arm": "masked", "passes": 1, **found["masked"]}


def test_quality_without_a_model_is_one_line(capsys):
    assert main(["bench", "render", "--data", "somewhere"]) == 2
    assert "MODEL" in capsys.readouterr().err
