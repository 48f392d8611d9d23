"""Packed codes: what is kept comes back, in the bits that are counted, and a damaged file is one line."""

from __future__ import annotations

import math

import numpy as np
import pytest

from data_prep.errors import UserError
from jukebox.model.packed_codes import PackedCodes, pack, packed_size, unpack

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bins", [2, 3, 32, 600, 1025, 2048, 65536])
@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_codes_come_back_in_as_many_bits_as_they_are_worth(bins, n):
    codes = RNG.integers(0, bins, n)
    data = pack(codes, bins)
    assert np.array_equal(unpack(data, n, bins), codes) and len(data) == packed_size(n, bins)
    assert n < 5000 or len(data) * 8 == pytest.approx(n * math.log2(bins), rel=0.02)


def some(columns: int = 3000) -> PackedCodes:
    """The coarsest stream whole, every 4th column of a finer one of two books, nothing of the finest."""
    keep = {"a": np.zeros(4 * columns, bool), "b": np.arange(2 * columns) % 8 < 2, "c": np.ones(columns, bool)}
    streams = {"a": np.zeros(4 * columns, np.uint16), "b": RNG.integers(0, 600, (2 * columns, 2)).astype(np.uint16),
               "c": RNG.integers(0, 2048, columns).astype(np.uint16)}  # fmt: skip
    streams["b"][~keep["b"]] = 0
    return PackedCodes(streams, keep, {"a": 2048, "b": 600, "c": 2048}, 22050, 1000, 3, {"a": "x"}, {"artist": "Ünï"})


def test_what_is_kept_is_read_back_and_the_file_has_its_bits(tmp_path):
    codes, path = some(), tmp_path / "x.codes"
    codes.save(path)
    found = PackedCodes.load(path)
    assert (found.sample_rate, found.samples, found.skip, found.bins) == (22050, 1000, 3, codes.bins)
    assert found.hashes == codes.hashes and found.about == codes.about and list(found.streams) == ["a", "b", "c"]
    for name in codes.streams:
        assert np.array_equal(found.streams[name], codes.streams[name]) and np.array_equal(found.keep[name], codes.keep[name])
        assert found.streams[name].dtype == np.uint16
    bits = 3000 * 11 + 2 * 1500 * math.log2(600)
    assert path.stat().st_size * 8 == pytest.approx(bits, rel=0.05)


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "x.codes"
    some(200).save(path)
    data = path.read_bytes()
    for at in [*range(0, 400, 7), *range(0, len(data), 31)]:
        for broken in (data[:at], data[:at] + bytes([data[at % len(data)] ^ 0x55]) + data[at + 1 :]):
            path.write_bytes(broken)
            with pytest.raises(UserError, match="x.codes is no file of codes that `jukebox compress` has written") as caught:
                PackedCodes.load(path)
            assert "\n" not in str(caught.value)
