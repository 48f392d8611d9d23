"""What a recording carries is in an edit of it, moved with the audio, or named; read by mutagen or chunk by chunk."""

from __future__ import annotations

import base64
import struct
from fractions import Fraction
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
import soundfile
from mutagen import aiff, apev2, flac, id3, mp3, mp4, oggopus, oggvorbis, wave

from data_prep.audio.audio import probe
from data_prep.audio.splice import splice, suffix_of, target_form
from data_prep.metadata.chunks import Change, append_chunks
from data_prep.metadata.kept import Kept

RATE, FRAMES = 48000, 48000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(255, -1, -1))
SAME, LATER = Change(0, 0, RATE), Change(24000, 12000, RATE)  # half a second before
TEXTS = {"TITLE": "Nacht", "ARTIST": "Ünï 日本", "ALBUM": "A; B", "DATE": "1999-05-01", "TRACKNUMBER": "3/12", "MYOWN": "x = y"}


def write(path: Path) -> Path:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(FRAMES) / RATE)
    soundfile.write(
        path,
        tone,
        RATE,
        format={".opus": "OGG", ".aiff": "AIFF"}.get(path.suffix),
        subtype="OPUS" if path.suffix == ".opus" else None,
    )
    return path


def picture(data: bytes, mime: str, text: str = "", use: int = 3) -> flac.Picture:
    made = flac.Picture()
    made.data, made.mime, made.desc, made.type = data, mime, text, use
    return made


def edited(source: Path, target: str, change: Change = SAME) -> tuple[Path, list[str]]:
    """The file written as another one with what it carried, by way of the json that a run has; and what was lost."""
    out, lost = source.with_name(target), list[str]()
    Kept.read(source).save(out.with_suffix(".json"))
    form = target_form(source, out)
    splice(
        source,
        out,
        [],
        soundfile.info(source).frames,
        form,
        lambda path: lost.extend(Kept.load(out.with_suffix(".json")).write(path, form, change)),
    )
    assert np.isfinite(soundfile.read(out)[0]).all()
    return out, lost


def chunks(path: Path) -> dict[bytes, bytes]:
    """The chunks of a wav or aiff file, whose sizes must add up to its own."""
    data, found, at = path.read_bytes(), {}, 12
    order = ">" if data[:4] == b"FORM" else "<"
    assert struct.unpack(order + "I", data[4:8])[0] == len(data) - 8 or data[:4] == b"RF64"
    while at < len(data):
        name, size = struct.unpack(order + "4sI", data[at : at + 8])
        if size == 0xFFFFFFFF:
            size = struct.unpack("<Q", data[28:36])[0]
        assert name not in found
        found[name] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(data)
    return found


def with_chunks(path: Path, *extra: tuple[bytes, bytes], order: str = "<") -> Path:
    """The file with chunks after its samples, its size corrected; ids of odd lengths are padded."""
    data = path.read_bytes()
    for name, body in extra:
        data += name + struct.pack(order + "I", len(body)) + body + b"\0" * (len(body) % 2)
    path.write_bytes(data[:4] + struct.pack(order + "I", len(data) - 8) + data[8:])
    return path


# ---- chunks of wav and aiff

CUE = struct.pack("<I", 2) + b"".join(struct.pack("<II4sIII", i, at, b"data", 0, 0, at) for i, at in ((1, 100), (7, 40_000)))
ADTL = (
    b"adtl"
    + b"labl"
    + struct.pack("<II", 10, 7)
    + b"verse\0"
    + b"ltxt"
    + struct.pack("<III4sHHHH", 20, 1, 500, b"rgn ", 0, 0, 0, 0)
)
SMPL = struct.pack("<9I", 0, 0, 20833, 60, 0, 0, 0, 1, 0) + struct.pack("<6I", 7, 0, 1000, 2000, 0, 0)
INFO = b"INFO" + b"INAM" + struct.pack("<I", 5) + b"Song\0\0" + b"IART" + struct.pack("<I", 4) + b"Ann\0"
IXML = b"<BWFXML><PROJECT>p</PROJECT></BWFXML>"


