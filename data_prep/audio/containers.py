"""What a file says about its own length: is it all there, and how many frames does an mp3 really hold?

Decoders are made to play whatever they get: they end quietly where a cut file ends. So a cut is found in the container: a wav,
aiff, mp4, matroska or wma file states the size of its parts, an ogg stream marks its last page, an mp3 file is a chain of
frames, with a count in its first ("Xing") frame. What nobody states (a bare aac stream) is left to the decoder.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

Bytes = bytes | mmap.mmap


def find_cut(path: Path) -> str | None:
    """Return how the file falls short of what it says of itself, or None where it is whole or says nothing."""
    if path.stat().st_size == 0:
        return None  # nothing is not a piece of something
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head = data[:12]
        if head[:4] in (b"RIFF", b"RIFX", b"FORM"):
            return _cut_chunks(data, "<" if head[:4] == b"RIFF" else ">")
        if head[:4] == b"OggS":
            return _cut_ogg(data)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _cut_boxes(data)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _cut_matroska(data)
        if head[:4] == b"\x30\x26\xb2\x75":
            return _cut_asf(data)
        is_flac = data[(at := _after_id3(data)) : at + 4] == b"fLaC"  # states samples, not bytes: the decoder will tell
        return _cut_mp3(data) if path.suffix.lower() == ".mp3" and not is_flac else None


def _missing(expected: int, has: int) -> str | None:
    """Compare a stated end of the file with the real one."""
    return f"it should be {expected:,} bytes long and has {has:,}" if expected > has else None


def _cut_chunks(data: Bytes, order: str) -> str | None:
    """Walk the chunks of a wav or aiff file to its sound; sizes of 0 and 0xFFFFFFFF mean "a stream, not known"."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack(order + "I", data[at + 4 : at + 8])[0]
        if name in (b"data", b"SSND"):
            return None if size in (0, 0xFFFFFFFF) else _missing(at + 8 + size, len(data))
        at += 8 + size + size % 2
    return "it ends before its sound begins"


def _cut_ogg(data: Bytes) -> str | None:
    """Look for the last page: it must be complete and carry the mark of the end of the stream."""
    at = data.rfind(b"OggS")
    segments = data[at + 26] if at + 27 <= len(data) else 0
    table = data[at + 27 : at + 27 + segments]
    if at + 27 > len(data) or len(table) < segments or at + 27 + segments + sum(table) > len(data):
        return "its last ogg page is cut"
    return None if data[at + 5] & 4 else "its stream has no end mark"


def _cut_boxes(data: Bytes) -> str | None:
    """Walk the outer boxes of an mp4, m4a or mov file; without "moov" (often the last) nothing can be found in it."""
    at, names = 0, []
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        if size == 1 and at + 16 <= len(data):
            size = struct.unpack(">Q", data[at + 8 : at + 16])[0]
        elif size == 0:  # up to the end of the file
            size = len(data) - at
        if size < 8 or not name.isascii():
            break
        if missing := _missing(at + size, len(data)):
            return missing
        names.append(name)
        at += size
    return None if b"moov" in names else "its index (the moov box) is missing"


def _cut_matroska(data: Bytes) -> str | None:
    """Compare the size of the segment of an mkv or webm file with the file."""

    def size_at(at: int) -> tuple[int | None, int]:  # a number with a length prefix, as matroska writes it
        length = 9 - data[at].bit_length()
        if length > 8:
            return None, at + 1
        value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        return (None if value == (1 << 7 * length) - 1 else value), at + length

    try:
        size, at = size_at(4)
        at += size or 0
        size, at = size_at(at + 4)
    except IndexError:
        return "it ends in its header"
    return None if size is None else _missing(at + size, len(data))


def _cut_asf(data: Bytes) -> str | None:
    """Compare the file with the size in the file properties of a wma file (0 while it is broadcast)."""
    at = data.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), 0, 1 << 16)
    return _missing(struct.unpack("<Q", data[at + 40 : at + 48])[0], len(data)) if at >= 0 else None


