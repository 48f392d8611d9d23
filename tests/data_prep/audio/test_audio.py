"""Reading real files: true lengths, pieces equal to the whole, cut files found; writing wav files."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.audio.audio import mix, probe, read, write_wav
from data_prep.audio.containers import find_links
from data_prep.audio.mpeg import Mp3Frames
from data_prep.audio.writers import write_audio
from data_prep.errors import BadAudio

av = pytest.importorskip("av")
SECONDS = 2.0


def melody(sample_rate: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """Return (channels, t) of two gliding tones, no two moments alike."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    tones = [0.3 * np.sin(2 * np.pi * (300 + 200 * c) * t + 30 * np.sin(t)) * (0.3 + 0.3 * t) for c in range(channels)]
    return np.stack(tones)


def encode_with_av(path: Path, codec: str, rate: int, options: dict | None = None, video: bool = False) -> None:
    """Write a melody with PyAV, with black pictures if asked."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 32
            for _ in range(round(10 * SECONDS)):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode())
        frame = av.AudioFrame.from_ndarray(melody(rate, 2).astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0  # without the 0 the delay of the encoder is not written down
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate)
        for piece in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make one file of every kind, two seconds each."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, rate, channels, subtype in [
        ("stereo48.mp3", 48000, 2, None),
        ("mono22.flac", 22050, 1, "PCM_16"),
        ("stereo44.ogg", 44100, 2, "VORBIS"),
        ("deep96.wav", 96000, 2, "PCM_24"),
        ("float44.wav", 44100, 1, "FLOAT"),
        ("surround48.wav", 48000, 6, "PCM_16"),
        ("big.aiff", 44100, 2, "PCM_16"),
    ]:
        soundfile.write(folder / name, melody(rate, channels).T, rate, subtype)
    encode_with_av(folder / "song.m4a", "aac", 44100)
    encode_with_av(folder / "fast.m4a", "aac", 44100, {"movflags": "faststart"})
    encode_with_av(folder / "film.mp4", "aac", 48000, video=True)
    encode_with_av(folder / "film.mkv", "libopus", 48000, video=True)
    encode_with_av(folder / "sound.webm", "libopus", 48000)
    encode_with_av(folder / "film.mov", "pcm_s16le", 44100, video=True)
    return {path.name: path for path in folder.iterdir()}


KINDS = [
    ("stereo48.mp3", 48000, 2),
    ("mono22.flac", 22050, 1),
    ("stereo44.ogg", 44100, 2),
    ("deep96.wav", 96000, 2),
    ("float44.wav", 44100, 1),
    ("surround48.wav", 48000, 6),
    ("big.aiff", 44100, 2),
    ("song.m4a", 44100, 2),
    ("fast.m4a", 44100, 2),
    ("film.mp4", 48000, 2),
    ("film.mkv", 48000, 2),
    ("sound.webm", 48000, 2),
    ("film.mov", 44100, 2),
]


@pytest.mark.parametrize(("name", "rate", "channels"), KINDS)
def test_probe_tells_the_true_length_and_form(files: dict[str, Path], name: str, rate: int, channels: int) -> None:
    info = probe(files[name])
    assert (info.sample_rate, info.channels) == (rate, channels)
    assert info.seconds == pytest.approx(SECONDS, abs=0.002)  # encoder delay and padding are taken off
    assert info.frames == read(files[name])[0].shape[1]
    assert 0.1 < info.peak < 1


@pytest.mark.parametrize("name", [name for name, _, channels in KINDS if channels < 6 and "opus" not in name])
def test_decoded_sound_is_what_was_encoded(files: dict[str, Path], name: str) -> None:
    audio, rate = read(files[name])
    truth = melody(rate, len(audio))
    count = min(audio.shape[1], truth.shape[1])
    error = np.sqrt(np.mean((audio[:, :count] - truth[:, :count]) ** 2) / np.mean(truth**2))
    assert error < (1e-3 if name.endswith((".wav", ".flac", ".aiff", ".mov")) else 0.1)


@pytest.mark.parametrize("name", ["stereo48.mp3", "mono22.flac", "stereo44.ogg", "deep96.wav", "song.m4a", "film.mkv"])
@pytest.mark.parametrize("rate", [None, 22050, 44100, 44101])
def test_a_piece_equals_that_piece_of_the_whole(files: dict[str, Path], name: str, rate: int | None) -> None:
    whole, target = read(files[name], sample_rate=rate)
    for start, seconds in ((0.0, 0.3), (0.7, 0.5), (1.9, 3.0), (1.234567, 0.01)):
        piece, _ = read(files[name], sample_rate=rate, start=start, seconds=seconds)
        begin = round(start * target)
        wanted = whole[:, begin : begin + round(seconds * target)]
        assert piece.shape == wanted.shape
        np.testing.assert_allclose(piece, wanted, atol=1e-4)
    assert read(files[name], start=5.0)[0].shape[1] == 0


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000]), st.floats(0, 1.9), st.floats(0.001, 0.4))
def test_pieces_of_a_resampled_file_are_exact(files: dict[str, Path], rate: int, start: float, seconds: float) -> None:
    whole, _ = read(files["float44.wav"], sample_rate=rate)
    piece, _ = read(files["float44.wav"], sample_rate=rate, start=start, seconds=seconds)
    begin = round(start * rate)
    np.testing.assert_allclose(piece, whole[:, begin : begin + round(seconds * rate)], atol=1e-4)


def test_resampling_keeps_the_melody_and_the_length(files: dict[str, Path]) -> None:
    audio, rate = read(files["deep96.wav"], sample_rate=16000)
    assert audio.shape == (2, 32000) and rate == 16000 and audio.dtype == np.float32
    np.testing.assert_allclose(audio[:, 100:-100], melody(16000, 2)[:, 100:-100], atol=1e-3)


def test_channels_are_mixed_and_repeated() -> None:
    stereo = np.asarray([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert mix(stereo, 1).tolist() == [[0.5, 0.5]]
    assert mix(stereo[:1], 2).tolist() == [[1.0, 0.0], [1.0, 0.0]]
    centre = np.zeros((6, 1), np.float32)
    centre[2] = 1.0
    left, right = mix(centre, 2)
    assert left == right > 0.2  # a singer in the middle stays there


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", [name for name, *_ in KINDS])
def test_a_cut_file_is_truncated(files: dict[str, Path], tmp_path: Path, name: str, share: float) -> None:
    data = files[name].read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadAudio) as caught:
        probe(tmp_path / name)
    assert caught.value.reason == "truncated", caught.value


@pytest.mark.parametrize("name", [name for name, *_ in KINDS])
def test_a_whole_file_is_not_called_cut(files: dict[str, Path], name: str) -> None:
    assert [link.cut for link in find_links(files[name])] == [None]


@pytest.mark.parametrize("count", [10, 1000])
def test_an_mp3_is_measured_by_its_frames_whatever_its_header_says(files, tmp_path: Path, count: int) -> None:
    data = files["stereo48.mp3"].read_bytes()
    at = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    (tmp_path / "lie.mp3").write_bytes(data[: at + 8] + struct.pack(">I", count) + data[at + 12 :])
    if count == 10:
        assert probe(tmp_path / "lie.mp3").seconds == pytest.approx(SECONDS, abs=0.002)
    else:  # frames are missing
        with pytest.raises(BadAudio, match="truncated: it should have 1000 mp3 frames"):
            probe(tmp_path / "lie.mp3")


def test_an_mp3_without_a_count_between_tags_is_measured_to_a_frame(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["stereo48.mp3"].read_bytes()
    frames = Mp3Frames(data)
    second = data.find(data[:2], 4)  # the first holds the count
    assert [run.count for run in frames.runs] == [frames.runs[0].declared]
    tagged = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + data[second:] + b"TAG".ljust(128, b"\0")
    (tmp_path / "bare.mp3").write_bytes(tagged)
    assert Mp3Frames(tagged).runs[0].declared is None
    assert probe(tmp_path / "bare.mp3").seconds == pytest.approx(SECONDS, abs=0.05)  # its delay is not known any more


def test_what_is_no_audio_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("this is not music\n" * 500)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    for name in ("text.mp3", "empty.wav", "noise.flac", "missing.ogg"):
        with pytest.raises(BadAudio) as caught:
            probe(tmp_path / name)
        assert caught.value.reason == "unreadable"
        with pytest.raises(BadAudio):
            read(tmp_path / name)


def test_a_film_without_sound_is_unreadable(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(BadAudio, match="there is no audio in it"):
        probe(tmp_path / "mute.mp4")


def test_a_wrong_suffix_does_not_matter(files: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(files["song.m4a"], tmp_path / "song.mp3")
    shutil.copy(files["mono22.flac"], tmp_path / "song.m4a")
    assert probe(tmp_path / "song.mp3").sample_rate == 44100
    assert probe(tmp_path / "song.m4a").sample_rate == 22050


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_show_in_the_peak(tmp_path: Path, value: float) -> None:
    audio = melody(22050, 1)
    audio[0, 12345] = value
    soundfile.write(tmp_path / "bad.wav", audio.T, 22050, "FLOAT")
    assert np.isnan(probe(tmp_path / "bad.wav").peak)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=2, max_size=60), st.integers(1, 2))
def test_reading_a_written_wav_gives_its_samples(tmp_path_factory, samples: list[int], channels: int) -> None:
    path = tmp_path_factory.mktemp("wav") / "a.wav"
    audio = np.resize(np.asarray(samples), (channels, max(1, len(samples) // channels))) / 32768.0
    write_wav(path, audio, 8000)
    np.testing.assert_array_equal(read(path)[0], audio.astype(np.float32))


def test_a_written_wav_is_clipped_deterministic_and_whole(tmp_path: Path) -> None:
    audio = np.asarray([[2.0, -2.0, 0.5]], np.float32)
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / "new" / name, audio, 44100)
    assert (tmp_path / "new" / "a.wav").read_bytes() == (tmp_path / "new" / "b.wav").read_bytes()
    assert soundfile.info(tmp_path / "new" / "a.wav").subtype == "PCM_16"
    assert read(tmp_path / "new" / "a.wav")[0].tolist() == [[32767 / 32768, -1.0, 0.5]]
    with pytest.raises(ValueError, match="finite"):
        write_wav(tmp_path / "new" / "a.wav", audio * np.nan, 44100)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.wav", "b.wav"]


def test_a_minute_of_ogg_is_written(tmp_path: Path) -> None:
    """Given to libsndfile at once, it ends the process by a segmentation fault."""
    write_audio(tmp_path / "a.ogg", np.zeros((2, 60 * 44100), np.float32) + 0.1, 44100)
    assert probe(tmp_path / "a.ogg").frames == 60 * 44100
