"""song.codes: the codes that `jukebox compress` keeps, in nearly log2(bins) bits per code.

`jukebox codec decode` decodes this file.

    8 bytes    b"jukebox1"
    4 bytes    size of the header
    header     json, compressed: sample rate, samples, streams, codes hashes, seed, artist and genres
    4 bytes    size of the mask
    mask       one bit per frame of each stream: kept or not; compressed, because prompts are periodic
    codes      kept codes of each stream, finest stream first, log2(bins) bits per code
    4 bytes    crc32 of all earlier bytes

If the size of a codebook is not a power of two, several codes share one number, so that less than 2 % of a bit is lost.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError
from data_prep.files import write_bytes

SUFFIX, MAGIC = ".codes", b"jukebox1"
MOST_FRAMES = 1 << 28


@dataclass(frozen=True)
class PackedCodes:
    """Frames (t, ...) of each stream, finest first, with a mask (t) of the kept frames; other frames are zeros.

    The audio begins `skip` samples after the start of the first frame and has `samples` samples. `about` has the conditions,
    seed and parameters with which a decoder samples the other frames.
    """

    streams: Mapping[str, np.ndarray]
    keep: Mapping[str, np.ndarray]
    bins: Mapping[str, int]
    sample_rate: int
    samples: int
    skip: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        kinds = {name: [len(x), *x.shape[1:], x.dtype.name, self.bins[name]] for name, x in self.streams.items()}
        names = ("sample_rate", "samples", "skip", "hashes", "about")
        header = json.dumps({"streams": kinds} | {name: getattr(self, name) for name in names}, separators=(",", ":"))
        mask = np.packbits(np.concatenate([self.keep[name] for name in self.streams])).tobytes()
        parts = [zlib.compress(part, 9) for part in (header.encode(), mask)]
        codes = b"".join(pack(x[self.keep[name]].ravel(), self.bins[name]) for name, x in self.streams.items())
        data = MAGIC + b"".join(struct.pack("<I", len(part)) + part for part in parts) + codes
        write_bytes(path, data + struct.pack("<I", zlib.crc32(data)))

    @staticmethod
    def load(path: Path) -> PackedCodes:
        """Read a file that `save` wrote; raise UserError for any other file."""
        data, crc = (whole := path.read_bytes())[:-4], whole[-4:]
        try:
            if data[:8] != MAGIC or crc != struct.pack("<I", zlib.crc32(data)):
                raise ValueError("its first or last bytes are others")
            header, at = _part(data, 8, 1 << 20)
            asked = json.loads(header)
            kinds: dict[str, list[Any]] = asked.pop("streams")
            frames = [kind[0] for kind in kinds.values()]
            if not frames or min(frames) < 0 or sum(frames) > MOST_FRAMES:
                raise ValueError(f"it states {sum(frames):,} frames")
            mask, at = _part(data, at, sum(frames) // 8 + 1)
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=sum(frames)).astype(bool)
            keep = dict(zip(kinds, np.split(bits, np.cumsum(frames)[:-1])))
            streams = {}
            for name, (_, *books, dtype, bins) in kinds.items():
                count = int(keep[name].sum()) * math.prod(books)
                streams[name] = np.zeros((len(keep[name]), *books), dtype)
                streams[name][keep[name]] = unpack(data[at : at + packed_size(count, bins)], count, bins).reshape(-1, *books)
                at += packed_size(count, bins)
            return PackedCodes(streams, keep, {name: kind[-1] for name, kind in kinds.items()}, **asked)
        except (ValueError, KeyError, TypeError, struct.error, zlib.error, IndexError, OverflowError) as error:
            raise UserError(
                f"{path} is no file of codes that `jukebox compress` has written, or it is damaged ({error})"
            ) from error


def pack(codes: np.ndarray, bins: int) -> bytes:
    """Pack codes below `bins` into log2(bins) bits per code; several codes are the digits of one number."""
    count, bits = _group(bins)
    digits = np.pad(codes.astype(np.uint64), (0, -len(codes) % count)).reshape(-1, count)
    numbers = digits @ np.uint64(bins) ** np.arange(count, dtype=np.uint64)
    return np.packbits((numbers[:, None] >> np.arange(bits, dtype=np.uint64)).astype(np.uint8) & 1).tobytes()


def unpack(data: bytes, n: int, bins: int) -> np.ndarray:
    """Return the first `n` codes that `pack` packed into `data`; raise ValueError if `data` has fewer codes."""
    count, bits = _group(bins)
    groups = -(-n // count)
    if len(data) < packed_size(n, bins):
        raise ValueError(f"{len(data):,} bytes of codes, expected {packed_size(n, bins):,}")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), count=groups * bits).reshape(groups, bits)
    numbers = (flags.astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    return (numbers[:, None] // np.uint64(bins) ** np.arange(count, dtype=np.uint64) % np.uint64(bins)).ravel()[:n]


def packed_size(n: int, bins: int) -> int:
    """Number of bytes of `n` packed codes."""
    count, bits = _group(bins)
    return -(-(-(-n // count) * bits) // 8)


def _group(bins: int) -> tuple[int, int]:
    """Number of codes in one number below 2^62, and bits of that number; the bits per code are minimal."""
    sizes = [(count, (bins**count - 1).bit_length()) for count in range(1, 63 if bins > 1 else 2)]
    return min((each for each in sizes if each[1] <= 62), key=lambda each: (each[1] / each[0], each[0]))


def _part(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """Decompress the part at offset `at` to at most `most` bytes; return the bytes and the offset of the next part."""
    size = struct.unpack_from("<I", data, at)[0]
    return zlib.decompressobj().decompress(data[at + 4 : at + 4 + size], most), at + 4 + size
