"""The frames of an mp3 file, and the files that are joined in it.

Decoders trust the frame count in the first ("Xing") frame, or estimate a count from the bit rate. So frames are counted here,
and a decoder gets each joined file with its true count.
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from dataclasses import dataclass

from data_prep.pool import alive

Bytes = bytes | mmap.mmap
STRAY = 4  # fewer frames of one kind are random data that looks like frames

_KBPS = {  # layer III, by index
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG 1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG 2 and 2.5
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_RATED = bytes(bits << 4 | rate << 2 | low for bits in range(1, 15) for rate in range(3) for low in range(4))
_HEADER = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][" + re.escape(_RATED) + rb"]")


@dataclass
class Mp3Run:
    """The frames of one joined file: bytes [start, stop), `count` frames with sound, and the count stated by the Xing frame."""

    start: int
    stop: int
    kind: tuple[int, int]  # sample rate and channels
    xing: int | None  # position of the Xing tag
    declared: int | None
    count: int = 0

    @property
    def cut(self) -> str | None:
        """A description of the missing frames, if the Xing frame states more frames than the file has.

        Some writers count the Xing frame too, so that a difference of one is allowed.
        """
        if self.count and self.declared is not None and self.declared > self.count + 1:
            return f"it should have {self.declared} mp3 frames and has {self.count}"
        return None

    def head(self, data: Bytes) -> tuple[bytes, int]:
        """Return a first frame with the true count, and the offset in the file of the data that follows it."""
        count = self.count.to_bytes(4, "big")
        if self.xing is not None and self.declared is not None:
            return data[self.start : self.xing + 8] + count, self.xing + 12
        header = bytearray(data[self.start : self.start + 4])
        header[1] |= 1  # no checksum
        header[2] = (header[2] & 0x0D) | 0x90  # a bit rate with room for the tag, no padding
        tag = bytes(header) + bytes(_side_size(bytes(header), 0)) + b"Info" + (1).to_bytes(4, "big") + count
        return tag.ljust(_frame_size(bytes(header), 0), b"\0"), self.start


class Mp3Frames:
    """The frames of an mp3 file (layer III), followed from header to header.

    `runs` has one run for each Xing frame or change of the kind of frames. `ends_cut` is set if the last frame is longer than
    the rest of the file. `kinds` has the (sample rate, channels) of all runs.
    """

    def __init__(self, data: Bytes) -> None:
        """Parse the file once; data between frames (tags, garbage) is skipped up to the next pair of matching headers."""
        self.data, self.ends_cut = data, False
        runs: list[Mp3Run] = []
        at = self._resync(after_id3(data))
        while at + 4 <= len(data):
            size = _frame_size(data, at)
            if size and at + size <= len(data):
                self._add(runs, at, size)
                at += size
            elif size:
                self.ends_cut = True
                break
            else:
                at = self._resync(at + 1)
        self.runs = _joined(runs)
        self.kinds = list(dict.fromkeys(run.kind for run in self.runs))

    def _add(self, runs: list[Mp3Run], at: int, size: int) -> None:
        alive()
        kind, xing = _kind(self.data, at), self._find_xing(at)
        if xing is not None or not runs or runs[-1].kind != kind:
            declared = None
            if xing is not None and self.data[xing + 7] & 1:
                declared = int.from_bytes(self.data[xing + 8 : xing + 12], "big")
            runs.append(Mp3Run(at, at, kind, xing, declared))
        runs[-1].count += xing is None
        runs[-1].stop = at + size

    def _resync(self, at: int) -> int:
        """Return the next offset with two consecutive frames of one kind, or the end of the data."""
        data = self.data
        for found in _HEADER.finditer(data, at):
            at = found.start()
            after = at + (_frame_size(data, at) or len(data))
            if _frame_size(data, after) and _kind(data, at) == _kind(data, after):
                return at
        return len(data)

    def _find_xing(self, at: int) -> int | None:
        """Return the offset of the Xing or Info tag in a frame (after its side information), or None."""
        found = at + 4 + _side_size(self.data, at)
        return found if self.data[found : found + 4] in (b"Xing", b"Info") else None


def after_id3(data: Bytes, at: int = 0) -> int:
    """Return the offset of the audio after ID3v2 tags; each byte of their sizes has 7 bits."""
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 127
        at += 10 + size
    return at


def _joined(runs: list[Mp3Run]) -> list[Mp3Run]:
    """Remove stray runs, and join a run without a Xing frame to the run before it."""
    frames: Counter[tuple[int, int]] = Counter()
    for run in runs:
        frames[run.kind] += run.count
    most = max(frames.values(), default=0)
    kept: list[Mp3Run] = []
    for run in runs:
        if frames[run.kind] < min(STRAY, most) or not (run.count or run.xing):
            continue
        if kept and run.xing is None and kept[-1].kind == run.kind:
            kept[-1].stop, kept[-1].count = run.stop, kept[-1].count + run.count
        else:
            kept.append(run)
    return kept


def _kind(data: Bytes, at: int) -> tuple[int, int]:
    """Return the sample rate and the channels of the frame at `at`."""
    return _RATES[data[at + 1] >> 3 & 3][data[at + 2] >> 2 & 3], 1 if data[at + 3] >> 6 == 3 else 2


def _side_size(data: Bytes, at: int) -> int:
    """Return the number of bytes of side information of the layer III frame at `at`."""
    mpeg1, mono = data[at + 1] & 8, data[at + 3] >> 6 == 3
    return (17 if mono else 32) if mpeg1 else (9 if mono else 17)


def _frame_size(data: Bytes, at: int) -> int:
    """Return the length in bytes of the layer III frame at `at`, or 0 if there is no frame."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # 11 bits of sync; layer III
        return 0
    version = data[at + 1] >> 3 & 3
    rate_index, kbps = data[at + 2] >> 2 & 3, _KBPS[version == 3][data[at + 2] >> 4]
    if version == 1 or rate_index == 3 or kbps == 0:
        return 0
    return (144000 if version == 3 else 72000) * kbps // _RATES[version][rate_index] + (data[at + 2] >> 1 & 1)
