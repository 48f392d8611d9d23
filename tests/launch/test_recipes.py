"""The recipes: whole runs as a user reads and starts them."""

from __future__ import annotations

import json
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


@pytest.fixture
def recipe_environment(tmp_path: Path) -> dict[str, str]:
    """Variables under which `jukebox` and `python` are this environment's, with one thread."""
    (tmp_path / "bin").mkdir()
    for name, words in (("jukebox", "-m launch.cli"), ("python", "")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    paths = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_a_model_is_fine_tuned_from_a_folder_of_music_to_a_song(tiny_model, recipe_environment, tmp_path):
    make_corpus(tmp_path / "music", 24, seed=0, seconds=2.0, artist=NEWCOMER.name, workers=1)
    environment = recipe_environment | {"PRESET": "test"}
    music, out = tmp_path / "music" / "songs.jsonl", tmp_path / "out"
    command = ["bash", str(ROOT / "launch" / "recipes" / "finetune.sh"), str(tiny_model.folder), str(music), str(out), "labels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Jukebox.from_pretrained(out / "model").labels.artists[-1] == NEWCOMER.name
    for name in ("before.json", "after.json", "training.html", "song/index.html"):
        assert (out / name).is_file(), name


@pytest.mark.long
def test_recordings_become_tables_of_several_models_with_their_claims(recipe_environment, tmp_path):
    """At toy size; the artist with the most songs has enough of them for a model of its own."""
    make_corpus(tmp_path / "music", 12, seconds=3.0, artist=NEWCOMER.name, workers=1)
    sizes = {"HOURS": "0.0012", "PRESET": "test_spectral", "LEVELS": "test", "HELD_OUT": "2", "ABLATION_STEPS": "0"}
    command = ["bash", str(ROOT / "launch" / "recipes" / "recordings.sh"), str(tmp_path / "music" / "songs.jsonl")]
    command += [str(tmp_path / "out"), str(tmp_path / "evidence")]
    done = subprocess.run(command, env=recipe_environment | sizes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evidence" / "recordings.json").read_text(encoding="utf-8"))
    assert list(found["models"]) == ["main", "half", "quarter", "artist"]
    assert "decoded from vq.2" in found["models"]["main"]["codec"] and "codec: mel distance" in done.stdout
    assert (tmp_path / "evidence" / "recordings.csv").read_text(encoding="utf-8").count("decoded from tokens") > 20


@pytest.mark.long
def test_a_model_is_made_for_the_package(recipe_environment, tmp_path):
    sizes = {
        "PRESET": "test_spectral",
        "SONGS": "16",
        "SECONDS_OF_SONGS": "3,4",
        "FIGURES": "0",
    }  # songs for the recogniser are longer
    command = ["bash", str(ROOT / "launch" / "recipes" / "model.sh"), str(tmp_path / "out"), str(tmp_path / "assets" / "demo")]
    done = subprocess.run(command, env=recipe_environment | sizes, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shipped = Jukebox.from_pretrained(tmp_path / "assets" / "demo")
    assert shipped.labels.artists[1:] and "held-out songs" in (shipped.folder / "card.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on the path")
def test_recordings_without_music_and_without_apt_are_one_line(tmp_path):
    for name in ("mkdir", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    command = [shutil.which("bash") or "bash", str(ROOT / "launch" / "recipes" / "recordings.sh"), "", str(tmp_path / "out")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "MUSIC=folder" in done.stderr


@pytest.mark.long
def test_a_latent_gan_becomes_a_table_of_figures_beside_controls(recipe_environment, tmp_path):
    """At toy size."""
    sizes = {
        "PRESET": "test_musika",
        "SONGS": "8",
        "SECONDS_OF_SONGS": "4",
        "SEEDS": "1",
        "STEPS": "12",
        "SECONDS_OF_MUSIC": "20",
        "SWITCHES": "2",
        "SECONDS_OF_SONG": "4",
        "RECOGNISER_STEPS": "2",
    }
    environment = recipe_environment | sizes | {"HELD_OUT": "1", "CODEC_STEPS": "4", "BENCH": "0"}
    command = ["bash", str(ROOT / "launch" / "recipes" / "musika.sh"), str(tmp_path / "out"), str(tmp_path / "evidence")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["what"] for row in json.loads((tmp_path / "evidence" / "musika.json").read_text(encoding="utf-8"))["rows"]}
    assert {"own: Frechet distance of windows: ratio", "shuffled: asked and found: density correlation"} <= rows
    assert "own: multi-scale distance: ratio" in rows
    session, songs = (json.loads((tmp_path / "evidence" / f"musika_{name}.json").read_text()) for name in ("session", "songs"))
    assert session["seconds"] == 20.0 and [change["name"] for change in session["changes"]] == ["density", "tempo"]
    assert {"held-out songs", "song", "noise of the same spectrum"} <= {row["what"] for row in songs["rows"]}


@pytest.mark.long
def test_wavenet_nsynth_and_the_argmax_bottleneck_become_tables_and_a_figure(recipe_environment, tmp_path):
    """At toy size."""
    sizes = {"PRESET": "test_wavenet", "SONGS": "8", "SECONDS_OF_SONGS": "2", "SEEDS": "1", "STEPS": "10", "HELD_OUT": "2"}
    command = ["bash", str(ROOT / "launch" / "recipes" / "wavenet.sh"), str(tmp_path / "out"), str(tmp_path / "evidence")]
    done = subprocess.run(
        command, env=recipe_environment | sizes | {"BENCH": "0", "TEST_SHARE": "0.4"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = {row["what"] for row in json.loads((tmp_path / "evidence" / "wavenet.json").read_text(encoding="utf-8"))["rows"]}
    assert {"NSynth, notes: N1, bits, latents ratio", "table: spectral: mel distance, dB"} <= rows
    worth = json.loads((tmp_path / "evidence" / "bottleneck.json").read_text(encoding="utf-8"))["worth"]
    assert [each["what"][:2] for each in worth[:3]] == ["A2", "A2", "A3"]
    assert (tmp_path / "evidence" / "wavenet_thread.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.long
def test_latent_diffusion_becomes_tables_of_figures_beside_controls(recipe_environment, tmp_path):
    """At toy size; the same command once more leaves all as it is."""
    sizes = {
        "PRESET": "test_melody",
        "LEVELS": "test",
        "SONGS": "8",
        "SECONDS_OF_SONGS": "4",
        "SEEDS": "1",
        "STEPS": "12",
        "SECONDS_OF_MUSIC": "2",
    }
    environment = recipe_environment | sizes | {"HELD_OUT": "1", "CODEC_STEPS": "4", "BENCH": "0"}
    command = ["bash", str(ROOT / "launch" / "recipes" / "melody.sh"), str(tmp_path / "out"), str(tmp_path / "evidence")]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rows = {row["what"] for row in json.loads((tmp_path / "evidence" / "melody.json").read_text(encoding="utf-8"))["rows"]}
    assert {"multi-chunk: Frechet distance of windows: ratio 5", "one angle: continuation by chunks: last"} <= rows
    assert "last chunk, one angle over multi-chunk" in rows
    compared = json.loads((tmp_path / "evidence" / "melody_compare.json").read_text(encoding="utf-8"))
    assert [row["renderer"] for row in compared["rows"]] == [
        "phases learned",
        "phases griffin_lim",
        "diffusion",
        "latent after encoding",
        "vq.0 after encoding",
        "noise of the same spectrum",
    ]
