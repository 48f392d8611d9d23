"""A recording in columns: its codes around an edit are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_prep.audio.audio import write_wav
from jukebox.editing.recording import Recording, read_codes
from jukebox.model.info import ModelInfo
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.sampling.layout import Layout
from jukebox.song import Song

RATE = 22050
HOP = 128
RATIOS = {"vq.0": 16, "vq.1": 4, "vq.2": 1}


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Tones that come and go, other ones in each channel."""
    at = np.arange(round(seconds * rate)) / rate
    rows = [0.4 * np.sin(2 * np.pi * (200 + 90 * c) * at * (1 + 0.2 * at)) * (1 + np.sin(9 * at)) / 2 for c in range(channels)]
    return np.stack(rows).astype(np.float32)


def make_run(model, folder, seconds: float) -> Run:
    """A finished run of two samples, of random codes."""
    info = ModelInfo.read(model.folder)
    run = Run.create(folder, request.sampled(info, [Song(), Song()], seconds, request.RunSettings()))
    rng = np.random.default_rng(0)
    for level in range(3):
        run.append(level, [0, 1], 0, rng.integers(0, 32, (2, run.total(level))), 1.0)
    for i in range(2):
        codes = torch.from_numpy(run.codes(0, [i]).astype(np.int64))
        write_wav(run.audio_path(0, i), model.codec(["vq.0"]).decode_long(codes, "vq.0")[0].numpy(), RATE)
    return run


@pytest.fixture(scope="module")
def song(tmp_path_factory, tiny_model):
    path = tmp_path_factory.mktemp("song") / "song.wav"
    write_wav(path, sound(6.0, 44100, 2), 44100)
    recording = Recording.open(ModelInfo.read(tiny_model.folder), path)
    return recording, Layout(recording.info.frames, 44100, RATE, HOP)


def test_codes_of_a_piece_are_those_of_the_whole(song, tiny_model):
    recording, layout = song
    whole = read_codes(tiny_model, recording, layout, 0, layout.columns)
    assert {stream: len(codes) for stream, codes in whole.items()} == {
        stream: ratio * layout.columns for stream, ratio in RATIOS.items()
    }
    from data_prep.audio.audio import read

    decoded = read(recording.sound, sample_rate=RATE, channels=1)[0]
    decoded = np.pad(decoded, ((0, 0), (0, -decoded.shape[1] % HOP)))
    expected = tiny_model.codec().encode_long(torch.from_numpy(decoded)[None], list(RATIOS))
    for stream, codes in whole.items():
        assert codes.dtype == np.uint16
        assert (codes == expected[stream][0].numpy()).mean() > 0.999  # ties within rounding
        assert len(np.unique(codes)) > 4
    for first, stop in ((0, 40), (400, 500), (layout.columns - 30, layout.columns)):
        piece = read_codes(tiny_model, recording, layout, first, stop)
        for stream, codes in piece.items():
            ratio = RATIOS[stream]
            assert (codes == whole[stream][first * ratio : stop * ratio]).mean() > 0.99


def test_columns_that_the_file_does_not_have_are_zeros(song, tiny_model):
    recording, layout = song
    moved = Layout(layout.samples, 44100, RATE, HOP, before=20, after=44100)
    plain = read_codes(tiny_model, recording, layout, 0, 30)
    codes = read_codes(tiny_model, recording, moved, 10, 50)
    for stream, ratio in (("vq.2", 1), ("vq.0", 16)):
        before, there = np.split(codes[stream], [10 * ratio])
        assert not before.any() and np.array_equal(there, plain[stream])
    for first, stop in ((0, 15), (moved.ended + 1, moved.columns)):
        assert not any(each.any() for each in read_codes(tiny_model, recording, moved, first, stop).values())


def test_a_run_gives_the_codes_that_it_stores(tiny_model, tmp_path):
    run = make_run(tiny_model, tmp_path / "run", 0.4)
    recording = Recording.open(ModelInfo.read(tiny_model.folder), tmp_path / "run", sample=2)
    layout = Layout(recording.info.frames, RATE, RATE, HOP)
    codes = read_codes(tiny_model, recording, layout, 5, 30)
    for level, (stream, ratio) in enumerate(RATIOS.items()):
        assert np.array_equal(codes[stream], run.codes(level, [1], 5 * ratio, 30 * ratio)[0])
