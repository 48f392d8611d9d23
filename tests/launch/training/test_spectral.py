"""Training of the spectral codec and its prior: stereo, and windows that begin with a song."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.audio.audio import read
from data_prep.manifest import audio_path, load_manifest, prepare
from data_prep.synthetic.songs import make_corpus
from jukebox.evaluation.metrics import mel_distance
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import PRESETS
from launch.cli.commands import main
from launch.training.tasks.codec import SpectralTask
from launch.training.tasks.prior import PriorTask
from launch.training.tasks.task import TaskSetup
from launch.training.trainer import fit


def correlation(audio: np.ndarray) -> float:
    """Of the left and the right channel."""
    return float(np.corrcoef(audio)[0, 1])


@pytest.mark.long
def test_a_stereo_codec_keeps_the_correlation_of_the_channels_and_its_sound_beats_an_untrained_one(tmp_path):
    torch.set_num_threads(2)
    make_corpus(tmp_path / "corpus", 24, seconds=10.0, channels=2)
    prepare(tmp_path / "corpus" / "songs.jsonl", tmp_path / "data", test_share=0.2)
    demo = PRESETS["demo"]
    config = replace(demo.more_codecs[0], channels=2, width=128)
    recipe = replace(demo.codec_recipes["tokens"], steps=250, batch=4, max_minutes=0.0, save_every=250)
    model = ModelFolder.create(tmp_path / "model", config)
    setup = TaskSetup(model, "tokens", tmp_path / "data", recipe, 0, "cpu")
    untrained = SpectralTask(setup)
    untrained.open()
    fit(SpectralTask(setup), recipe, tmp_path / "training")
    codec, seen = model.codec(["tokens"]), []
    for row in [row for row in load_manifest(tmp_path / "data") if row.split == "test"][:3]:
        audio = torch.from_numpy(read(audio_path(tmp_path / "data", row), channels=2)[0])
        audio = audio[:, : audio.shape[1] // 1024 * 1024]
        made = codec.decode(codec.encode(audio[None], ("tokens",)), "tokens")[0]
        control = untrained.model.eval().decode(untrained.model.encode(audio[None], ("tokens",)), "tokens")[0]
        distances = [mel_distance(audio.mean(0), each.mean(0), 22050) for each in (made, control)]
        seen.append((abs(correlation(made.numpy()) - correlation(audio.numpy())), *distances))
    difference, own, other = np.mean(seen, axis=0)
    assert difference < 0.15 and own < 0.7 * other, seen


def test_a_share_of_the_windows_begins_with_the_song():
    """A function of seed, step and row; without a share every window stays where it is."""
    task = object.__new__(PriorTask)
    for share, low, high in ((0.0, 0.0, 0.0), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)):
        task.recipe = replace(PRESETS["test"].prior_recipes["prior_2"], song_starts=share)
        starts = [[task._start(7, (0, step, row)) for row in range(4)] for step in range(100)]
        assert low <= np.mean(np.array(starts) == 0) <= high and {0, 7} >= set(np.ravel(starts).tolist())
        assert starts == [[task._start(7, (0, step, row)) for row in range(4)] for step in range(100)]


def test_a_model_of_44_khz_and_two_channels_trains_encodes_and_samples(tmp_path):
    """By the verbs; its gain is fitted when the weights are written, again by a training that was done already."""
    make_corpus(tmp_path / "corpus", 6, seconds=2.0, channels=2, sample_rate=44100, workers=1)
    data, model = str(tmp_path / "data"), str(tmp_path / "model")
    assert main(["prepare", str(tmp_path / "corpus" / "songs.jsonl"), "--out", data, "--workers", "1"]) == 0
    train = ["--preset", "test_44k", "--steps", "4", "--threads", "1", "--out", model]
    assert main(["train", "spectral", data, *train]) == 0
    first = ModelFolder.from_pretrained(model).codec(["tokens"]).decoder.gain  # type: ignore[union-attr]
    assert main(["train", "spectral", data, *train]) == 0
    again = ModelFolder.from_pretrained(model).codec(["tokens"]).decoder.gain  # type: ignore[union-attr]
    assert first.shape == (2, 129) and not torch.equal(first, torch.ones_like(first)) and torch.equal(first, again)
    assert main(["encode", data, model, "--levels", "1", "--threads", "1"]) == 0
    assert main(["train", "tokens", data, *train]) == 0
    assert main(["sample", model, "--seconds", "1", "--out", str(tmp_path / "song")]) == 0
    audio, rate = read(next((tmp_path / "song" / "audio").glob("*.wav")))
    assert rate == 44100 and audio.shape == (2, 44032) and "effective_dimension" in read_log(tmp_path)


def read_log(folder) -> str:
    return (folder / "model" / "training" / "spectral" / "log.jsonl").read_text(encoding="utf-8")