def bext(time: int, loudness: int = 0x7FFF) -> bytes:
    head = (
        b"a take".ljust(256, b"\0")
        + b"recorder".ljust(32, b"\0")
        + bytes(32)
        + b"2020-01-0212:00:00"
        + struct.pack("<QH", time, 2)
    )
    return head + bytes(64) + struct.pack("<5h", *[loudness] * 5) + bytes(180) + b"A=PCM,F=48000\r\n"


EVERY = ((b"bext", bext(10_000_000)), (b"cue ", CUE), (b"LIST", ADTL), (b"smpl", SMPL), (b"iXML", IXML), (b"xyz1", b"odd"))


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
def test_all_chunks_of_a_wav_are_kept_where_the_length_is(tmp_path, container):
    soundfile.write(tmp_path / "a.wav", np.zeros((FRAMES, 2)), RATE, format=container)
    source = with_chunks(tmp_path / "a.wav", *EVERY) if container != "RF64" else tmp_path / "a.wav"
    if container == "RF64":
        append_chunks(source, [(name.decode(), body) for name, body in EVERY])
    made, lost = edited(source, "b.wav")
    found = chunks(made)
    assert not lost and all(found[name] == body for name, body in EVERY)
    assert soundfile.info(made).frames == FRAMES and soundfile.info(made).format == container


def test_positions_in_a_wav_move_with_its_audio(tmp_path):
    source = with_chunks(write(tmp_path / "a.wav"), *EVERY)
    made, lost = edited(source, "b.wav", LATER)
    found = chunks(made)
    assert [struct.unpack_from("<I", found[b"cue "], at)[0] for at in (8, 24, 32, 48)] == [24_100, 24_100, 64_000, 64_000]
    assert struct.unpack_from("<2I", found[b"smpl"], 44) == (25_000, 26_000)
    assert struct.unpack_from("<Q", found[b"bext"], 338)[0] == 10_000_000 - 24_000
    assert found[b"LIST"] == ADTL and found[b"iXML"] == IXML
    assert lost == ["xyz1 chunk"]  # it may hold positions


def test_what_is_no_longer_true_of_a_wav_is_named(tmp_path):
    stamped = b"<BWFXML><SPEED><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>5</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO></SPEED></BWFXML>"
    late = struct.pack("<I", 1) + struct.pack("<II4sIII", 1, 0xFFFFFFF0, b"data", 0, 0, 0xFFFFFFF0)
    extra = (
        (b"bext", bext(5, -1200)),
        (b"cue ", late),
        (b"iXML", stamped),
        (b"acid", bytes(24)),
        (b"levl", bytes(8)),
        (b"smpl", b"short"),
    )
    made, lost = edited(with_chunks(write(tmp_path / "a.wav"), *extra), "b.wav", LATER)
    found = chunks(made)
    assert sorted(lost) == [
        "acid chunk", "cue chunk", "iXML chunk", "levl chunk", "loudness of the bext chunk", "smpl chunk",
        "time reference of the bext chunk, which would be before midnight",
    ]  # fmt: skip
    assert found[b"bext"] == bext(0) and not {b"cue ", b"iXML", b"acid", b"smpl"} & set(found)


@pytest.mark.parametrize("change", [SAME, LATER])
def test_tags_of_a_wav_are_kept_as_info_and_as_id3(tmp_path, change):
    source = with_chunks(write(tmp_path / "a.wav"), (b"LIST", INFO))
    file = wave.WAVE(source)
    file.add_tags()
    file.tags.add(id3.TIT2(text="Nacht"))
    file.tags.add(id3.APIC(mime="image/png", type=3, data=PNG))
    file.save()
    made, lost = edited(source, "b.wav", change)
    assert not lost and chunks(made)[b"LIST"] == INFO
    assert wave.WAVE(made)["TIT2"] == "Nacht" and wave.WAVE(made).tags.getall("APIC")[0].data == PNG


