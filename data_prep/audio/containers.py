"""Parse containers: start and end of each of the files that are joined in a file, missing data, and corrected headers.

A decoder stops without an error at the end of a cut file, at the length in a wrong header, and after the first of several
joined files. So the container is parsed first. The parts of a wav, aiff, caf, w64, au, mp4, matroska or wma file have sizes.
The last page of an ogg file has a mark. An mp3 file is a chain of frames. A decoder then opens each joined file (`Link`)
separately, with a corrected header.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from data_prep.audio.mpeg import Bytes, Mp3Frames, after_id3
from data_prep.errors import BadAudio

Order = Literal["big", "little"]
LARGEST = 0xFFFFFFFF  # largest 32-bit size; programs that write to a pipe use it, or about half of it, for an unknown size
TAGS = (b"TAG", b"APETAGEX", b"ID3")  # tags that programs append to files of any kind
MAGICS = re.compile(
    rb"(RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|OggS|fLaC|....ftyp|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66|FLV\x01|TTA1|MAC "
    rb"|caff\0\x01|riff\x2e\x91\xcf\x11|\.snd\0\0",
    re.DOTALL,
)
MOST_LINKS = 1000
NOT_ZERO = re.compile(rb"[^\0]")
COMPRESSED = (0x02, 0x11, 0x31)  # ADPCM of Microsoft and IMA, GSM
W64 = b"riff\x2e\x91\xcf\x11"
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True)
class Link:
    """One of the joined files; a decoder reads `head` and then the bytes [start, stop)."""

    start: int
    stop: int
    head: bytes = b""
    cut: str | None = None  # what is missing, compared with the header
    declared: int | None = None  # number of samples that the header states
    padding: int = 0  # samples that a decoder may return after `declared`: the rest of the last block
    rate: int | None = None  # Hz, as the header of a wav file states it
    goes_on: bool = False  # an ogg stream with pages after its end mark, where libsndfile stops


def find_links(path: Path) -> list[Link]:
    """Return the files that are joined in a file, usually one; BadAudio if they are too many, or mp3 files of several kinds."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, links = after_id3(data), list[Link]()
        if not (found := _reader_at(data, at)):
            links = _mp3_links(path, data) or [Link(0, len(data))]
        while found and len(links) <= MOST_LINKS:
            links.append(found(data, at))
            at = links[-1].stop
            found = _reader_at(data, at) if MAGICS.match(data, at) else None
        if len(links) > MOST_LINKS:
            raise BadAudio(path, "unreadable", f"more than {MOST_LINKS} files are joined in it")
        return links


def _reader_at(data: Bytes, at: int) -> Callable[[Bytes, int], Link] | None:
    """Return the parser of the container that begins at `at`; None if no container begins there."""
    head = data[at : at + 12]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _boxes
    by_magic = {
        b"OggS": _ogg, b"fLaC": _flac, b"caff": _caf, b"riff": _w64, b".snd": _au, b"\x1a\x45\xdf\xa3": _matroska,
        b"\x30\x26\xb2\x75": _asf, b"FLV\x01": _repeated, b"TTA1": _repeated, b"MAC ": _repeated,
    }  # fmt: skip
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        return {b"AVI ": _riff, **dict.fromkeys((b"WAVE", b"AIFF", b"AIFC", b"8SVX", b"16SV"), _chunks)}.get(head[8:])
    return by_magic.get(head[:4])


def _is_unknown(size: int) -> bool:
    """Return whether a 32-bit size is a placeholder, which arecord, ffmpeg and sox write to a pipe."""
    return size == 0 or (size > 1 << 30 and (size + 4096) % (1 << 31) < 8192)


def _missing(expected: int, has: int) -> str | None:
    """Describe the missing bytes if a file is shorter than `expected`; else None."""
    return f"it should be {expected:,} bytes long and has {has:,}" if expected > has else None


# ---- wav, aiff