def _cut_mp3(data: Bytes) -> str | None:
    """Compare the frames of an mp3 file with the count in its first frame, and see whether the last one is whole."""
    frames = Mp3Frames(data)
    if not frames.count:
        return None
    if frames.declared is not None and frames.declared > frames.count + 1:  # some writers count the first frame too
        return f"it should have {frames.declared} mp3 frames and has {frames.count}"
    return "its last mp3 frame is cut" if frames.ends_cut else None


_KBPS = {  # layer III, by index
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG 2 and 2.5
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class Mp3Frames:
    """The frames of an mp3 file (layer III), found by walking from header to header.

    `start` is the first one, `count` how many hold sound, `declared` the count its Xing frame states (None without
    one), `ends_cut` whether the last header promises more bytes than there are.
    """

    def __init__(self, data: Bytes) -> None:
        """Walk once; what is no frame (tags, garbage) is stepped over to the next pair of matching headers."""
        self.data, self.count, self.declared, self.ends_cut = data, 0, None, False
        at = self.start = self._resync(_after_id3(data))
        self.xing = self._find_xing(at)
        if self.xing is not None and data[self.xing + 7] & 1:
            self.declared = int.from_bytes(data[self.xing + 8 : self.xing + 12], "big")
        kind = data[at + 1 : at + 2]
        while at + 4 <= len(data):
            size = _frame_size(data, at) if data[at + 1 : at + 2] == kind else 0
            if size and at + size <= len(data):
                self.count += 1
                at += size
            elif size:
                self.ends_cut = True
                break
            else:
                at = self._resync(at)
        self.count -= self.xing is not None

    def _resync(self, at: int) -> int:
        """Return the next place with two frames in a row, or the end of the data."""
        data = self.data
        while 0 <= (at := data.find(b"\xff", at)) < len(data) - 4:
            size = _frame_size(data, at)
            after = at + size
            if size and after + 4 <= len(data) and _frame_size(data, after) and data[at + 1] == data[after + 1]:
                return at
            at += 1
        return len(data)

    def _find_xing(self, at: int) -> int | None:
        """Return where the Xing or Info tag stands in the first frame (after its side information), or None."""
        if at + 4 > len(self.data):
            return None
        found = at + 4 + _side_size(self.data, at)
        return found if self.data[found : found + 4] in (b"Xing", b"Info") else None

    def honest(self) -> bytes:
        """Return the sound of the file with a first frame that states the true count.

        libsndfile believes the count (or, without one, guesses it from the bit rate of the first frame) and reads no
        further than that, so it is told the truth.
        """
        count = self.count.to_bytes(4, "big")
        if self.xing is not None and self.declared is not None:
            return self.data[self.start : self.xing + 8] + count + self.data[self.xing + 12 :]
        header = bytearray(self.data[self.start : self.start + 4])
        header[1] |= 1  # no checksum
        header[2] = (header[2] & 0x0D) | 0x90  # a bit rate with room for the tag, no padding
        tag = bytes(header) + bytes(_side_size(bytes(header), 0)) + b"Info" + (1).to_bytes(4, "big") + count
        return tag.ljust(_frame_size(bytes(header), 0), b"\0") + self.data[self.start :]


def _after_id3(data: Bytes) -> int:
    """Return where the sound begins behind ID3v2 tags (their sizes are written in 7 bits a byte)."""
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 127
        at += 10 + size
    return at


def _side_size(data: Bytes, at: int) -> int:
    """Return the bytes of side information of the layer III frame at `at`."""
    mpeg1, mono = data[at + 1] & 8, data[at + 3] >> 6 == 3
    return (17 if mono else 32) if mpeg1 else (9 if mono else 17)


def _frame_size(data: Bytes, at: int) -> int:
    """Return the length in bytes of the layer III frame at `at`, or 0 where no such frame begins there."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # 11 bits of sync; layer III
        return 0
    version = data[at + 1] >> 3 & 3
    rate_index, kbps = data[at + 2] >> 2 & 3, _KBPS[version == 3][data[at + 2] >> 4]
    if version == 1 or rate_index == 3 or kbps == 0:
        return 0
    return (144000 if version == 3 else 72000) * kbps // _RATES[version][rate_index] + (data[at + 2] >> 1 & 1)
