"""Where the samples of a file are among columns, audio decoded at the file's rate, and audio joined to a recording's ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jukebox.sampling.layout import Layout, after_recording, before_recording, render

RATE = 22050
HOP = 128


def test_columns_of_samples_are_exact_integers():
    layout = Layout(samples=44100, rate=44100, model_rate=RATE, hop=HOP)
    assert layout.columns == 173 and layout.ended == 172  # 172.27 columns a second
    assert layout.touched(0, 1) == (0, 1) and layout.touched(256, 512) == (1, 2) and layout.touched(255, 513) == (0, 3)
    assert layout.touched(0, 44100) == (0, 173)
    longer = Layout(44100, 44100, RATE, HOP, before=10, after=44100)
    assert longer.columns == 10 + 345 and longer.ended == 182
    assert (
        longer.touched(-1, 0) == (9, 10) and longer.touched(-2560, 256) == (0, 11) and longer.touched(-9999, 99999) == (0, 355)
    )


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 16000, 44101])
@pytest.mark.parametrize("before", [0, 7])
def test_codes_are_decoded_to_their_place_at_the_rate_of_the_file(tiny_model, rate, before):
    """A piece of the audio, from a piece of the codes, equals that piece of the whole."""
    import soxr

    codec, rng = tiny_model.codec(["vq.0"]), np.random.default_rng(0)
    layout = Layout(round(4.0 * rate), rate, RATE, HOP, before=before)
    codes = np.repeat(rng.integers(0, 32, layout.columns), 16).astype(np.uint16)
    whole = codec.decode_long(torch.from_numpy(codes.astype(np.int64))[None], "vq.0")[0].numpy()[:, before * HOP :]
    expected = whole if rate == RATE else soxr.resample(whole.T, RATE, rate, quality="HQ").T
    start, end = round(1.7 * rate) + 3, round(2.3 * rate) + 11
    first = layout.touched(start, end)[0] - 60
    made = np.concatenate(list(render(codec, codes[first * 16 :], "vq.0", first, layout, start, end)), axis=1)
    assert made.shape == (1, end - start) and np.abs(expected).max() > 0.01
    assert np.abs(made - expected[:, start:end]).max() < 2e-3 * np.abs(expected).max()
    to_the_end = np.concatenate(list(render(codec, codes, "vq.0", 0, layout, 5, layout.samples)), axis=1)
    assert to_the_end.shape == (1, layout.samples - 5)


def blocks(audio: np.ndarray, size: int):
    return (audio[:, i : i + size] for i in range(0, audio.shape[1], size))


@pytest.mark.parametrize("size", [7, 64, 5000])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_joined_to_a_recording_meets_its_edge_and_is_unchanged_after_the_fade(size, channels):
    """The correction is the mirrored difference at the edge; before a recording it is that after one, reversed in time."""
    rng, fade, n = np.random.default_rng(0), 50, 400
    decoded, old = rng.normal(size=(1, fade + n)), rng.normal(size=(channels, fade))
    after = np.concatenate(list(after_recording(blocks(decoded, size), old)), axis=1)
    assert after.shape == (channels, n)
    assert np.array_equal(after[:, fade:], np.repeat(decoded[:, 2 * fade :], channels, axis=0))
    difference = old[:, -1] - decoded[:, fade - 1]
    assert after[:, 0] - decoded[:, fade] == pytest.approx(difference, rel=1e-3)
    assert np.abs(after[:, fade - 1] - decoded[:, 2 * fade - 1]).max() < 1e-2
    before = np.concatenate(list(before_recording(blocks(decoded[:, ::-1], size), old[:, ::-1])), axis=1)
    assert before.shape == (channels, n) and np.allclose(before[:, ::-1], after)


def test_audio_joined_without_a_fade_is_what_was_decoded():
    decoded = np.random.default_rng(0).normal(size=(1, 300))
    for join in (after_recording, before_recording):
        assert np.array_equal(np.concatenate(list(join(blocks(decoded, 64), np.zeros((1, 0)))), axis=1), decoded)
