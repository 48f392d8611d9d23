"""The recipes: whole runs as a person reads and starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.synthetic.band import NEWCOMER
from data_prep.synthetic.songs import make_corpus
from jukebox import Jukebox

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.sh"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on the path")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_script_that_says_how_it_is_called(recipe):
    assert subprocess.run(["bash", "-n", str(recipe)]).returncode == 0
    done = subprocess.run(["bash", str(recipe)], capture_output=True, text=True)
    assert done.returncode != 0 and f"launch/recipes/{recipe.name} " in recipe.read_text(encoding="utf-8")


@pytest.mark.long
def test_a_model_is_fine_tuned_from_a_folder_of_music_to_a_song(tiny_model, tmp_path):
    make_corpus(tmp_path / "music", 24, seed=0, seconds=2.0, artist=NEWCOMER.name, workers=1)
    (tmp_path / "bin").mkdir()
    for name, words in (("jukebox", "-m launch.cli"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    paths = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **paths, "PRESET": "test", "OMP_NUM_THREADS": "1"}
    music, out = tmp_path / "music" / "songs.jsonl", tmp_path / "out"
    command = ["bash", str(ROOT / "launch" / "recipes" / "finetune.sh"), str(tiny_model.folder), str(music), str(out), "labels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Jukebox.from_pretrained(out / "model").labels.artists[-1] == NEWCOMER.name
    for name in ("before.json", "after.json", "training.html", "song/index.html"):
        assert (out / name).is_file(), name
