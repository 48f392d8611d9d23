"""Convert tags between families: ID3 frames, MP4 tags, APE items and chunks to Vorbis comments, and comments to ID3.

Tags without a counterpart are named in `lost`. Pictures have the form of flac pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from data_prep.metadata.chunks import Chunk, info_texts, named
from data_prep.metadata.encodings import decode
from data_prep.metadata.tags import with_stamps


def _table(text: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in text.split("|"))


OF_ID3 = _table(
    "TIT2=TITLE|TPE1=ARTIST|TALB=ALBUM|TPE2=ALBUMARTIST|TDRC=DATE|TCON=GENRE|TRCK=TRACKNUMBER|TPOS=DISCNUMBER|TCOM=COMPOSER|TEXT=LYRICIST|"
    "TPE3=CONDUCTOR|TPE4=REMIXER|TIT1=GROUPING|TIT3=SUBTITLE|TBPM=BPM|TKEY=INITIALKEY|TCOP=COPYRIGHT|TENC=ENCODEDBY|TSRC=ISRC|TLAN=LANGUAGE|"
    "TPUB=ORGANIZATION|TSOP=ARTISTSORT|TSOA=ALBUMSORT|TSOT=TITLESORT|TMOO=MOOD|TDOR=ORIGINALDATE|TSST=DISCSUBTITLE|TMED=MEDIA|"
    "TCMP=COMPILATION|TSSE=ENCODERSETTINGS|TOPE=ORIGINALARTIST|TDRL=RELEASEDATE|TSO2=ALBUMARTISTSORT"
)
OF_MP4 = _table(
    "\xa9nam=TITLE|\xa9ART=ARTIST|\xa9alb=ALBUM|aART=ALBUMARTIST|\xa9day=DATE|\xa9gen=GENRE|\xa9wrt=COMPOSER|\xa9cmt=COMMENT|\xa9lyr=LYRICS|"
    "\xa9grp=GROUPING|\xa9too=ENCODER|cprt=COPYRIGHT|desc=DESCRIPTION|trkn=TRACKNUMBER|disk=DISCNUMBER|tmpo=BPM|cpil=COMPILATION|"
    "soar=ARTISTSORT|soal=ALBUMSORT|sonm=TITLESORT|soaa=ALBUMARTISTSORT"
)
OF_CHUNKS = _table(
    "INAM=TITLE|IART=ARTIST|IPRD=ALBUM|ICRD=DATE|IGNR=GENRE|ICMT=COMMENT|ICOP=COPYRIGHT|ITRK=TRACKNUMBER|IPRT=TRACKNUMBER|ISFT=ENCODER|"
    "NAME=TITLE|AUTH=ARTIST|(c) =COPYRIGHT|ANNO=COMMENT"
)
OF_OTHERS = _table("TRACK=TRACKNUMBER|DISC=DISCNUMBER|YEAR=DATE|ALBUM ARTIST=ALBUMARTIST|ALBUM_ARTIST=ALBUMARTIST")
TO_ID3 = {key: frame for frame, key in OF_ID3.items()}
LYRICS = ("LYRICS", "UNSYNCEDLYRICS")
CUE_SHEET, APPLICATION = "5", "2"  # block types of flac


def standard(key: str) -> str:
    """Return the Vorbis comment name of a key of APE items or ffmpeg."""
    return OF_OTHERS.get(key.upper()) or key.upper()


def saved(tags: Any, lost: list[str]) -> bytes:
    """Convert ID3 tags to bytes; version 2.3 is kept, and all others become 2.4."""
    from mutagen.id3 import ID3

    version = 3 if tags.version[:2] == (2, 3) else 4
    if tags.unknown_frames and tags.version[1] != version:
        lost.append(f"{len(tags.unknown_frames)} unknown ID3 frames")
    buffer = io.BytesIO()
    ID3.save(tags, buffer, v1=0, v2_version=version, v23_sep=None, padding=lambda _: 0)  # type: ignore[arg-type]
    return buffer.getvalue()


def picture(data: bytes, mime: str = "", text: str = "", use: int = 3) -> bytes:
    """Convert a picture to the form of a flac picture; `use` 3 is the front cover."""
    from mutagen.flac import Picture

    picture = Picture()
    picture.data, picture.desc, picture.type = data, text, use
    picture.mime = mime or ("image/png" if data[:4] == b"\x89PNG" else "image/jpeg")
    return picture.write()


# ---- to comments


def of_mp4(tags: Any, pictures: list[bytes], lost: list[str]) -> Iterator[tuple[str, str]]:
    """Convert the tags of an mp4 file to comments; pictures are appended to `pictures`."""
    for key, value in tags.items():
        name = OF_MP4.get(key) or (key.rpartition(":")[2].upper() if key.startswith("----:") else "")
        if key == "covr":
            pictures.extend(picture(bytes(each)) for each in value)
        elif not name:
            lost.append(f"MP4 tag {key}")
        for each in (value if isinstance(value, list) else [value]) if name else []:
            if isinstance(each, tuple):
                each = "/".join(map(str, each if each[1] else each[:1]))
            each = int(each) if isinstance(each, bool) else each
            yield name, each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each)


def of_ape(tags: Any, pictures: list[bytes], lost: list[str]) -> Iterator[tuple[str, str]]:
    """Convert APE items to comments; pictures are appended to `pictures`."""
    for key, value in tags.items():
        if value.kind == 1 and key.upper().startswith("COVER ART"):
            text, _, data = bytes(value.value).partition(b"\0")
            pictures.append(picture(data, text=text.decode("utf-8", "replace"), use=4 if "BACK" in key.upper() else 3))
        elif value.kind == 0:
            yield from ((standard(key), text) for text in value)
        else:
            lost.append(f"APE item {key}")


def of_chunks(chunks: Iterable[Chunk], kind: str, lost: list[str]) -> list[tuple[str, str]]:
    """Convert the texts of chunks to comments; other chunks are named in `lost`."""
    texts = []
    for name, data in chunks:
        if name == "LIST INFO":
            texts += [(OF_CHUNKS.get(entry, entry), text) for entry, text in info_texts(data, kind)]
        elif name in OF_CHUNKS:
            texts += [(OF_CHUNKS[name], found.text.strip("\0 "))] if (found := decode(data)) else []
        else:
            lost.append(named_block(name) if kind == "fLaC" else named(name))
    return texts


def named_block(code: str) -> str:
    """Return a description of a block of a flac file for messages."""
    return {CUE_SHEET: "cue sheet", APPLICATION: "application block"}.get(code, f"metadata block {code}")


def of_id3(tags: Any, pictures: list[bytes], lost: list[str]) -> list[tuple[str, str]]:
    """Convert ID3 frames to comments; pictures are appended to `pictures`, frames without a counterpart are named in `lost`."""
    comments = []
    tags.update_to_v24()
    for name, frame in tags.items():
        key = OF_ID3.get(frame.FrameID) or {"COMM": "COMMENT", "USLT": "LYRICS", "SYLT": "SYNCEDLYRICS"}.get(frame.FrameID)
        if frame.FrameID == "APIC":
            pictures.append(picture(frame.data, frame.mime, frame.desc, int(frame.type)))
            continue
        key = key or (frame.FrameID == "TXXX" and (frame.desc.upper() or "COMMENT"))
        if not key:
            lost.append(f"ID3 frame {name}")
        else:
            texts = [with_stamps(frame, None)] if key == "SYNCEDLYRICS" else getattr(frame, "genres", None) or frame.text
            comments += [(key, str(text)) for text in ([texts] if isinstance(texts, str) else texts)]
    return comments


# ---- to ID3


def id3_tag(tags: Any, comments: Iterable[tuple[str, str]], pictures: Iterable[bytes]) -> bytes:
    """Add pictures, and comments that the ID3 tag does not have; return the tag as bytes, empty if it has no frames."""
    from mutagen import id3
    from mutagen.flac import Picture

    there = {key for key, _ in of_id3(id3.ID3(io.BytesIO(saved(tags, []))), [], [])} if tags else set()
    texts: dict[str, list[str]] = {}
    for key, text in comments:
        if key.upper() not in there:
            texts.setdefault(key.upper(), []).append(text)
    for key, values in texts.items():
        frame: Any = getattr(id3, TO_ID3.get(key, "TXXX"))(encoding=1, text=values)
        if key in ("COMMENT", "DESCRIPTION"):
            frame = id3.COMM(encoding=1, lang="XXX", desc="" if key == "COMMENT" else key, text=values)  # type: ignore[attr-defined]
        elif key in LYRICS:
            frame = id3.USLT(encoding=1, lang="XXX", text="\n".join(values))  # type: ignore[attr-defined]
        elif key not in TO_ID3 or [str(text) for text in frame.text] != values:  # such as a date in words
            frame = id3.TXXX(encoding=1, desc=key, text=values)  # type: ignore[attr-defined]
        tags.loaded_frame(frame)
    for each in map(Picture, pictures):
        kept = dict(mime=each.mime, type=each.type, desc=each.desc, data=each.data)
        tags.loaded_frame(id3.APIC(encoding=1, **kept))  # type: ignore[attr-defined]  # mutagen adds a space to equal names
    return saved(tags, []) if tags or tags.unknown_frames else b""
