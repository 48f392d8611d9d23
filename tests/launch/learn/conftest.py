"""A model that `jukebox learn` made of eight synthetic songs, and what it printed."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from data_prep.synthetic.songs import make_corpus
from launch.cli import main

FLAGS = ["--preset", "test_spectral", "--hours", "0.0005", "--threads", "1"]


class Learned(NamedTuple):
    model: Path
    command: list[str]
    printed: str

    def beside(self, name: str) -> Path:
        return self.model.with_name(f"{self.model.name}_{name}")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder, 8, seconds=4.0, workers=1)
    return folder


@pytest.fixture(scope="session")
def learned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    model, text = tmp_path_factory.mktemp("learned") / "mine", StringIO()
    command = ["learn", str(corpus / "songs.jsonl"), "--out", str(model), *FLAGS]
    with redirect_stdout(text):
        assert main(command) == 0
    return Learned(model, command, text.getvalue())
