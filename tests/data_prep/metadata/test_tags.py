"""Tags of sound files: artist, genres, lyrics, from every format in which they come."""

from __future__ import annotations

import struct
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
from mutagen.apev2 import APEv2
from mutagen.id3 import ID3, SYLT, TCON, TLAN, TPE1, TXXX, USLT

from data_prep.audio.mpeg import after_id3
from data_prep.metadata.lyrics import parse_lyrics
from data_prep.metadata.tags import SEVERAL, Tags, read_tags


def write_tone(path: Path) -> Path:
    """Write a short sound."""
    soundfile.write(path, 0.1 * np.sin(np.arange(12000) / 9), 24000)
    return path


def tagged_mp3(path: Path, *frames: mutagen.id3.Frame) -> Path:
    """Write a short mp3 with these frames."""
    write_tone(path)
    tags = ID3()
    for frame in frames:
        tags.add(frame)
    tags.save(path)
    return path


def write_m4a(path: Path, values: dict) -> Path:
    """Write a short m4a with these tags."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    tags = mutagen.File(path)
    assert tags is not None
    for key, value in values.items():
        tags[key] = value
    tags.save()
    return path


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg", "wav"])
def test_tags_are_read_from_every_format(tmp_path: Path, kind: str) -> None:
    path = write_tone(tmp_path / f"song.{kind}")
    tags = mutagen.File(path)
    assert tags is not None
    if kind in ("mp3", "wav"):
        if tags.tags is None:
            tags.add_tags()
        tags.tags.add(TPE1(text="Zoë & Co"))
        tags.tags.add(TCON(text=["(17)", "Pop; Folk"]))
        tags.tags.add(USLT(lang="eng", desc="", text="first\nsecond"))
        genres = ("Rock", "Pop", "Folk")
    else:
        tags["artist"], tags["genre"], tags["lyrics"] = "Zoë & Co", ["Rock", "Pop; Folk"], "first\nsecond"
        genres = ("Rock", "Pop", "Folk")
    tags.save()
    assert read_tags(path) == Tags("Zoë & Co", genres, parse_lyrics("first\nsecond"))


def test_tags_of_m4a_are_read(tmp_path: Path) -> None:
    path = write_m4a(tmp_path / "song.m4a", {"\xa9ART": "Ann", "\xa9gen": "Jazz", "\xa9lyr": "words"})
    assert read_tags(path) == Tags("Ann", ("Jazz",), parse_lyrics("words"))


def test_broken_or_missing_tags_are_no_tags(tmp_path: Path) -> None:
    plain = write_tone(tmp_path / "plain.wav")
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"ID3\x04\x00\x00\x00\x00\x0f\x7fTXXX\xff\xff\xff\xff garbage" * 3)
    assert read_tags(plain) == read_tags(broken) == Tags()


@pytest.mark.parametrize("kind", ["mp3", "flac", "m4a"])
def test_the_artist_is_the_first_of_artists(tmp_path: Path, kind: str) -> None:
    if kind == "mp3":
        path = tagged_mp3(tmp_path / "a.mp3", TPE1(text="Zoë feat. Ann"), TXXX(desc="ARTISTS", text=["Zoë", "Ann"]))
    elif kind == "flac":
        path = write_tone(tmp_path / "a.flac")
        tags = mutagen.File(path)
        assert tags is not None
        tags["artist"], tags["artists"] = "Zoë feat. Ann", ["Zoë", "Ann"]
        tags.save()
    else:
        path = write_m4a(
            tmp_path / "a.m4a", {"\xa9ART": "Zoë feat. Ann", "----:com.apple.iTunes:ARTISTS": ["Zoë".encode(), b"Ann"]}
        )
    assert read_tags(path) == Tags("Zoë", left_out={SEVERAL: 1})


@pytest.mark.parametrize(
    ("texts", "artist", "several"),
    [(["Ann; Bob"], "Ann", 1), (["Ann", "Bob"], "Ann", 1), (["Ann;"], "Ann", 0), (["AC/DC"], "AC/DC", 0), (["A, B & C"], "A, B & C", 0),
     (["Simon &amp; Co"], "Simon & Co", 0), (["A\u2028nn"], "A nn", 0), (["Zoe\u0308"], "Zoë", 0), ([" ; "], None, 0)],
)  # fmt: skip
def test_artists_are_separated_by_semicolons_and_values_only(
    tmp_path: Path, texts: list[str], artist: str | None, several: int
) -> None:
    tags = read_tags(tagged_mp3(tmp_path / "a.mp3", TPE1(encoding=3, text=texts)))
    assert (tags.artist, tags.left_out.get(SEVERAL, 0)) == (artist, several)


def test_synchronised_lyrics_have_times_by_line_and_by_word_in_either_unit(tmp_path: Path) -> None:
    lines, words = [("one two", 500), ("three", 1500)], [("one ", 500), ("two", 750), ("\nthree", 1500)]
    plain = USLT(encoding=3, lang="eng", text="other words")
    for parts, timed in ((lines, ["one two", "three"]), (words, ["one", "two", "three"])):
        path = tagged_mp3(tmp_path / "a.mp3", plain, SYLT(encoding=3, lang="eng", format=2, type=1, text=parts))
        lyrics = read_tags(path).lyrics
        assert lyrics is not None and lyrics.text == "one two\nthree"
        assert [(time.text, time.start) for time in lyrics.times] == list(zip(timed, (time / 1000 for _, time in parts)))
    frames = [("one", 100)]  # at 24 kHz a frame has 576 samples
    lyrics = read_tags(tagged_mp3(tmp_path / "a.mp3", SYLT(encoding=3, lang="eng", format=1, type=1, text=frames))).lyrics
    assert lyrics is not None and lyrics.times[0].start == pytest.approx(2.4)
    chords = SYLT(encoding=3, lang="eng", format=2, type=5, text=[("Am", 500)])
    assert read_tags(tagged_mp3(tmp_path / "a.mp3", chords)).lyrics is None


def test_of_several_languages_that_of_the_song_is_read_else_the_first(tmp_path: Path) -> None:
    lyrics = [USLT(encoding=3, lang=lang, desc="", text=text) for lang, text in (("deu", "Worte"), ("eng", "words"))]
    tags = read_tags(tagged_mp3(tmp_path / "a.mp3", *lyrics))
    assert tags.lyrics == parse_lyrics("Worte") and tags.left_out == {"lyrics in other languages": 1}
    assert read_tags(tagged_mp3(tmp_path / "b.mp3", *lyrics, TLAN(text="eng"))).lyrics == parse_lyrics("words")


@pytest.mark.parametrize("language", ["en", "ENG", "en-US", "English"])
def test_a_language_has_several_names(tmp_path: Path, language: str) -> None:
    lyrics = [USLT(encoding=3, lang=lang, desc="", text=text) for lang, text in (("ger", "Wort"), ("eng", "some words"))]
    assert read_tags(tagged_mp3(tmp_path / "a.mp3", *lyrics, TLAN(text=language))).lyrics == parse_lyrics("some words")
    assert read_tags(tagged_mp3(tmp_path / "b.mp3", *lyrics, TLAN(text="deu"))).lyrics == parse_lyrics("Wort")


@pytest.mark.parametrize("encoding", ["cp1251", "utf-8", "latin-1"])
def test_tags_that_are_in_no_latin_1_though_they_state_it_are_read(tmp_path: Path, encoding: str) -> None:
    names = ("Zoë Ångström", "größer") if encoding == "latin-1" else ("Звёзды и ночь", "Солнце уходит")
    artist, words = (name.encode(encoding).decode("latin-1") for name in names)
    tags = read_tags(tagged_mp3(tmp_path / "a.mp3", TPE1(encoding=0, text=artist), USLT(encoding=0, lang="rus", text=words)))
    assert (tags.artist, tags.lyrics) == (names[0], parse_lyrics(names[1]))


def test_timed_lyrics_without_a_word_give_way_to_others(tmp_path: Path) -> None:
    empty = SYLT(encoding=3, lang="eng", format=2, type=1, text=[("", 0)])
    tags = read_tags(tagged_mp3(tmp_path / "a.mp3", empty, USLT(encoding=3, lang="eng", text="words")))
    assert tags.lyrics == parse_lyrics("words")


def test_tags_of_another_kind_than_the_file_are_read(tmp_path: Path) -> None:
    ape = APEv2()
    ape["Artist"] = "Ann"
    ape.save(write_tone(tmp_path / "a.mp3"))
    tagged_mp3(tmp_path / "b.mp3", TPE1(text="Bob"))
    head = (tmp_path / "b.mp3").read_bytes()[: after_id3((tmp_path / "b.mp3").read_bytes())]
    (tmp_path / "b.flac").write_bytes(head + write_tone(tmp_path / "c.flac").read_bytes())
    assert [read_tags(tmp_path / name).artist for name in ("a.mp3", "b.flac")] == ["Ann", "Bob"]


def test_the_info_list_of_a_wav_is_read_with_or_without_padding(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes, pad: bool = True) -> bytes:
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2 * pad)

    sound = write_tone(tmp_path / "a.wav").read_bytes()[12:]
    for pad in (True, False):
        for artist, name in ((b"Ann\0", "Ann"), ("Zoë Ü".encode("cp1252"), "Zoë Ü"), ("Ann B\0".encode("utf-16-le"), "Ann B")):
            info = chunk(
                b"LIST", b"INFO" + chunk(b"IART", artist, pad) + chunk(b"IGNR", b"Folk; Pop", pad) + b"x" * (not pad), pad
            )
            body = b"WAVE" + info + sound
            (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
            assert read_tags(tmp_path / "a.wav") == Tags(name, ("Folk", "Pop"))


def test_tags_of_containers_that_mutagen_does_not_know_are_read(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mka"), "w") as container:
        container.metadata.update(artist="Ann; Bob", genre="Jazz", lyrics="[00:01.00]one")
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
    tags = read_tags(tmp_path / "a.mka")
    assert (tags.artist, tags.genres) == ("Ann", ("Jazz",)) and tags.lyrics == parse_lyrics("[00:01.00]one")


def test_silence_of_unknown_length_is_not_searched_for_tags(tmp_path: Path) -> None:
    head = write_tone(tmp_path / "a.wav").read_bytes()[:36]
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(head + b"data\0\0\0\0")
        file.truncate(1 << 32)  # takes no space, and minutes if it is searched
    assert read_tags(tmp_path / "a.wav") == Tags()
