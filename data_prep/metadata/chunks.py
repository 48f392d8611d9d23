"""Read the chunks of a wav or aiff file except the samples, move them with the audio, append them to another file.

Four kinds of chunks have positions: cue points (cue), loops (smpl), the broadcast extension (bext, EBU Tech 3285) and markers
(MARK, AIFF 1.3). Labels (LIST adtl) refer to cue points by number. Chunks are written after the samples, where every reader
that can seek finds them.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.audio.containers import Order, walk_chunks
from data_prep.metadata.encodings import decode

Chunk = tuple[str, bytes]
KINDS = {b"RIFF": "RIFF", b"RF64": "RIFF", b"BW64": "RIFF", b"RIFX": "RIFX", b"FORM": "FORM"}
OF_AUDIO = frozenset("fmt |data|fact|ds64|PEAK|JUNK|junk|PAD |FLLR|filr|COMM|SSND|FVER".split("|"))
TIMELESS = frozenset(  # chunks that have no positions in the audio, or refer to cue points by id
    "LIST adtl|LIST INFO|id3 |ID3 |iXML|axml|_PMX|inst|plst|DISP|chna|NAME|AUTH|(c) |ANNO|COMT|INST|MIDI|AESD".split("|")
)
MOST, MOST_TEXT = 1 << 26, 1 << 16  # largest number of bytes of a kept chunk, and of a text in an INFO list
TIME_REFERENCE, VERSION, LOUDNESS = 338, 346, slice(412, 422)  # offsets in a bext chunk
NOT_MEASURED = struct.pack("<5h", *[0x7FFF] * 5)


@dataclass(frozen=True)
class Change:
    """How an edit changes the time line: samples at `rate` are added before and after the recording."""

    before: int
    after: int
    rate: int


def read_chunks(path: Path, lost: list[str]) -> tuple[str, list[Chunk]]:
    """Return the kind of the file (RIFF, RIFX, FORM or an empty string) and its chunks except those that describe the samples.

    The name of a LIST chunk includes the kind of the list. Chunks that are not read are named in `lost`.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        kind, chunks = KINDS.get(data[:4], ""), list[Chunk]()
        if not kind or data[8:12] not in (b"WAVE", b"AIFF", b"AIFC"):
            return "", []
        for code, start, size in walk_chunks(data, 12, _order(kind)):
            name = code.decode("latin-1")
            if name in OF_AUDIO:
                continue
            if name.startswith(("TAG", "APET")):
                lost.append("a tag after the chunks")
                break
            if code in KINDS or not (name.isascii() and name.isprintable()):
                break  # another file, or not a chunk
            name = f"LIST {data[start : start + 4].decode('latin-1')}" if name == "LIST" else name
            if size > MOST or start + size > len(data):
                lost.append(f"{name} chunk ({size:,} bytes)")
            else:
                chunks.append((name, data[start : start + size]))
        return kind, chunks


