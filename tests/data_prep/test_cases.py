"""Audio files as users have them: each is read to its last sample, or refused for what it is, in every verb."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.audio.audio import probe, read
from data_prep.audio.blocks import BlockReader
from data_prep.audio.containers import W64_DATA
from data_prep.audio.splice import Original
from data_prep.errors import BadAudio
from data_prep.manifest import load_manifest
from launch.cli import main
from tests.data_prep import audio_files as files
from tests.data_prep.audio_files import FRAMES, TONE, chunk, encoded, flac, one_of, rf64, wav
from tests.jukebox.editing.edits import with_masked

STEREO = np.stack([TONE, TONE], 1)
TAGS = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
SEVERAL = "of several kinds .22050 Hz, 1 channel and 44100 Hz, 1 channel."

READ: dict[str, tuple[Callable[[], bytes], int]] = {  # name -> file, samples
    "twice.mp3": (lambda: encoded("MP3") * 2, 2 * FRAMES),
    "tags_between.mp3": (lambda: TAGS + encoded("MP3") + b"TAG".ljust(128, b"\0") + TAGS + encoded("MP3"), 2 * FRAMES),
    "named.mpga": (lambda: encoded("MP3"), FRAMES),
    "unknown_length.flac": (lambda: flac(0), FRAMES),
    "half_length.flac": (lambda: flac(FRAMES // 2), FRAMES),
    "twice.flac": (lambda: encoded("FLAC") * 2, 2 * FRAMES),
    "chained.ogg": (lambda: encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", audio=TONE[:44100]), FRAMES + 44100),
    "chained.opus": (lambda: encoded("OGG", "OPUS", rate=24000) * 3, 3 * FRAMES),
    "size_0.wav": (lambda: wav(data_size=0), FRAMES),
    "size_unknown.wav": (lambda: wav(data_size=0xFFFFFFFF), FRAMES),
    "size_0_of_silence.wav": (lambda: wav(data_size=0).replace(files.PCM[:400], bytes(400)), FRAMES),
    "size_too_small.wav": (lambda: wav(data_size=FRAMES), FRAMES),
    "twice.wav": (lambda: wav() * 2, 2 * FRAMES),
    "other_after.wav": (lambda: wav() + encoded("FLAC"), 2 * FRAMES),
    "without_padding.wav": (lambda: wav(before=chunk(b"LIST", b"INFO" + chunk(b"IART", b"Ann"))), FRAMES),
    "tags_after.wav": (lambda: wav(after=chunk(b"LIST", b"INFO" + chunk(b"IART", b"Anne")) + b"TAG".ljust(128, b"\0")), FRAMES),
    "long.rf64": (rf64, FRAMES),
    "long.bw64": (lambda: rf64(b"BW64"), FRAMES),
    "unfinished.rf64": (lambda: files.stated(rf64(), b"ds64", bytes(28), 4), FRAMES),
    "of_arecord.wav": (lambda: wav(data_size=0x80000000), FRAMES),
    "of_sox.wav": (lambda: wav(data_size=0x7FFFF000), FRAMES),
    "of_a_pipe.w64": (lambda: files.stated(encoded("W64"), W64_DATA, b"\xff" * 7 + b"\x7f"), FRAMES),
    "twice.w64": (lambda: encoded("W64") * 2, 2 * FRAMES),
    "twice.caf": (lambda: encoded("CAF") * 2, 2 * FRAMES),
    "twice.au": (lambda: encoded("AU") * 2, 2 * FRAMES),
    "tags_after.flac": (lambda: encoded("FLAC") + b"TAG".ljust(128, b"\0"), FRAMES),
    "adpcm.wav": (lambda: files.adpcm(FRAMES), FRAMES),
    "adpcm_lies.wav": (lambda: files.adpcm(1000), 67122),  # all of its blocks
    "gsm.wav": (lambda: encoded("WAV", "GSM610", rate=8000), 66560),
    "telephone.au": (lambda: encoded("AU", "G721_32"), 66240),
    "other.aifc": (lambda: encoded("AIFF", "DWVW_16"), FRAMES),
    "other.caf": (lambda: encoded("CAF", "ALAC_16"), FRAMES),
    "other.w64": (lambda: encoded("W64"), FRAMES),
    "other.wave": (wav, FRAMES),
    "amiga.8svx": (lambda: encoded("SVX", "PCM_16"), FRAMES),
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {  # name -> file, what the reason is
    "two_rates.mp3": (lambda: encoded("MP3") + encoded("MP3", rate=44100), f"unreadable: .*{SEVERAL}"),
    "two_channels.mp3": (lambda: encoded("MP3", audio=STEREO) + encoded("MP3"), "2 channels and 22050 Hz, 1 channel"),
    "two_rates.ogg": (lambda: encoded("OGG", "VORBIS") + encoded("OGG", "VORBIS", rate=44100), f"unreadable: .*{SEVERAL}"),
    "double_length.flac": (lambda: flac(2 * FRAMES), "truncated: its header states 132,300 samples and it has 66,150"),
    "cut_then_whole.ogg": (lambda: encoded("OGG", "VORBIS")[:5000] + encoded("OGG", "VORBIS"), "truncated: .*no end mark"),
    "cut.rf64": (lambda: rf64()[:90_000], "truncated: it should be 132,380 bytes long and has 90,000"),
    "cut.bw64": (lambda: rf64(b"BW64")[:90_000], "truncated: it should be"),
    "cut.au": (lambda: encoded("AU")[:90_000], "truncated: it should be"),
    "cut.caf": (lambda: encoded("CAF")[:90_000], "truncated: it should be"),
    "cut.w64": (lambda: encoded("W64")[:90_000], "truncated: it should be"),
    "rate_1.wav": (lambda: wav(rate=1), "unreadable: .*sample rate of 1 Hz"),
    "rate_4e9.wav": (lambda: wav(rate=4_000_000_000), "unreadable: .*sample rate of 4,000,000,000 Hz"),
    "rate_1.au": (lambda: encoded("AU", rate=1), "unreadable: .*sample rate of 1 Hz"),
}


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all these files, with some that are no audio."""
    folder = tmp_path_factory.mktemp("cases") / "music"
    folder.mkdir()
    for name, (make, _) in (READ | REFUSED).items():
        (folder / name).write_bytes(make())
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    (folder / "._twice.wav").write_bytes(b"\0\x05\x16\x07 a companion of macOS")
    return folder