def test_the_info_list_of_a_wav_becomes_comments_of_a_flac_and_the_rest_is_named(tmp_path):
    source = with_chunks(write(tmp_path / "a.wav"), (b"LIST", INFO), (b"cue ", CUE), (b"_PMX", b"<x/>"))
    made, lost = edited(source, "b.flac")
    assert flac.FLAC(made).tags.as_dict() == {"title": ["Song"], "artist": ["Ann"]}
    assert lost == ["cue chunk", "_PMX chunk"]


def test_markers_and_texts_of_an_aiff_are_kept_and_move(tmp_path):
    marks = struct.pack(">H", 2) + struct.pack(">HI", 1, 10) + b"\3abc" + struct.pack(">HI", 2, 999) + b"\2xy\0"
    source = with_chunks(write(tmp_path / "a.aiff"), (b"MARK", marks), (b"NAME", b"Song"), (b"ANNO", b"odd"), order=">")
    file = aiff.AIFF(source)
    file.add_tags()
    file.tags.add(id3.TPE1(text="Ann"))
    file.save()
    made, lost = edited(source, "b.aiff", LATER)
    found = chunks(made)
    assert (
        struct.unpack_from(">I", found[b"MARK"], 4)[0] == 24_010 and struct.unpack_from(">I", found[b"MARK"], 14)[0] == 24_999
    )
    assert found[b"NAME"] == b"Song" and found[b"ANNO"] == b"odd" and aiff.AIFF(made)["TPE1"] == "Ann" and not lost
    made, lost = edited(source, "c.wav")
    assert wave.WAVE(made)["TIT2"] == "Song" and wave.WAVE(made)["TPE1"] == "Ann" and lost == ["MARK chunk"]


# ---- tags and pictures


def tagged_mp3(path: Path, version: int = 3) -> Path:
    tags = id3.ID3()
    tags.add(id3.TIT2(encoding=1, text="Nacht"))
    tags.add(id3.TPE1(encoding=1, text=["Ann", "Ünï 日本"]))
    tags.add(id3.COMM(encoding=1, lang="deu", desc="", text="Grüße"))
    tags.add(id3.COMM(encoding=1, lang="eng", desc="b", text="two"))
    tags.add(id3.TXXX(encoding=1, desc="MYOWN", text="x = y"))
    tags.add(id3.APIC(encoding=1, mime="image/png", type=3, desc="front", data=PNG))
    tags.add(id3.APIC(encoding=1, mime="image/jpeg", type=4, desc="back", data=JPEG))
    tags.add(id3.USLT(encoding=1, lang="deu", desc="", text="[00:01.50]la\nla"))
    tags.add(id3.SYLT(encoding=1, lang="deu", format=2, type=1, desc="", text=[("la", 0), ("lo", 700)]))
    tags.add(id3.CHAP(element_id="c1", start_time=100, end_time=900, sub_frames=[id3.TIT2(encoding=1, text="one")]))
    tags.add(id3.RVA2(desc="track", channel=1, gain=-3.0, peak=0.5))
    tags.add(id3.WOAR(url="http://example.org"))
    if version == 3:
        tags.delall("RVA2")
        tags.update_to_v23()
    tags.save(write(path), v2_version=version)
    return path


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("target", ["b.wav", "b.mp3", "b.aiff"])
def test_the_id3_tag_of_an_mp3_is_kept_whole(tmp_path, version, target):
    source = tagged_mp3(tmp_path / "a.mp3", version)
    made, lost = edited(source, target)
    old, new = mp3.MP3(source).tags, mutagen.File(made).tags
    assert lost == (["ID3 frame RVA2:track"] if version == 4 else [])
    assert new.version == (2, version, 0) and {key for key in old if not key.startswith("RVA2")} == set(new)
    for key in new:
        assert new[key] == old[key] or new[key].pprint() == old[key].pprint(), key
    assert [(each.desc, each.type, each.data) for each in new.getall("APIC")] == [("front", 3, PNG), ("back", 4, JPEG)]