def info_texts(data: bytes, kind: str = "RIFF") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each entry of a LIST INFO chunk."""
    for name, start, size in walk_chunks(data, 4, _order(kind)):
        text = data[start : start + min(size, MOST_TEXT)].rstrip(b"\0 ")
        if found := decode(text + b"\0" * (b"\0" in text and len(text) % 2)):  # rstrip has removed half of a wide character
            yield name.decode("ascii", "replace"), found.text.strip()


def move_chunks(kind: str, chunks: Iterable[Chunk], change: Change, lost: list[str]) -> list[Chunk]:
    """Adapt chunks to the edited audio; chunks that cannot be adapted are named in `lost`."""
    kept = []
    for name, data in chunks:
        is_stale = name == "levl" or (name == "acid" and change.before + change.after)  # peaks; the number of beats
        is_stale |= bool(change.before) and name == "iXML" and (b"TIMESTAMP" in data or b"TIME_REFERENCE" in data)
        if name == "bext":
            data = _moved_bext(data, change, lost)
        elif change.before and name in ("cue ", "smpl", "MARK"):
            try:
                data = _added(data, {"cue ": _cues, "smpl": _loops, "MARK": _markers}[name](data), change.before, _order(kind))
            except (ValueError, IndexError, struct.error):  # a position above 32 bits, or outside the samples; a damaged chunk
                is_stale = True
        else:
            is_stale |= bool(change.before) and name not in TIMELESS
        if is_stale:
            lost.append(named(name))
        else:
            kept.append((name, data))
    return kept


def append_chunks(path: Path, chunks: Sequence[Chunk]) -> None:
    """Append chunks to a wav, RF64 or aiff file, and add their size to its header."""
    with path.open("r+b") as file:
        kind = file.read(4)
        order, at = _order(KINDS[kind]), file.seek(0, 2)
        body = b"\0" * (at % 2)
        for name, data in chunks:
            body += name[:4].encode("latin-1") + len(data).to_bytes(4, order) + data + b"\0" * (len(data) % 2)
        size = (at + len(body) - 8).to_bytes(8 if kind == b"RF64" else 4, order)  # OverflowError before anything is written
        file.write(body)
        file.seek(20 if kind == b"RF64" else 4)  # RF64 has the size in the ds64 chunk
        file.write(size)


def named(name: str) -> str:
    """Return a description of a chunk for messages."""
    return f"{name.strip()} chunk"


def _order(kind: str) -> Order:
    return "little" if kind == "RIFF" else "big"


def _moved_bext(data: bytes, change: Change, lost: list[str]) -> bytes:
    """Move the time reference to the new first sample, and remove the loudness, which was measured on the old audio."""
    moved = bytearray(data)
    if change.before and len(data) >= TIME_REFERENCE + 8:
        time = int.from_bytes(data[TIME_REFERENCE : TIME_REFERENCE + 8], "little") - change.before
        if time < 0:
            lost.append("time reference of the bext chunk, which would be before midnight")
        moved[TIME_REFERENCE : TIME_REFERENCE + 8] = max(0, time).to_bytes(8, "little")
    if data[VERSION : VERSION + 1] >= b"\2" and len(data) >= LOUDNESS.stop and data[LOUDNESS] not in (NOT_MEASURED, bytes(10)):
        lost.append("loudness of the bext chunk")
        moved[LOUDNESS] = NOT_MEASURED
    return bytes(moved)


def _added(data: bytes, places: Iterable[int], more: int, order: Order) -> bytes:
    """Add `more` to the 32-bit numbers at the offsets `places`; raise ValueError if a result does not fit into 32 bits."""
    moved = bytearray(data)
    for at in places:
        value = int.from_bytes(data[at : at + 4], order) + more
        if value >= 1 << 32 or at + 4 > len(data):
            raise ValueError(value)
        moved[at : at + 4] = value.to_bytes(4, order)
    return bytes(moved)


def _cues(data: bytes) -> list[int]:
    """Return the offsets of the positions of cue points; ValueError if a cue point is in a list of several audio segments."""
    places = range(4, 4 + 24 * min(struct.unpack_from("<I", data)[0], len(data) // 24), 24)
    if any(data[at + 8 : at + 12] != b"data" for at in places):
        raise ValueError
    return [at + place for at in places for place in (4, 20)]


def _loops(data: bytes) -> list[int]:
    """Return the offsets of the starts and ends of loops."""
    count = min(struct.unpack_from("<I", data, 28)[0], len(data) // 24)
    return [at + place for at in range(36, 36 + 24 * count, 24) for place in (8, 12)]


def _markers(data: bytes) -> list[int]:
    """Return the offsets of the marker positions of an aiff file; marker names of any length are between the positions."""
    places, at = [], 2
    for _ in range(struct.unpack_from(">H", data)[0]):
        places.append(at + 2)
        at += 6 + (data[at + 6] + 2) // 2 * 2
    return places
