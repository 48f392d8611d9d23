"""Audio files for other programs: what they hold is read back by other libraries."""

from __future__ import annotations

import struct

import mutagen
import numpy as np
import pytest
import soundfile

from data_prep.errors import UserError
from data_prep.metadata.exported import FORMS, form_of_path, write_export

AUDIO = (0.3 * np.sin(np.arange(4410) / 7)[None] * np.ones((2, 1))).astype(np.float32)
TAGS = {"title": "a song", "artist": "ann", "jukebox_seed": "7", "jukebox_request": '{"lyrics": "é"}'}
CUES = [(0.0, "begin"), (0.05, "é"), (9.0, "after the end")]


@pytest.mark.parametrize("form", FORMS)
def test_audio_and_tags_are_read_back(form, tmp_path):
    path = tmp_path / f"a{FORMS[form][0]}"
    write_export(path, AUDIO, 44100, form, TAGS, CUES)
    made, rate = soundfile.read(path, dtype="float32", always_2d=True)
    most = {"wav16": 2e-5, "wav24": 2e-7, "wav32f": 0.0, "flac": 2e-7, "mp3": 0.1}[form]
    assert rate == 44100 and np.abs(made.T[:, :4410] - AUDIO).max() <= most
    found = mutagen.File(path)
    if form == "flac":
        assert {name: found[name][0] for name in TAGS} == TAGS
    else:
        assert str(found["TIT2"]) == "a song" and str(found["TXXX:jukebox_request"]) == TAGS["jukebox_request"]


@pytest.mark.parametrize("form", ["wav16", "wav24", "wav32f"])
def test_a_wav_has_cue_markers_with_labels(form, tmp_path):
    write_export(tmp_path / "a.wav", AUDIO[:1, :4409], 44100, form, TAGS, CUES)
    data = (tmp_path / "a.wav").read_bytes()
    assert struct.unpack_from("<L", data, 4)[0] == len(data) - 8
    at, found = 12, {}
    while at < len(data):
        name, size = struct.unpack_from("<4sL", data, at)
        found[name] = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    assert at == len(data) and struct.unpack_from("<L", found[b"cue "])[0] == 3
    points = [struct.unpack_from("<LL4sLLL", found[b"cue "], 4 + 24 * n) for n in range(3)]
    assert [(number, sample) for number, *_, sample in points] == [(1, 0), (2, 2205), (3, 4409)]
    assert "é".encode() + b"\0" in found[b"LIST"] and found[b"LIST"].startswith(b"adtl")


def test_the_form_follows_from_the_name_and_the_bits(tmp_path):
    names = [("a.wav", 0), ("a.wav", 24), ("a.WAV", 32), ("a.flac", 0), ("a.mp3", 0)]
    assert [form_of_path(tmp_path / name, bits) for name, bits in names] == ["wav16", "wav24", "wav32f", "flac", "mp3"]
    for name, bits in (("a.ogg", 0), ("a.wav", 12), ("a.mp3", 24)):
        with pytest.raises(UserError, match="expected"):
            form_of_path(tmp_path / name, bits)
