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
