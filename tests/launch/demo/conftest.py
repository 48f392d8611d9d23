"""The folder of one seed of the evidence at toy size: 20 synthetic songs, a codec and a prior with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.labels import Labels
from data_prep.manifest import prepare
from data_prep.synthetic.songs import make_corpus
from jukebox import Jukebox
from jukebox.model.folder import build_codec, build_prior
from jukebox.model.presets import find
from launch.corpus.encode import encode
from launch.demo.figures import Corpus, recogniser
from launch.demo.lanes import RECOGNISER
from launch.demo.songs import SongPlan, sample_songs
from priors.conditioning.vocabulary import Characters
from vqvae.spectral.config import TOKENS

LENGTHS = (4.0, 6.0)
PLAN = SongPlan(songs=2, held=2, seconds=3.0, prompt=1.0, new=1.0, minute=4.0, longest=0.0)


@pytest.fixture(scope="session")
def seed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, preset = tmp_path_factory.mktemp("seed_0"), find("test_spectral")
    make_corpus(folder / "corpus", 20, seconds=LENGTHS, workers=1)
    prepare(folder / "corpus" / "songs.jsonl", folder / "data", test_share=0.25, workers=1)
    recogniser(str(folder / "data"), out=str(folder / RECOGNISER), steps=3)
    model, labels = (
        Jukebox.create(folder / "model", preset.codec, Characters(preset.symbols)),
        Labels.load(folder / "data" / "labels.json"),
    )
    model.save_labels(labels)
    torch.manual_seed(0)
    codec, corpus = build_codec(preset.codec), Corpus(model, folder / "data")
    codec.initialise(torch.from_numpy(corpus.audio(corpus.train[0], 2.0))[None], torch.Generator().manual_seed(0))
    model.save_codec(codec)
    prior = build_prior(
        preset.priors[TOKENS].for_corpus(len(labels.artists), len(labels.genres), Characters(preset.symbols).size)
    )
    model.save_prior(TOKENS, prior)
    encode(str(folder / "data"), str(folder / "model"), threads=1)
    return folder


@pytest.fixture(scope="session")
def sampled(seed_folder: Path) -> Path:
    """The folder with the songs of PLAN in it."""
    sample_songs(seed_folder, 0, PLAN)
    return seed_folder