@pytest.mark.parametrize("name", READ)
def test_every_reader_gives_all_samples(music: Path, name: str) -> None:
    samples = READ[name][1]
    info = probe(music / name)
    whole, rate = read(music / name)
    assert (info.frames, whole.shape) == (samples, (1, samples))
    assert sum(block.shape[1] for block in BlockReader(music / name)) == samples
    with closing(Original(music / name)) as original:
        assert sum(map(len, original.blocks())) == samples
    at = FRAMES - 5000
    piece, _ = read(music / name, start=at / rate, seconds=10_000 / rate)  # also across the place where two files are joined
    assert np.array_equal(piece, whole[:, at : at + 10_000])
    assert read(music / name, start=samples / rate)[0].shape[1] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_every_reader_refuses_for_what_it_is(music: Path, name: str) -> None:
    for reads in (probe, read, lambda path: list(BlockReader(path)), lambda path: list(Original(path).blocks())):
        with pytest.raises(BadAudio, match=REFUSED[name][1]):
            reads(music / name)


def test_an_ogg_stream_that_goes_on_after_an_end_mark_is_read_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("av")
    song = encoded("OGG", "VORBIS", audio=np.random.default_rng(0).normal(0, 0.1, FRAMES))  # of several pages
    (tmp_path / "a.ogg").write_bytes(files.marked_early(song, 2))
    (tmp_path / "b.ogg").write_bytes(song)
    assert FRAMES - 256 <= probe(tmp_path / "a.ogg").frames <= FRAMES  # libsndfile gives what is before the first mark
    assert np.allclose(read(tmp_path / "a.ogg")[0][0, -9000:], read(tmp_path / "b.ogg")[0][0, -9000:], atol=1e-4)


@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8])
@pytest.mark.parametrize(("form", "subtype", "centre"), [("OGG", "VORBIS", 1), ("OGG", "OPUS", 1), ("WAV", "PCM_16", 2)])
def test_the_centre_of_surround_sound_stays_in_the_centre(tmp_path: Path, channels, form, subtype, centre) -> None:
    (tmp_path / "a").write_bytes(encoded(form, subtype, audio=one_of(channels, centre), rate=48000))
    left, right = read(tmp_path / "a", channels=2)[0]
    assert np.abs(left).max() > 0.05 and np.allclose(left, right, atol=1e-3)
    loudest = np.abs(read(tmp_path / "a")[0]).max(axis=1)
    assert loudest.argmax() == 2 and np.sort(loudest)[-2] < 0.02
    (tmp_path / "a").write_bytes(encoded(form, subtype, audio=one_of(channels, 0), rate=48000))
    left, right = read(tmp_path / "a", channels=2)[0]
    assert np.abs(left).max() > 0.05 > 0.02 > np.abs(right).max()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libopus"), ("a.mka", "flac"), ("a.mp4", "aac")])
