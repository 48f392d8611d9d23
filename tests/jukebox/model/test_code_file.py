"""codes.npz: streams with the hash of what decides their codes; files of version 1, with levels, are read too."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from data_prep import files
from data_prep.errors import UserError
from data_prep.files import file_hash
from jukebox.model.code_file import Codes
from jukebox.runs.sources import read_codes

CODES = {"vq.0": np.arange(320, dtype=np.uint16) % 32, "vq.1": np.arange(80, dtype=np.uint16) % 32,
         "vq.2": np.arange(20, dtype=np.uint16)}  # fmt: skip


def write_version_1(path, codec: str, **changed: np.ndarray) -> None:
    """A file as commit 3ccb48a wrote it."""
    levels = {f"level_{level}": CODES[f"vq.{level}"] for level in range(3)}
    np.savez(path, **levels | changed, sample_rate=22050, samples=2600, codec=codec)


def test_saved_codes_are_loaded_as_they_were(tmp_path):
    codes = Codes({**CODES, "latent": np.ones((20, 4), np.float32)}, 22050, 2600, {"vq.0": "abc", "latent": ""})
    codes.save(tmp_path / "a" / "codes.npz")
    again = Codes.load(tmp_path / "a" / "codes.npz")
    assert (again.sample_rate, again.samples, again.hashes) == (22050, 2600, codes.hashes)
    assert list(again.streams) == list(codes.streams)
    assert all(np.array_equal(again.streams[name], x) and again.streams[name].dtype == x.dtype
               for name, x in codes.streams.items())  # fmt: skip
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["codes.npz"]


def test_codes_are_of_a_model_unless_a_stream_has_another_hash(tiny_model):
    info = tiny_model.info
    hashes = {stream: info.codes_hash(stream) for stream in CODES}
    assert len(set(hashes.values())) == 3 and all(hashes.values())
    for known in (hashes, {}, {"vq.1": hashes["vq.1"]}, dict.fromkeys(CODES, "")):
        assert Codes(CODES, 22050, 2600, known).is_of(info)
    assert not Codes(CODES, 22050, 2600, hashes | {"vq.1": hashes["vq.0"]}).is_of(info)
    assert not Codes(CODES, 44100, 2600, hashes).is_of(info)
    assert not Codes(CODES | {"mulaw": CODES["vq.0"]}, 22050, 2600, hashes).is_of(info)


def test_a_file_of_version_1_is_accepted_with_the_hash_of_its_codec(tiny_model, tmp_path):
    for codec in (file_hash(tiny_model.folder / "codec.safetensors"), ""):
        write_version_1(tmp_path / "codes.npz", codec)
        codes = read_codes(tiny_model.info, tmp_path / "codes.npz")
        assert codes.samples == 2600 and all(np.array_equal(codes.streams[name], x) for name, x in CODES.items())
    write_version_1(tmp_path / "other.npz", "0123456789ab")
    with pytest.raises(UserError, match="another codec"):
        read_codes(tiny_model.info, tmp_path / "other.npz")


def test_what_is_no_file_of_codes_is_one_line(tiny_model, tmp_path):
    path = tmp_path / "codes.npz"
    for wrong in (np.ones(20), np.ones((20, 2), np.uint16)):
        write_version_1(path, "", level_2=wrong)
        with pytest.raises(UserError, match="expected streams of numbers"):
            Codes.load(path)
    np.savez(path, sample_rate=22050, samples=2600, codec="")
    with pytest.raises(UserError, match="expected streams of numbers"):
        Codes.load(path)
    np.savez(path, **CODES, hashes="[1]", sample_rate=22050, samples=2600)
    with pytest.raises(UserError, match="is no codes.npz"):
        Codes.load(path)
    Codes(CODES | {"vq.2": np.ones(20, np.float32)}, 22050, 2600).save(path)
    with pytest.raises(ValueError, match="codes.npz: vq.2 of float32; expected integers"):
        read_codes(tiny_model.info, path)


def test_a_file_that_expands_to_far_more_than_it_is_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SPARE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("vq.0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<u2", "fortran_order": False, "shape": (8 << 20,)})
        member.write(bytes(16 << 20))
    with pytest.raises(UserError, match=r"its 0.0 MB expand to 17 MB"):
        Codes.load(tmp_path / "bomb.npz")