def test_times_in_an_id3_tag_move(tmp_path):
    made, lost = edited(tagged_mp3(tmp_path / "a.mp3"), "b.wav", LATER)
    tags = wave.WAVE(made).tags
    assert tags.getall("SYLT")[0].text == [("la", 500), ("lo", 1200)]
    assert (tags["CHAP:c1"].start_time, tags["CHAP:c1"].end_time) == (600, 1400)
    assert tags.getall("USLT")[0].text == "[00:02.00]la\nla" and not lost


def test_lyrics_timed_in_mpeg_frames_are_timed_in_milliseconds(tmp_path):
    tags = id3.ID3()
    tags.add(id3.SYLT(encoding=3, lang="eng", format=1, type=1, text=[("la", 0), ("lo", 25)]))
    tags.save(write(tmp_path / "a.mp3"))
    frame = wave.WAVE(edited(tmp_path / "a.mp3", "b.wav", LATER)[0]).tags.getall("SYLT")[0]
    assert frame.format == 2 and frame.text == [("la", 500), ("lo", 500 + 25 * 24)]


def test_an_ape_tag_beside_an_id3_tag_adds_what_that_has_not(tmp_path):
    source = tagged_mp3(tmp_path / "a.mp3")
    ape = apev2.APEv2()
    ape.update({"Title": "another", "Mixer": "Bob", "Year": "1999", "REPLAYGAIN_TRACK_GAIN": "-3 dB"})
    ape["Cover Art (Front)"] = apev2.APEValue(b"c.png\0" + PNG[::-1], apev2.BINARY)
    ape.save(source)
    made, lost = edited(source, "b.wav")
    tags = wave.WAVE(made).tags
    assert tags["TIT2"] == "Nacht" and tags["TXXX:MIXER"] == "Bob" and str(tags["TDRC"]) == "1999"
    assert PNG[::-1] in [each.data for each in tags.getall("APIC")] and lost == ["tag REPLAYGAIN_TRACK_GAIN"]


def vorbis(path: Path) -> Path:
    file = {".flac": flac.FLAC, ".ogg": oggvorbis.OggVorbis, ".opus": oggopus.OggOpus}[path.suffix](write(path))
    if file.tags is None:
        file.add_tags()
    for key, text in (*TEXTS.items(), ("artist", "Bob"), ("LYRICS", "[00:01.00]la"), ("replaygain_track_gain", "-7 dB")):
        file.tags.append((key, text))
    pictures = [picture(PNG, "image/png", "f"), picture(JPEG, "image/jpeg", "b", 4)]
    for each in pictures:
        if path.suffix == ".flac":
            file.add_picture(each)
        else:
            file.tags.append(("METADATA_BLOCK_PICTURE", base64.b64encode(each.write()).decode()))
    file.save()
    return path


def pictures_of(file) -> list[tuple]:
    found = (
        file.pictures
        if hasattr(file, "pictures")
        else [flac.Picture(base64.b64decode(text)) for text in file["METADATA_BLOCK_PICTURE"]]
    )
    return [(each.data, each.mime, each.desc, each.type) for each in found]


@pytest.mark.parametrize("source", ["a.flac", "a.ogg", "a.opus"])
@pytest.mark.parametrize("target", ["b.flac", "b.ogg", "b.opus"])
def test_comments_and_pictures_are_kept_as_they_are(tmp_path, source, target):
    made, lost = edited(vorbis(tmp_path / source), target)
    file = mutagen.File(made)
    assert {key.upper() for key in TEXTS} <= {key.upper() for key, _ in list.__iter__(file.tags)}
    assert all(text in file.tags[key] for key, text in TEXTS.items()) and file.tags["ARTIST"] == ["Ünï 日本", "Bob"]
    assert pictures_of(file) == [(PNG, "image/png", "f", 3), (JPEG, "image/jpeg", "b", 4)]
    assert lost == ["tag replaygain_track_gain"]


