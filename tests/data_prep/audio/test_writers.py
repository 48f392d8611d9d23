"""Audio files that are written: the suffix decides on the format, all samples are there, and a failure leaves no file."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from data_prep.audio.audio import read, write_wav
from data_prep.audio.writers import FORMATS, format_of, with_suffix, write_audio, writing
from data_prep.errors import UserError
from tests.data_prep.audio_files import files_of_at_most


def tones(channels: int, rate: int, seconds: float = 1.3) -> np.ndarray:
    """One frequency per channel, so that their order shows."""
    at = np.arange(round(seconds * rate)) / rate
    return np.stack([0.2 * np.sin(2 * np.pi * 200 * (c + 1) * at) for c in range(channels)]).astype(np.float32)


def pitches(audio: np.ndarray, rate: int) -> list[int]:
    found = np.abs(np.fft.rfft(audio[:, :rate])).argmax(1)
    return [round(each / 200) for each in found]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(22050, 1), (44100, 2), (96000, 2), (48000, 6)])
def test_the_suffix_decides_on_the_format_and_all_audio_is_there(tmp_path, suffix, rate, channels):
    path = tmp_path / f"a{suffix.upper()}"
    if (suffix, channels) == (".mp3", 6):
        with pytest.raises(UserError, match=r"a.MP3 cannot hold 6 channels, MP3 has 2 at most; name it a.wav"):
            write_audio(path, tones(channels, rate), rate)
        return
    write_audio(path, tones(channels, rate), rate)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.channels) == (*FORMATS[suffix], channels)
    made, found = read(path)
    assert found == rate or (suffix in (".opus", ".mp3") and found in (24000, 48000))
    assert made.shape[1] / found == pytest.approx(1.3, abs=2e-3)
    places = [place for place in range(channels) if place != 3]  # the fourth of six has low frequencies alone
    assert [pitches(made, found)[place] - 1 for place in places] == places


def test_integers_are_written_as_they_are_and_left_justified_ones_as_fractions(tmp_path):
    block = np.asarray([[1 << 16], [-(1 << 20)], [(1 << 31) - 1]], np.int32)
    with writing(tmp_path / "a.wav", 1, 8000, ("WAV", "PCM_32")) as writer:
        writer.write_native(block)
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="int32", always_2d=True)[0], block)
    with writing(tmp_path / "a.opus", 1, 44100) as writer:
        for at in range(0, 44100, 441):
            writer.write_native((tones(1, 44100)[:, at : at + 441].T * 2**31).astype(np.int32))
    made, rate = read(tmp_path / "a.opus")
    assert rate == 48000 and abs(np.abs(made[0, 4000:40000]).max() - 0.2) < 0.02


@pytest.mark.parametrize(
    ("name", "expected"),
    [("song", "song.wav"), ("v1.2", "v1.2.wav"), ("01. Intro", "01. Intro.wav"), ("song.remix", "song.remix.wav"),
     ("a.flac", "a.flac"), ("a.txt", "a.txt"), ("a.8svx", "a.8svx"), ("a.b.MP3", "a.b.MP3")],
)  # fmt: skip
def test_only_a_name_without_a_suffix_gets_one(tmp_path, name, expected):
    assert with_suffix(tmp_path / name).name == expected


@pytest.mark.parametrize("name", ["a.m4a", "a.txt", "a"])
def test_another_suffix_raises(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} cannot be written; expected a name that ends in .wav, .* or .mp3"):
        format_of(tmp_path / name, 1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_none(tmp_path, suffix, capfd):
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 100_000)).astype(np.float32)
    with files_of_at_most(4_000), pytest.raises(OSError, match="File too large") as caught:
        write_audio(tmp_path / f"a{suffix}", noise, 16000)
    assert str(caught.value.filename) == str(tmp_path / f"a{suffix}") and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_disk_that_fills_up_at_the_last_bytes_is_noticed(tmp_path, suffix):
    """What libsndfile writes when it closes a file, and whether that fails, it does not report."""
    path, audio = tmp_path / f"a{suffix}", tones(1, 16000)
    write_audio(path, audio, 16000)
    whole = path.read_bytes()
    for missing in (1, 40, 300):
        with files_of_at_most(len(whole) - missing), pytest.raises(OSError, match="File too large"):
            write_audio(path, audio, 16000)
        assert path.read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_wav_that_cannot_be_written_is_one_error(tmp_path, capfd):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    audio = tones(1, 44100)
    for name in ("folder.wav", "file/a.wav", f"{'a' * 300}.wav"):
        for write in (write_wav, write_audio):
            with pytest.raises(OSError) as caught:
                write(tmp_path / name, audio, 44100)
            assert str(tmp_path / name).startswith(str(caught.value.filename))
    with files_of_at_most(4_000), pytest.raises(OSError, match="File too large"):
        write_wav(tmp_path / "a.wav", audio, 44100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]
    assert capfd.readouterr() == ("", "")
