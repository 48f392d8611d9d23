"""Blocks end to end are the whole: read as `read` reads, written as `write_wav` writes."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.audio.audio import read, write_wav
from data_prep.audio.blocks import BlockReader, declared_seconds
from data_prep.audio.writers import write_audio, writing
from data_prep.errors import BadAudio


def noise(channels: int, samples: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((channels, samples)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, 7, 16384, 40_001])
@pytest.mark.parametrize(("rate", "channels"), [(None, None), (22050, 1), (48000, 2), (44100, 1)])
def test_blocks_are_the_samples_of_the_whole(tmp_path, samples, rate, channels):
    path = tmp_path / "a.wav"
    write_wav(path, noise(2, samples), 44100)
    with BlockReader(path, sample_rate=rate, channels=channels) as reader:
        assert (reader.source_channels, reader.source_rate) == (2, 44100)
        blocks = [np.zeros((reader.channels, 0), np.float32), *reader]
    whole, _ = read(path, sample_rate=rate, channels=channels)
    joined = np.concatenate(blocks, axis=1)
    assert joined.shape == whole.shape and reader.samples == whole.shape[1]
    assert np.allclose(joined, whole, atol=1e-6)
    assert max(block.shape[1] for block in blocks) < 40_000, "it came in blocks"


def test_an_mp3_in_blocks_is_the_mp3(tmp_path):
    path = tmp_path / "a.mp3"
    write_audio(path, noise(1, 50_000), 44100)
    with BlockReader(path, sample_rate=16000, channels=2) as reader:
        joined = np.concatenate(list(reader), axis=1)
    assert np.allclose(joined, read(path, sample_rate=16000, channels=2)[0], atol=1e-6)
    assert declared_seconds(path) == pytest.approx(50_000 / 44100, abs=0.1)


def test_a_file_that_is_no_sound_is_refused_and_has_no_declared_length(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF and then nothing of use")
    with pytest.raises(BadAudio, match="unreadable"):
        list(BlockReader(path))
    assert declared_seconds(path) == 0


def test_a_wav_written_in_blocks_has_the_bytes_of_one_written_whole(tmp_path):
    audio = noise(2, 5000) * 20  # some of it is clipped
    write_wav(tmp_path / "whole.wav", audio, 22050)
    with writing(tmp_path / "blocks.wav", 2, 22050) as writer:
        for block in np.split(audio, [0, 1, 1700, 1700, 4000], axis=1):
            writer.write(block)
    assert writer.samples == 5000
    assert (tmp_path / "blocks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_a_wav_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="finite"), writing(tmp_path / "a.wav", 1, 8000) as writer:
        writer.write(noise(1, 100))
        writer.write(noise(1, 100) * np.nan)
    assert not list(tmp_path.iterdir())