@pytest.mark.parametrize("source", ["a.flac", "a.ogg", "a.opus"])
def test_comments_and_pictures_become_an_id3_tag(tmp_path, source):
    made, lost = edited(vorbis(tmp_path / source), "b.mp3", LATER)
    tags = mp3.MP3(made).tags
    assert tags["TIT2"] == "Nacht" and tags["TPE1"].text == ["Ünï 日本", "Bob"] and tags["TRCK"] == "3/12"
    assert str(tags["TDRC"]) == "1999-05-01" and tags["TXXX:MYOWN"] == "x = y"
    assert tags.getall("USLT")[0].text == "[00:01.50]la"
    assert [(each.data, each.type) for each in tags.getall("APIC")] == [(PNG, 3), (JPEG, 4)]
    assert lost == ["tag replaygain_track_gain"] and suffix_of(made) == ".wav"


def test_an_id3_tag_becomes_comments_and_the_rest_is_named(tmp_path):
    made, lost = edited(tagged_mp3(tmp_path / "a.mp3", 4), "b.flac", LATER)
    file = flac.FLAC(made)
    assert file["TITLE"] == ["Nacht"] and file["ARTIST"] == ["Ann", "Ünï 日本"] and sorted(file["COMMENT"]) == ["Grüße", "two"]
    assert file["MYOWN"] == ["x = y"] and file["LYRICS"] == ["[00:02.00]la\nla"]
    assert file["SYNCEDLYRICS"] == ["[00:00.500]la\n[00:01.200]lo"]
    assert pictures_of(file) == [(PNG, "image/png", "front", 3), (JPEG, "image/jpeg", "back", 4)]
    assert sorted(lost) == ["ID3 frame CHAP:c1", "ID3 frame RVA2:track", "ID3 frame WOAR:http://example.org"]


def test_a_cue_sheet_and_application_blocks_of_a_flac_are_kept_or_named(tmp_path):
    file = flac.FLAC(write(tmp_path / "a.flac"))
    file.cuesheet = flac.CueSheet(None)
    file.cuesheet.media_catalog_number = b"1234567890123"
    for number, at in ((1, 0), (2, 29400), (170, FRAMES)):
        track = flac.CueSheetTrack(number, at)
        track.indexes.extend([flac.CueSheetTrackIndex(1, 0)] * (number != 170))
        file.cuesheet.tracks.append(track)
    file.metadata_blocks.append(file.cuesheet)
    block = flac.MetadataBlock(b"riffdata")
    block.code = 2
    file.metadata_blocks.append(block)
    file.save()
    old = flac.FLAC(tmp_path / "a.flac")
    made, lost = edited(tmp_path / "a.flac", "b.flac")
    new = flac.FLAC(made)
    assert (
        new.cuesheet == old.cuesheet and [b.write() for b in new.metadata_blocks if b.code == 2] == [b"riffdata"] and not lost
    )
    _, lost = edited(tmp_path / "a.flac", "c.flac", LATER)
    assert lost == ["cue sheet", "application block"]
    assert sorted(edited(tmp_path / "a.flac", "d.wav")[1]) == ["application block", "cue sheet"]


@pytest.fixture(scope="module")
def m4a(tmp_path_factory) -> Path:
    """An m4a with tags, a picture, text of its own and chapters, as ffmpeg and mutagen write it."""
    path = tmp_path_factory.mktemp("m4a") / "a.m4a"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=RATE)
        out.set_chapters(
            [
                {
                    "id": i,
                    "start": 400 * i,
                    "end": 400 * i + 400,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": f"part {i}"},
                }
                for i in range(2)
            ]
        )
        tone = (0.3 * np.sin(np.arange(FRAMES) / 9)).astype(np.float32)[None]
        for at in range(0, FRAMES, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, at : at + 1024]), "fltp", "mono")
            frame.rate, frame.pts = RATE, at
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file = mp4.MP4(path)
    file["\xa9nam"], file["\xa9ART"], file["trkn"], file["tmpo"] = "Nacht", ["Ann", "Bob"], [(3, 12)], [90]
    file["----:com.apple.iTunes:MYOWN"] = [mp4.MP4FreeForm(b"x = y")]
    file["----:com.apple.iTunes:iTunSMPB"] = [mp4.MP4FreeForm(b" 00000000")]
    file["covr"], file["pcst"] = [mp4.MP4Cover(PNG, mp4.MP4Cover.FORMAT_PNG)], True
    file.save()
    return path


