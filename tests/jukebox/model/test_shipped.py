"""The model that comes with the package: float16 on disk, float32 when loaded, used where no MODEL is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.synthetic.band import ARTISTS
from jukebox import Jukebox, Song
from jukebox.evaluation.metrics import sound_statistics
from jukebox.model.folder import ModelFolder, build_codec, build_prior
from jukebox.model.info import SHIPPED, ModelInfo, shipped_folder
from jukebox.model.presets import find
from launch.demo.demo import make_first_song
from launch.learn.ship import MOST, ship
from vqvae.spectral.config import TOKENS

ROOT = Path(__file__).parents[3]


def call(
    package: Path, *words: str, code: str = "import sys; from launch.cli import main; sys.exit(main())"
) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], env=environment, cwd=package, capture_output=True, text=True)


@pytest.fixture(scope="module")
def package(two_codecs, tmp_path_factory) -> Path:
    """The packages with a small model of random weights as the shipped one."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "jukebox", folder / "jukebox", ignore=shutil.ignore_patterns("assets"))
    for name in ("data_prep", "priors", "vqvae", "launch"):
        (folder / name).symlink_to(ROOT / name)
    ship(str(two_codecs.folder), out=str(folder / "jukebox" / "assets" / "demo"))
    return folder


def test_files_are_float16_and_what_is_loaded_is_float32_with_the_hash_of_its_codes(package, two_codecs):
    folder = package / "jukebox" / "assets" / "demo"
    stored = [x for file in folder.glob("*.safetensors") for x in load_file(file).values() if x.is_floating_point()]
    assert stored and {x.dtype for x in stored} == {torch.float16}
    model = ModelFolder.from_pretrained(folder)
    codec, prior = model.codec([TOKENS]), model.prior(TOKENS)
    assert {x.dtype for part in (codec, prior) for x in part.parameters()} == {torch.float32}
    assert codec.codes_hash(TOKENS) == model.info.codes_hash(TOKENS) != ""
    for name, x in two_codecs.prior(TOKENS).state_dict().items():
        assert torch.allclose(x, prior.state_dict()[name], atol=1e-3, rtol=1e-3), name
    assert model.spec.names == ("spectral", "tokens") and list(model.info.routes) == ["spectral"]
    assert "synthetic" in (folder / "card.md").read_text(encoding="utf-8")


def test_sample_without_a_model_uses_it_and_so_does_the_python_api(package, tmp_path):
    done = call(package, "sample", "--seconds", "1", "--artist", "ann", "--out", str(tmp_path / "song"))
    assert done.returncode == 0 and next((tmp_path / "song" / "audio").glob("*.wav")), done.stderr
    code = (
        "from jukebox import Jukebox, Song; print(Jukebox.from_pretrained().generate(Song(artist='ann'), seconds=1.0).seconds)"
    )
    done = call(package, code=code)
    assert done.returncode == 0 and 0.9 < float(done.stdout) <= 1.0, done.stderr


def test_the_demo_begins_with_a_song_of_it(package, tmp_path):
    code = "import sys, pathlib; from launch.demo.demo import make_first_song as make; make(sys.argv[2:], pathlib.Path(sys.argv[1]))"
    folder = tmp_path / "first_song"
    done = call(package, str(tmp_path), "sample", "MODEL", "--seconds", "1", "--out", str(folder), code=code)
    assert done.returncode == 0 and f"to listen, open {folder / 'index.html'}" in done.stdout, done.stderr
    assert (folder / "index.html").is_file()


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["sample", "--route", "jukebox"], "no route 'jukebox'; it has spectral"),
        (["edit", "shipped", "song.wav", "--start", "0.1", "--end", "0.5"], "no prior that inpaints"),
        (["vary", "shipped", "song.wav", "--periodic", "4"], "no prior that inpaints"),
    ],
)
def test_a_verb_that_needs_another_part_says_which_is_missing(package, tmp_path, words, missing):
    from data_prep.audio.audio import write_wav
    from data_prep.synthetic.songs import make_song

    if not (package / "song.wav").is_file():
        write_wav(package / "song.wav", make_song(0, seconds=2.0).audio, 22050)
    done = call(package, *words, "--out", str(tmp_path / "out.wav"))
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and missing in lines[0], done.stderr
    assert "the shipped model has spectral tokens alone" in lines[0]


def test_a_package_without_the_model_says_so_in_one_line(tmp_path):
    with pytest.raises(UserError, match="this package comes without a trained model; name a MODEL"):
        shipped_folder(tmp_path)


def test_a_demo_without_the_model_prints_that_its_first_song_follows_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("launch.demo.demo.SHIPPED", tmp_path / "assets")
    make_first_song(["sample", "MODEL"], tmp_path)
    assert "the first song follows the training" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_model_of_the_package_is_trained_and_small():
    model = ModelFolder.from_pretrained(SHIPPED)
    assert (
        sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MOST and "bits per frame" in (SHIPPED / "card.md").read_text()
    )
    assert set(model.labels.artists[1:]) == {artist.name for artist in ARTISTS}


def test_songs_of_the_package_s_model_have_partials_and_those_of_an_untrained_prior_do_not(tmp_path):
    """Peakiness of true songs is .93; of noise of their spectrum .68."""
    shutil.copytree(SHIPPED, tmp_path / "untrained")
    untrained = ModelFolder.from_pretrained(tmp_path / "untrained")
    torch.manual_seed(0)
    untrained.save_prior(TOKENS, build_prior(untrained.entry(TOKENS).config))
    found = []
    for folder in (SHIPPED, tmp_path / "untrained"):
        song = Song(ARTISTS[0].name, ("rock",), "all the cold wind will run")
        audio = Jukebox.from_pretrained(folder).generate(song, seconds=6.0, seed=3)
        found.append(sound_statistics(audio.samples, audio.sample_rate).peakiness)
    assert found[0] > 0.85 > 0.75 > found[1]


def test_a_folder_called_shipped_is_itself(spectral_model, tmp_path, monkeypatch):
    shutil.copytree(spectral_model.folder, tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    assert ModelInfo.read("shipped").folder == (tmp_path / "shipped").resolve()


def test_a_model_that_is_too_large_is_not_shipped(tmp_path):
    demo = find("demo")
    model = ModelFolder.create(tmp_path / "model", demo.more_codecs[0])
    model.save_codec(build_codec(demo.more_codecs[0]))
    model.save_prior(TOKENS, build_prior(demo.priors[TOKENS]))
    with pytest.raises(UserError, match=r"takes 1\d\.\d MB in float16, expected at most 12: "):
        ship(str(tmp_path / "model"), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_weights_that_float16_cannot_hold_are_not_shipped(spectral_model, tmp_path):
    shutil.copytree(spectral_model.folder, tmp_path / "model")
    model = ModelFolder.from_pretrained(tmp_path / "model")
    prior = model.prior(TOKENS)
    next(iter(prior.parameters())).data.fill_(1e6)
    model.save_prior(TOKENS, prior)
    with pytest.raises(UserError, match="does not fit into float16"):
        ship(str(tmp_path / "model"), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
