"""The codec on files: codes that are those of the whole, sound of exactly the length that went in, one bad file costs one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from data_prep.audio.audio import read, write_wav
from data_prep.audio.writers import write_audio, writing
from data_prep.errors import UserError
from jukebox.model.folder import ModelFolder
from jukebox.model.presets import find
from launch.cli import main
from launch.verbs.codec import Codes, codec, reconstruct_file
from tests.data_prep.audio_files import files_of_at_most
from vqvae.jukebox.vqvae import VQVAE

RATE, SAMPLES = 22050, 30_003


def tone(samples: int = SAMPLES, channels: int = 1) -> np.ndarray:
    t = np.arange(samples) / RATE
    return np.stack([0.3 * np.sin(2 * np.pi * (220 + 110 * c) * t) for c in range(channels)]).astype(np.float32)


@pytest.fixture
def model(tiny_model):
    return str(tiny_model.folder)


@pytest.fixture
def song(tmp_path):
    write_wav(tmp_path / "song.wav", tone(), RATE)
    return tmp_path / "song.wav"


def test_a_file_gets_the_codes_of_the_whole_and_comes_back_with_all_its_samples(song, model, tiny_model, capsys):
    (made,) = codec("encode", str(song), model=model)
    codes = Codes.load(made)
    assert made == song.with_suffix(".npz") and codes.samples == SAMPLES and codes.sample_rate == RATE
    assert codes.hashes == {name: tiny_model.info.codes_hash(name) for name in tiny_model.spec.names}
    whole = tiny_model.codec().encode(torch.from_numpy(read(song)[0])[None], tiny_model.spec.names)
    for stream in tiny_model.spec.streams:
        found = codes.streams[stream.name]
        assert found.dtype == np.uint16 and len(found) == SAMPLES // stream.hop
        assert (found != whole[stream.name][0].numpy()).mean() < 1e-3  # ties
    assert "s a second" in capsys.readouterr().out
    for level, hop in ((0, 8), (2, 128)):
        (wav,) = codec("decode", str(made), model=model, level=level)
        (same,) = codec("reconstruct", str(song), model=model, level=level)
        assert wav.name == "song.decoded.wav" and same.name == "song.reconstructed.wav"
        audio, rate = read(wav)
        assert audio.shape == (1, SAMPLES) and rate == RATE and not audio[0, SAMPLES // hop * hop :].any()
        assert wav.read_bytes() == same.read_bytes()
    assert song.exists()


def test_only_the_levels_asked_for_are_written_and_read(song, model, tmp_path):
    (made,) = codec("encode", str(song), model=model, levels="2", out=str(tmp_path / "top.npz"))
    assert set(Codes.load(made).streams) == {"vq.2"}
    codec("decode", str(made), model=model, level=2)
    with pytest.raises(UserError, match=r"no codes of vq\.0; it has vq\.2"):
        codec("decode", str(made), model=model)


def test_stereo_at_another_rate_is_resampled_mixed_and_said_so(model, tmp_path, capsys):
    write_wav(tmp_path / "wide.wav", tone(44100, channels=2), 44100)
    (made,) = codec("encode", str(tmp_path / "wide.wav"), model=model)
    assert Codes.load(made).samples == RATE
    assert "mixed to 1" in capsys.readouterr().out


def test_of_a_folder_one_bad_file_costs_itself(model, tmp_path, capsys):
    music = tmp_path / "music"
    write_wav(music / "b.wav", tone(5000), RATE)
    write_wav(music / "a" / "deep.wav", tone(4000), RATE)
    write_audio(music / "b.mp3", tone(6000), RATE)
    (music / "torn.flac").write_bytes(b"fLaC")
    assert main(["codec", "encode", str(music), "--model", model]) == 0
    out, err = capsys.readouterr()
    made = sorted(str(p.relative_to(tmp_path)) for p in (tmp_path / "music_encoded").rglob("*.npz"))
    assert made == [f"music_encoded/{n}.npz" for n in ("a/deep", "b.mp3", "b.wav")]
    assert "left out" in err and "torn.flac" in err and "3 of 4" in out
    (tmp_path / "music_encoded" / "none.npz").write_bytes(b"no zip")
    assert main(["codec", "decode", str(tmp_path / "music_encoded"), "--model", model, "--out", str(tmp_path / "w")]) == 0
    assert "none.npz" in capsys.readouterr().err and len(list((tmp_path / "w").rglob("*.wav"))) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_where_nothing_can_be_used_the_exit_code_says_so(song, model, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "torn.wav").write_bytes(b"RIFF")
    (bad / "empty.wav").write_bytes(b"")
    assert main(["codec", "encode", str(bad), "--model", model]) == 2
    assert main(["codec", "encode", str(bad / "torn.wav"), "--model", model]) == 2
    assert main(["codec", "encode", str(tmp_path / "nothing.wav"), "--model", model]) == 2
    assert main(["codec", "reconstruct", str(song), "--model", model, "--out", str(song)]) == 2
    assert main(["codec", "reconstruct", str(song), "--model", model, "--level", "3"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_sound_that_is_not_finite_is_one_clear_error_and_leaves_nothing(model, tmp_path):
    import soundfile

    audio = tone()[0]
    audio[20_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", audio, RATE, subtype="FLOAT")
    for what in ("encode", "reconstruct"):
        with pytest.raises(UserError, match=r"nan\.wav: .*not finite"):
            codec(what, str(tmp_path / "nan.wav"), model=model)
    assert [p.name for p in tmp_path.iterdir()] == ["nan.wav"]


def test_codes_of_another_codec_are_told_apart(song, model, tmp_path, capsys):
    (made,) = codec("encode", str(song), model=model)
    codes = Codes.load(made)
    Codes(codes.streams, RATE, SAMPLES, {"vq.0": "0123456789ab"}).save(made)
    codec("decode", str(made), model=model)
    assert "written by codec 0123456789ab" in capsys.readouterr().err
    Codes(codes.streams, 44100, SAMPLES).save(made)
    with pytest.raises(UserError, match="44100 Hz; this codec"):
        codec("decode", str(made), model=model)
    Codes({"vq.0": codes.streams["vq.0"] + 2000}, RATE, SAMPLES).save(made)
    with pytest.raises(UserError, match="codes run from 20"):
        codec("decode", str(made), model=model)


@pytest.mark.parametrize("suffix", [".flac", ".aiff", ".ogg", ".opus", ".mp3"])
def test_the_suffix_of_out_decides_on_the_format(song, model, tmp_path, suffix):
    import soundfile

    (made,) = codec("reconstruct", str(song), model=model, out=str(tmp_path / f"new{suffix}"))
    info = soundfile.info(made)
    assert info.format in ("MP3" if suffix == ".mp3" else "OGG" if suffix == ".opus" else suffix[1:].upper())
    assert info.duration == pytest.approx(SAMPLES / RATE, abs=0.001)


@pytest.mark.parametrize(("what", "name"), [("reconstruct", "new.m4a"), ("decode", "new.txt"), ("encode", "new.mp3")])
def test_a_suffix_that_cannot_be_written_is_one_line_before_any_work(song, model, tmp_path, capsys, what, name):
    assert main(["codec", what, str(song), "--model", model, "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert f"{name} cannot be written; expected a name that ends in ." in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize("name", ["new.wav", "new.flac", "new.mp3", "song.wav/new.wav"])
def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(song, model, tmp_path, capsys, name):
    with files_of_at_most(2_000):
        assert main(["codec", "reconstruct", str(song), "--model", model, "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("jukebox codec: ") and "Traceback" not in error and "Exception" not in error
    assert ("may not be that large" if "/" not in name else "exist") in error and str(tmp_path) in error
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


@pytest.mark.parametrize(("peak", "printed"), [(1.9, True), (1.05, False), (0.9, False)])
def test_a_recording_louder_than_full_scale_is_reported_with_its_peak(model, tmp_path, capsys, peak, printed):
    """A few samples that decoders of lossy files overshoot by are not."""
    sound = tone(SAMPLES)
    sound[:, 100:120] = peak
    soundfile.write(tmp_path / "hot.wav", sound.T, RATE, subtype="FLOAT")
    for what, name in (("encode", "made.npz"), ("reconstruct", "made.wav")):
        assert main(["codec", what, str(tmp_path / "hot.wav"), "--model", model, "--out", str(tmp_path / name)]) == 0
        line = f"hot.wav: 20 samples are beyond full scale and may be clipped (peak {peak:.2f}"
        assert (line in capsys.readouterr().err) == printed


@pytest.mark.parametrize("samples", [0, 1, 7, 8, 127, 129])
def test_the_shortest_files_go_through(model, tmp_path, samples):
    write_wav(tmp_path / "a.wav", tone(samples), RATE)
    (made,) = codec("encode", str(tmp_path / "a.wav"), model=model)
    (wav,) = codec("decode", str(made), model=model, level=0)
    assert read(wav)[0].shape == (1, samples)
    (wav,) = codec("reconstruct", str(tmp_path / "a.wav"), model=model, level=2)
    assert read(wav)[0].shape == (1, samples)


@pytest.mark.long
def test_any_file_gives_sound_of_its_length_or_one_clear_error(model, tiny_model, tmp_path):
    import soundfile

    rng, loaded, asked_to_stop = np.random.default_rng(0), tiny_model.codec(["vq.0", "vq.2"]), 0
    for i in range(200):
        samples = int(rng.choice([0, 1, 7, 9, 127, 129, rng.integers(2, 3000)]))
        channels, rate = int(rng.integers(1, 4)), int(rng.choice([8000, RATE, 44100]))
        kind = rng.choice(["PCM_16", "PCM_24", "FLOAT", "nan", "inf", "huge", "cut"])
        audio = rng.uniform(-1, 1, (samples, channels)).astype(np.float32)
        if kind in ("nan", "inf", "huge") and samples:
            audio[samples // 2] = {"nan": np.nan, "inf": np.inf, "huge": 1e38}[kind]
        path, made = tmp_path / f"{i}.wav", tmp_path / f"{i}.made.wav"
        soundfile.write(path, audio, rate, subtype=kind if kind in ("PCM_16", "PCM_24") else "FLOAT")
        if kind == "cut":
            path.write_bytes(path.read_bytes()[: int(rng.integers(0, 60))])
        stream = f"vq.{rng.choice([0, 2])}"
        try:
            reconstruct_file(loaded, path, made, stream)
        except (UserError, ValueError) as error:
            asked_to_stop += 1
            assert kind in ("nan", "inf", "huge", "cut") and "\n" not in str(error) and not made.exists()
            continue
        result, _ = read(made)
        expected = read(path, sample_rate=RATE, channels=1)[0].shape[1]
        assert result.shape == (1, expected) and np.isfinite(result).all()
    assert 40 < asked_to_stop < 130


PEAK = """
import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, "-m", "launch.cli", *sys.argv[1:]])
_, status, used = os.wait4(pid, 0)
print(status, used.ru_maxrss)
"""


def peak_mb(*words: object) -> float:
    """The most memory that a verb has held at a time, MB."""
    result = subprocess.run([sys.executable, "-c", PEAK, *map(str, words)], capture_output=True, text=True)
    status, peak = result.stdout.split()[-2:]
    assert status == "0", result.stderr
    return int(peak) / 1024


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory of a child is told by wait4")
def test_ten_times_the_sound_needs_no_more_memory(tmp_path):
    """The published codec with random weights; ten minutes against one; JUKEBOX_TEST_SECONDS=100 makes it shorter."""
    config = find("vqvae").codec
    opened, whole = ModelFolder.create(tmp_path / "model", config), VQVAE(config)
    for level in range(3):
        whole.level(level).codebook.restore()
    opened.save_codec(whole)
    rng, longest = np.random.default_rng(0), float(os.environ.get("JUKEBOX_TEST_SECONDS", "600"))
    peaks: dict[str, list[float]] = {"encode": [], "decode": []}
    for seconds in (longest / 10, longest):
        path = tmp_path / "song.wav"
        with writing(path, 2, 44100) as writer:
            for _ in range(round(seconds * 10)):
                writer.write(rng.uniform(-0.3, 0.3, (2, 4410)).astype(np.float32))
        for what, source in (("encode", path), ("decode", path.with_suffix(".npz"))):
            peaks[what].append(peak_mb("codec", what, source, "--model", opened.folder))
    print(peaks)
    assert read(tmp_path / "song.decoded.wav")[0].shape == (1, round(longest * 10) * 4410)
    for short, long in peaks.values():
        assert long < 1500 and long <= 1.1 * short
    piece = read(path, channels=1, seconds=3.0)[0]
    codes = Codes.load(path.with_suffix(".npz"))
    alone = whole.eval().encode(torch.from_numpy(piece)[None], config.spec.names)
    for level, reach in ((0, 46_000), (1, 2000), (2, 6000)):  # the receptive field includes audio after the excerpt
        n, stream = (piece.shape[1] - reach) // config.hops[level], f"vq.{level}"
        assert (alone[stream][0, :n].numpy() != codes.streams[stream][:n]).mean() < 1e-3