@pytest.mark.parametrize("target", ["wav", "flac", "mp3", "ogg"])
def test_tags_chapters_and_pictures_of_an_m4a_are_kept_or_named(m4a, target):
    path, lost = m4a.with_name(f"b.{target}"), list[str]()
    form = target_form(m4a, path)
    splice(m4a, path, [], probe(m4a).frames, form, lambda each: lost.extend(Kept.read(m4a).write(each, form, LATER)))
    file = mutagen.File(path)
    names = {
        "TIT2": "TITLE",
        "TPE1": "ARTIST",
        "TRCK": "TRACKNUMBER",
        "TBPM": "BPM",
        "TXXX:MYOWN": "MYOWN",
        "TXXX:CHAPTER002": "CHAPTER002",
    }
    found = {key: file.tags[frame].text if target in ("wav", "mp3") else file.tags[key] for frame, key in names.items()}
    assert found == {
        "TITLE": ["Nacht"],
        "ARTIST": ["Ann", "Bob"],
        "TRACKNUMBER": ["3/12"],
        "BPM": ["90"],
        "MYOWN": ["x = y"],
        "CHAPTER002": ["00:00:00.900"],
    }
    data = (
        [each.data for each in file.tags.getall("APIC")]
        if target in ("wav", "mp3")
        else [each[0] for each in pictures_of(file)]
    )
    assert data == [PNG] and sorted(lost) == ["MP4 tag pcst", "tag ITUNSMPB"]


def test_tags_that_are_damaged_or_in_no_known_place_cost_nothing_else(tmp_path):
    source = tagged_mp3(tmp_path / "a.mp3")
    data = source.read_bytes()
    source.write_bytes(data[:40] + bytes(60) + data[100:])
    edited(source, "b.wav")
    assert edited(write(tmp_path / "plain.wav"), "c.wav")[1] == []
    assert chunks(tmp_path / "c.wav").keys() == {b"fmt ", b"data"}
    _, lost = edited(vorbis(tmp_path / "a.flac"), "b.w64")
    assert "tags" in lost


def test_a_wav_of_chunks_without_padding_and_with_a_tag_at_its_end_loses_nothing_unnamed(tmp_path):
    path = write(tmp_path / "a.wav")
    path.write_bytes(
        path.read_bytes() + b"abc1\3\0\0\0odd" + b"abc2\2\0\0\0xy" + b"TAG" + b"x" * 125
    )  # nor is its size corrected
    made, lost = edited(path, "b.wav")
    assert chunks(made)[b"abc1"] == b"odd" and chunks(made)[b"abc2"] == b"xy" and lost == ["a tag after the chunks"]


@pytest.mark.parametrize("suffix", [".mka", ".mov", ".caf"])
def test_tags_of_other_containers_are_kept(tmp_path, suffix):
    with av.open(str(tmp_path / f"a{suffix}"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE)
        out.metadata.update(title="Nacht", artist="Ann")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, FRAMES), np.int16), "s16", "mono")
        frame.rate, frame.pts = RATE, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    made = dict(Kept.read(tmp_path / f"a{suffix}").comments)
    assert made.items() >= {"TITLE": "Nacht", "ARTIST": "Ann"}.items() and not {"DURATION", "MAJOR_BRAND"} & set(made)


def test_equal_recordings_become_equal_bytes(tmp_path):
    source = tagged_mp3(tmp_path / "a.mp3")
    assert edited(source, "b.wav")[0].read_bytes() == edited(source, "c.wav")[0].read_bytes()