def walk_chunks(data: Bytes, at: int, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, size) of each chunk.

    If a chunk of odd size has no padding byte, the next chunk begins one byte earlier.
    """
    long_size = 0
    while at + 8 <= len(data):
        size = _number(data, at + 4, 4, order)
        if data[at : at + 4] == b"ds64":
            long_size = _number(data, at + 16, 8, "little")
        if data[at : at + 4] == b"data" and size == LARGEST and long_size:
            size = long_size
        yield data[at : at + 4], at + 8, size
        at += 8 + size
        at += size % 2 and not (_is_name(data[at : at + 4]) and not _is_name(data[at + 1 : at + 5]))


def _number(data: Bytes, at: int, size: int, order: Order) -> int:
    return int.from_bytes(data[at : at + size], order)


def _is_name(name: bytes) -> bool:
    return re.fullmatch(rb"[A-Za-z0-9_-][A-Za-z0-9_ -]{3}", name) is not None


def _chunks(data: Bytes, at: int) -> Link:
    """Parse a wav (also RF64 and BW64) or aiff file; a file with a wrong size of its samples gets a corrected header."""
    kind, order = data[at : at + 4], cast(Order, "big" if data[at : at + 4] in (b"RIFX", b"FORM") else "little")
    parts, aligned = dict[bytes, bytes](), True
    for name, start, size in walk_chunks(data, at + 12, order):
        aligned &= start % 2 == at % 2
        if name in (b"data", b"SSND", b"BODY"):
            break
        parts[name] = data[start - 8 : start + min(size, 1 << 16)]
    else:
        return Link(at, len(data), cut="it ends before its audio begins")
    if size == LARGEST and b"ds64" in parts:
        size = _number(parts[b"ds64"], 16, 8, "little")
    true = _size_of_samples(data, name, start, size)
    stop = at + 8 + _number(data, at + 4, 4, order)
    if not start + true <= stop <= len(data):
        stop = min(len(data), start + true + true % 2)
    link = Link(at, stop, cut=_missing(start + true, len(data)))
    if name != b"data":
        return _with_comm(link, parts)
    if true != size or not aligned or kind == b"BW64":
        body = b"WAVE" + parts.get(b"fmt ", b"") + parts.get(b"fact", b"") + b"data" + min(true, LARGEST).to_bytes(4, order)
        head = (b"RIFX" if order == "big" else b"RIFF") + min(len(body) + true, LARGEST).to_bytes(4, order) + body
        link = replace(link, start=start, stop=min(len(data), start + true), head=head)
    form = parts.get(b"fmt ", b"")
    return replace(_with_fact(link, parts, order), rate=_number(form, 12, 4, order) if len(form) >= 16 else None)


def _size_of_samples(data: Bytes, name: bytes, start: int, size: int) -> int:
    """Return the stated number of bytes of samples.

    If that number is a placeholder, or no valid data follows the samples, all bytes up to the end of the file are samples.
    """
    rest = len(data) - start
    is_too_small = name == b"data" and size < rest and not _follows(data, start + size + size % 2)
    return rest if is_too_small or (size > rest and _is_unknown(size)) else size


def _follows(data: Bytes, at: int) -> bool:
    """Return whether valid data, or nothing, follows the samples of a wav file: tags, zeros, another file, or a chunk."""
    rest = data[at : at + 8]
    if len(rest) < 8 or rest.startswith(TAGS) or MAGICS.match(data, at) or not NOT_ZERO.search(data, at):
        return True
    at -= not _is_name(rest[:4])  # the chunk of samples has no padding byte
    return _is_name(data[at : at + 4]) and at + 8 + _number(data, at + 4, 4, "little") <= len(data) + 1


def _with_fact(link: Link, parts: Mapping[bytes, bytes], order: Order) -> Link:
    """Return the link with the number of samples of a compressed wav file, read from its fact chunk.

    The last block of a compressed wav file is padded.
    """
    form, fact = parts.get(b"fmt ", b""), parts.get(b"fact", b"")
    if len(form) < 28 or len(fact) < 12 or _number(form, 8, 2, order) not in COMPRESSED:
        return link
    return replace(link, declared=_number(fact, 8, 4, order), padding=_number(form, 26, 2, order))


def _with_comm(link: Link, parts: Mapping[bytes, bytes]) -> Link:
    """Return the link with the number of samples of an uncompressed aiff file, read from its COMM chunk."""
    comm = parts.get(b"COMM", b"")
    is_plain = len(comm) >= 26 and comm[26:30] in (b"", b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"fl64", b"FL64")
    return replace(link, declared=_number(comm, 10, 4, "big")) if is_plain else link


# ---- other formats that libsndfile reads


def _caf(data: Bytes, at: int) -> Link:
    """Walk the chunks of a caf file to its audio; a chunk of size -1 extends to the end of the file."""
    place = at + 8
    while place + 12 <= len(data):
        name, size = struct.unpack(">4sq", data[place : place + 12])
        if name == b"data" or size < 0:
            after = place + 12 + max(size, 0)
            stop = data.find(b"caff\0\1", after) if size >= 0 else -1
            return Link(at, stop if stop >= 0 else len(data), cut=_missing(after, len(data)))
        place += 12 + size
    return Link(at, len(data), cut="it ends before its audio begins")


def _w64(data: Bytes, at: int) -> Link:
    """Walk the chunks of a w64 file: 16 bytes of name, then a size that includes name and size."""
    place = at + 40
    while place + 24 <= len(data):
        size = struct.unpack("<Q", data[place + 16 : place + 24])[0]
        if data[place : place + 16] == W64_DATA:
            if size >> 62:  # unknown
                true = (len(data) - place).to_bytes(8, "little")
                return Link(place + 24, len(data), data[at : place + 16] + true)
            stop = data.find(W64, place + size)
            return Link(at, stop if stop >= 0 else len(data), cut=_missing(place + size, len(data)))
        place += max(24, size + -size % 8)
    return Link(at, len(data), cut="it ends before its audio begins")


def _au(data: Bytes, at: int) -> Link:
    """Parse an au file, which is a header and samples up to its end; the stated size only shows missing data."""
    offset, size = struct.unpack(">II", data[at + 4 : at + 12].ljust(8, b"\0"))
    cut = None if _is_unknown(size) else _missing(at + offset + size, len(data))
    stop = at + offset + size if data[at + offset + size :][:4] == b".snd" else len(data)
    return Link(at + 12, stop, data[at : at + 8] + b"\xff" * 4, cut)


def _flac(data: Bytes, at: int) -> Link:
    """Parse a flac file; its count of samples becomes "unknown", because libFLAC would stop at a wrong count."""
    info = bytearray(data[at : at + 42])
    bits = int.from_bytes(info[18:26].ljust(8, b"\0"), "big")
    info[18:26] = (bits >> 36 << 36).to_bytes(8, "big")
    stops = [place for last in (b"\x00", b"\x80") if (place := data.find(b"fLaC" + last + b"\0\0\x22", at + 8)) >= 0]
    stop = min(stops, default=len(data))
    if len(info) < 42 or data[at + 4] & 127:
        return Link(at, stop, cut="it ends before its audio begins" if len(info) < 42 else None)
    return Link(at + 42, stop, bytes(info), declared=bits & (1 << 36) - 1 or None)


def _ogg(data: Bytes, at: int) -> Link:
    """Parse the pages of one joined ogg file, up to the first page of the next one.

    The last page must be complete and marked as the last.
    """
    ended, began, place, unmarked = False, False, at, "its stream has no end mark"
    marked, goes_on = set[bytes](), False  # streams that have an end mark
    while place + 27 <= len(data):
        flags, segments = data[place + 5], data[place + 26]
        if flags & 2 and began:
            return Link(at, place, cut=None if ended else unmarked, goes_on=goes_on)
        began |= not flags & 2
        serial = data[place + 14 : place + 18]
        goes_on |= serial in marked
        table = data[place + 27 : place + 27 + segments]
        after = place + 27 + segments + sum(table)
        found = data.find(b"OggS", place + 4)
        is_whole = len(table) == segments and after <= len(data) and not 0 <= found < after
        ended = bool(flags & 4) and is_whole
        marked |= {serial} if ended else set()
        if found < 0:
            cut = None if ended else unmarked if is_whole else "its last ogg page is cut"
            return Link(at, len(data), cut=cut, goes_on=goes_on)
        place = found
    return Link(at, len(data), cut="its last ogg page is cut")


def _mp3_links(path: Path, data: Bytes) -> list[Link]:
    """Return the joined mp3 files in a file; empty if it is no mp3 file."""
    if path.suffix.lower() not in (".mp3", ".mpga") and data[:3] != b"ID3" and data[:1] != b"\xff":
        return []
    frames = Mp3Frames(data)
    if len(frames.kinds) > 1:
        kinds = " and ".join(f"{rate} Hz, {channels} channel{'s' * (channels > 1)}" for rate, channels in frames.kinds)
        raise BadAudio(path, "unreadable", f"it is joined of mp3 files of several kinds ({kinds}); give each by itself")
    links = []
    for run in frames.runs:
        cut = run.cut or ("its last mp3 frame is cut" if frames.ends_cut and run is frames.runs[-1] else None)
        head, start = run.head(data)
        links.append(Link(start, run.stop, head, cut))
    return links


# ---- formats that PyAV reads


def _repeated(data: Bytes, at: int) -> Link:
    """Parse a file without a stated end; the next joined file begins where the first bytes of the file repeat."""
    again = data.find(data[at : at + 9], at + 9)
    return Link(at, again if again >= 0 else len(data))


def _riff(data: Bytes, at: int) -> Link:
    """Compare the length of an avi file with the size that its header states."""
    return Link(at, len(data), cut=_missing(at + 8 + int.from_bytes(data[at + 4 : at + 8], "little"), len(data)))


def _boxes(data: Bytes, at: int) -> Link:
    """Walk the outer boxes of an mp4, m4a or mov file; without a "moov" box (often the last) a file cannot be decoded."""
    place, names = at, set[bytes]()
    while place + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        if name == b"ftyp" and b"moov" in names and b"mdat" in names:
            return Link(at, place)
        if size == 1 and place + 16 <= len(data):
            size = struct.unpack(">Q", data[place + 8 : place + 16])[0]
        elif size == 0:  # up to the end of the file
            size = len(data) - place
        if size < 8 or not name.isascii():
            break
        if missing := _missing(place + size, len(data)):
            return Link(at, len(data), cut=missing)
        names.add(name)
        place += size
    return Link(at, len(data), cut=None if b"moov" in names else "its index (the moov box) is missing")


def _matroska(data: Bytes, at: int) -> Link:
    """Compare the length of an mkv or webm file with the size of its segment."""

    def size_at(at: int) -> tuple[int | None, int]:  # an EBML number: its first bits have its length
        length = 9 - data[at].bit_length()
        if length > 8:
            return None, at + 1
        value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        return (None if value == (1 << 7 * length) - 1 else value), at + length

    try:
        size, place = size_at(at + 4)
        place += size or 0
        size, place = size_at(place + 4)
    except IndexError:
        return Link(at, len(data), cut="it ends in its header")
    stop = len(data) if size is None else place + size
    return Link(at, min(stop, len(data)), cut=_missing(stop, len(data)))


def _asf(data: Bytes, at: int) -> Link:
    """Compare the length of a wma file with the size in its file properties (0 if it was recorded from a broadcast)."""
    place = data.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), at, at + (1 << 16))
    size = struct.unpack("<Q", data[place + 40 : place + 48])[0] if 0 <= place <= len(data) - 48 else 0
    return Link(at, min(at + size, len(data)) if size else len(data), cut=_missing(at + size, len(data)))
