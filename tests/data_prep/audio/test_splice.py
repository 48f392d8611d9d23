"""A file with a piece replaced: what is not replaced keeps its very samples, in every format that can hold them."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from data_prep.audio import audio
from data_prep.audio.splice import Piece, copy_excerpt, form_of, share_of_old, splice, suffix_of
from data_prep.errors import BadAudio, UserError

RATE, FRAMES = 44100, 30_000
NATIVE = {"FLOAT": "float32", "DOUBLE": "float64"}


def noise(channels: int, frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (frames, channels))


def samples(path, subtype: str) -> np.ndarray:
    return soundfile.read(path, dtype=NATIVE.get(subtype, "int32"), always_2d=True)[0]


def blocks(sound: np.ndarray, size: int = 777):
    return (sound[:, i : i + size] for i in range(0, sound.shape[1], size))


@pytest.mark.parametrize(
    ("suffix", "subtype", "channels"),
    [
        (".wav", "PCM_U8", 2),
        (".wav", "PCM_16", 1),
        (".wav", "PCM_16", 2),
        (".wav", "PCM_24", 2),
        (".wav", "PCM_32", 2),
        (".wav", "FLOAT", 2),
        (".wav", "DOUBLE", 6),
        (".flac", "PCM_16", 2),
        (".flac", "PCM_24", 2),
        (".aiff", "PCM_24", 1),
    ],
)
def test_what_is_not_replaced_keeps_its_very_samples(tmp_path, suffix, subtype, channels):
    source, target = tmp_path / f"song{suffix}", tmp_path / f"new{suffix}"
    soundfile.write(source, noise(channels), RATE, subtype=subtype)
    new = noise(1, 5000, seed=1).T * 0.5
    splice(source, target, [Piece(10_000, 15_000, 100, blocks(new))], FRAMES)
    old, made = samples(source, subtype), samples(target, subtype)
    assert soundfile.info(target).subtype == subtype and soundfile.info(target).samplerate == RATE
    assert suffix_of(source) == suffix
    outside = np.r_[0:10_000, 15_000:FRAMES]
    assert made.shape == old.shape and np.array_equal(made[outside], old[outside])
    as_float = made[10_100:14_900] / (2.0**31 if made.dtype == np.int32 else 1.0)
    step = 2.0 ** -(int(subtype[-2:].lstrip("U")) - 1) if subtype.startswith("PCM") else 1e-7
    assert np.abs(as_float - new.T[100:4900]).max() <= step / 2 + 1e-9  # every channel has the mono piece, rounded


def test_old_and_new_cross_over_inside_the_piece(tmp_path):
    source, target = tmp_path / "song.wav", tmp_path / "new.wav"
    soundfile.write(source, np.full((FRAMES, 2), 0.5), RATE, subtype="FLOAT")
    splice(source, target, [Piece(1000, 2000, 200, [np.full((2, 1000), -0.5)])], FRAMES)
    made = samples(target, "FLOAT")[:, 0]
    assert (made[:1000] == 0.5).all() and (made[2000:] == 0.5).all() and (made[1200:1800] == -0.5).all()
    assert (np.diff(made[1000:1200]) < 0).all() and (np.diff(made[1800:2000]) > 0).all()
    assert np.abs(np.diff(made)).max() < 0.01  # no step anywhere
    assert made[1100] == pytest.approx(0.0, abs=0.01)  # the middle of the fade


def test_a_piece_at_an_end_of_the_file_has_nothing_to_fade_with_there():
    at = np.arange(100)
    assert share_of_old(at, Piece(0, 100, 20, []), 100).max() == 0
    left = share_of_old(at, Piece(0, 100, 20, []), 500)
    assert left[0] == 0 and left[-1] > 0.99
    short = share_of_old(at + 100, Piece(100, 200, 400, []), 500)  # fades do not meet: half of the piece each
    assert short[0] > 0.99 and short[-1] > 0.99 and short.min() < 0.01


def test_pieces_in_front_and_behind_make_the_file_longer(tmp_path):
    source, target = tmp_path / "song.wav", tmp_path / "new.wav"
    soundfile.write(source, noise(2), RATE, subtype="PCM_24")
    front, behind = noise(2, 20_000, 1).T, noise(2, 40_000, 2).T
    pieces = [Piece(FRAMES, FRAMES + 40_000, 10, blocks(behind)), Piece(-20_000, 0, 10, blocks(front))]
    splice(source, target, pieces, FRAMES)
    made = samples(target, "PCM_24")
    assert len(made) == 20_000 + FRAMES + 40_000
    assert np.array_equal(made[20_000 : 20_000 + FRAMES], samples(source, "PCM_24"))
    assert np.allclose(made[:20_000] / 2**31, front.T, atol=2**-23)
    assert np.allclose(made[-40_000:] / 2**31, behind.T, atol=2**-23)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_what_is_lossy_becomes_a_wav_of_its_decoded_samples(tmp_path, suffix):
    source, target = tmp_path / f"song{suffix}", tmp_path / "new.wav"
    soundfile.write(source, noise(2) * 0.3, RATE)
    decoded, _ = audio.read(source)
    assert suffix_of(source) == ".wav"
    splice(source, target, [Piece(9000, 9500, 0, [np.zeros((1, 500))])], decoded.shape[1])
    made = samples(target, "FLOAT")
    assert np.array_equal(made[:9000], decoded.T[:9000]) and np.array_equal(made[9500:], decoded.T[9500:])
    assert not made[9000:9500].any()
    for other, kept in ((".flac", "PCM_24"), (suffix, soundfile.info(source).subtype)):
        splice(source, tmp_path / f"new{other}", [], decoded.shape[1])
        assert soundfile.info(tmp_path / f"new{other}").subtype == kept
        assert np.abs(audio.read(tmp_path / f"new{other}")[0] - decoded).mean() < 0.05
    with pytest.raises(UserError, match=r"new.m4a cannot be written; expected a name that ends in .wav"):
        splice(source, tmp_path / "new.m4a", [], decoded.shape[1])


def test_a_target_that_cannot_hold_the_samples_is_refused(tmp_path):
    source = tmp_path / "song.wav"
    soundfile.write(source, noise(1), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="as they are; name it new.wav"):
        splice(source, tmp_path / "new.flac", [], FRAMES)
    soundfile.write(source, noise(1), RATE, subtype="PCM_16")
    splice(source, tmp_path / "new.flac", [], FRAMES)  # 16 bits are 16 bits
    assert np.array_equal(samples(tmp_path / "new.flac", "PCM_16"), samples(source, "PCM_16"))


def test_a_splice_that_fails_leaves_nothing(tmp_path):
    source, target = tmp_path / "song.wav", tmp_path / "new.wav"
    soundfile.write(source, noise(1), RATE, subtype="PCM_16")
    with pytest.raises(ValueError, match="a piece gave 10 samples"):
        splice(source, target, [Piece(100, 200, 0, [np.zeros((1, 10))])], FRAMES)
    with pytest.raises(BadAudio, match="a moment ago"):
        splice(source, target, [], FRAMES - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize(
    ("name", "subtype", "channels", "copy"),
    [
        ("song.wav", "PCM_16", 2, "prompt.flac"),
        ("song.wav", "PCM_24", 1, "prompt.flac"),
        ("song.wav", "PCM_16", 9, "prompt.wav"),  # FLAC has 8 channels at most
        ("song.wav", "PCM_U8", 2, "prompt.wav"),
        ("song.wav", "PCM_32", 2, "prompt.wav"),
        ("song.wav", "FLOAT", 2, "prompt.wav"),
        ("song.wav", "DOUBLE", 1, "prompt.wav"),
        ("song.flac", "PCM_24", 2, "prompt.flac"),
        ("song.aiff", "PCM_16", 2, "prompt.flac"),
        ("song.aiff", "PCM_S8", 1, "prompt.flac"),
    ],
)
@pytest.mark.parametrize("frames", [None, 1, 20_001])
def test_an_excerpt_has_the_very_samples_of_the_file(tmp_path, name, subtype, channels, copy, frames):
    source = tmp_path / name
    soundfile.write(source, noise(channels), RATE, subtype=subtype)
    target = copy_excerpt(source, tmp_path / "prompt", frames)
    made = soundfile.info(target)
    assert (target.name, made.subtype, made.samplerate, made.channels) == (copy, subtype, RATE, channels)
    assert np.array_equal(samples(target, subtype), samples(source, subtype)[:frames])


def test_an_excerpt_of_a_lossy_file_has_its_decoded_samples(tmp_path):
    source = tmp_path / "song.mp3"
    soundfile.write(source, noise(2) * 0.3, RATE)
    target = copy_excerpt(source, tmp_path / "my.prompt", 10_000)
    assert target.name == "my.prompt.wav" and soundfile.info(target).subtype == "FLOAT"
    assert np.array_equal(samples(target, "FLOAT"), audio.read(source)[0].T[:10_000])


@pytest.mark.parametrize(
    ("container", "subtype"), [("WAV", "PCM_16"), ("WAVEX", "PCM_24"), ("AIFF", "PCM_16"), ("FLAC", "PCM_24")]
)
def test_a_copy_by_way_of_its_excerpt_has_the_form_of_the_file(tmp_path, container, subtype):
    """The recording of an edit may be gone: prompt.flac and the form in run.json are all there is."""
    source, target = tmp_path / "song", tmp_path / "new"
    soundfile.write(source, noise(2), RATE, subtype=subtype, format=container)
    assert form_of(source) == (container, subtype)
    splice(copy_excerpt(source, tmp_path / "prompt"), target, [Piece(5, 9, 0, [np.zeros((1, 4))])], FRAMES, form_of(source))
    made = soundfile.info(target)
    assert (made.format, made.subtype) == (container, subtype)
    assert np.array_equal(samples(target, subtype)[9:], samples(source, subtype)[9:])


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".w64"])
def test_equal_samples_of_floats_are_equal_bytes_at_any_time(tmp_path, suffix):
    """Of a file of floats libsndfile would note in which second it was written."""
    source = tmp_path / f"song{suffix}"
    soundfile.write(source, noise(2), RATE, subtype="FLOAT")
    splice(source, tmp_path / f"new{suffix}", [], FRAMES)
    assert b"PEAK" not in (tmp_path / f"new{suffix}").read_bytes()[:200]
    assert b"PEAK" not in copy_excerpt(source, tmp_path / "prompt").read_bytes()[:200]