def test_of_several_tracks_the_default_one_is_read(tmp_path: Path, capsys, name: str, codec: str) -> None:
    pytest.importorskip("av")
    info = probe(files.with_tracks(tmp_path / name, codec, [0.0, 440.0], default=1))
    assert info.tracks == 2 and info.peak > 0.2
    assert capsys.readouterr().err == f"{tmp_path / name} has 2 audio tracks; the default one is used\n"
    silent = probe(files.with_tracks(tmp_path / name, codec, [0.0, 440.0], default=0))
    assert silent.peak < 0.01
    assert main(["prepare", str(tmp_path), "--out", str(tmp_path / "data"), "--workers", "1"]) == 2  # it is silent
    files.with_tracks(tmp_path / name, codec, [440.0, 0.0])
    assert main(["prepare", str(tmp_path), "--out", str(tmp_path / "data"), "--workers", "1"]) == 0
    assert "1 have several audio tracks, of which the default one is used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.flv", "aac"), ("a.tta", "tta"), ("a.aac", "aac")]
)
def test_joined_files_that_ffmpeg_reads_are_read_to_the_end(tmp_path: Path, name: str, codec: str) -> None:
    pytest.importorskip("av")
    once = probe(files.with_tracks(tmp_path / name, codec, [440.0])).frames
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() * 2)
    assert probe(tmp_path / name).frames == 2 * once
    assert read(tmp_path / name)[0].shape == (1, 2 * once)


def test_prepare_keeps_what_can_be_read_and_names_what_cannot(music: Path, tmp_path: Path, capsys) -> None:
    assert main(["prepare", str(music), "--out", str(tmp_path / "data"), "--workers", "1"]) == 0
    rows = load_manifest(tmp_path / "data")
    assert {row.song: round(row.seconds * row.sample_rate) for row in rows} == {name: n for name, (_, n) in READ.items()}
    refused = pq.read_table(tmp_path / "data" / "refused.parquet").to_pylist()
    assert sorted(row["path"] for row in refused) == sorted(REFUSED)
    assert "ignored 1 others (1 .jpg)" in capsys.readouterr().out


def test_the_codec_takes_the_files_of_a_folder_as_prepare_does(music: Path, tmp_path: Path, tiny_model, capsys) -> None:
    (music / "sub").mkdir(exist_ok=True)
    odd = os.fsdecode(b"caf\xe9.wav")  # a name that is not valid UTF-8
    (music / "sub" / odd).write_bytes(wav())
    made, model = tmp_path / "made", str(tiny_model.folder)
    assert main(["codec", "reconstruct", str(music), "--model", model, "--level", "2", "--out", str(made)]) == 0
    output = capsys.readouterr()
    lengths = {path.name: probe(path).seconds for path in made.rglob("*.wav")}
    assert len(lengths) == len(READ) + 1 and os.fsdecode(b"caf\xe9.wav") in lengths
    assert lengths["half_length.wav"] == pytest.approx(FRAMES / 22050) and lengths["twice.mp3.wav"] == pytest.approx(6.0)
    assert output.err.count("left out: ") == len(REFUSED) and "ignored 1 others" in output.err and "1 .jpg" in output.err
    (music / "sub" / odd).unlink()
    (music / "sub").rmdir()


@pytest.mark.parametrize("name", ["unknown_length.flac", "size_0.wav", "gsm.wav", "chained.opus"])
def test_a_song_of_any_form_is_continued(music: Path, tmp_path: Path, tiny_model, name: str) -> None:
    words = ["--prompt_seconds", "2.9", "--seconds", "3", "--levels", "2", "--out", str(tmp_path / "run")]
    assert main(["continue", str(tiny_model.folder), str(music / name), *words]) == 0


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(with_masked(tmp_path_factory.mktemp("masked")).folder)


@pytest.mark.parametrize("name", ["half_length.flac", "size_0.wav", "chained.ogg", "long.rf64"])
def test_an_edit_keeps_all_samples(music: Path, tmp_path: Path, editor: str, name: str) -> None:
    made = (tmp_path / f"01. Mr. {name}").with_suffix(".wav" if name.endswith(".ogg") else Path(name).suffix)
    words = ["--start", "1", "--end", "1.2", "--passes", "2,1,1", "--out", str(made)]
    assert main(["edit", editor, str(music / name), *words]) == 0
    (new, _), (old, _) = read(made), read(music / name)
    assert new.shape == old.shape == (1, READ[name][1])
    assert np.array_equal(new[:, 30_000:], old[:, 30_000:]) and not np.array_equal(new, old)


def test_a_song_whose_name_is_not_utf_8_is_continued_and_edited(tmp_path: Path, editor: str) -> None:
    song = tmp_path / os.fsdecode(b"caf\xe9.wav")
    song.write_bytes(wav())
    run, made = tmp_path / "run", tmp_path / "edit.wav"
    words = ["--prompt_seconds", "2", "--seconds", "3", "--levels", "2", "--out", str(run)]
    assert main(["continue", editor, str(song), *words]) == 0 and (run / "index.html").exists()
    assert main(["resume", str(run)]) == 0
    assert main(["edit", editor, str(song), "--start", "1", "--end", "1.2", "--passes", "2,1,1", "--out", str(made)]) == 0


def test_a_joined_mp3_of_two_kinds_ends_the_verb_in_one_line(music: Path, tmp_path: Path, tiny_model, capsys) -> None:
    words = [
        str(tiny_model.folder),
        str(music / "two_rates.mp3"),
        "--prompt_seconds",
        "2",
        "--seconds",
        "8",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(["continue", *words]) == 2
    assert "of several kinds" in capsys.readouterr().err
