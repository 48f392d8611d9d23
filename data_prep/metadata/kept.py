"""Copy the metadata of a recording to its edited version: tags, pictures, lyrics with times, chapters, chunks.

Within a family nothing is converted. ID3 tags stay ID3 tags (mp3, wav, aiff), comments stay comments (flac, ogg, opus), and
chunks stay chunks (wav, aiff). Between families, tags are mapped by their Vorbis comment names in the tables of `families.py`,
and all other tags are reported as lost. Values measured from the old audio (loudness, fingerprints) are not kept. Times move
with the audio.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import write_bytes
from data_prep.metadata import families
from data_prep.metadata.chunks import Change, Chunk, append_chunks, move_chunks, read_chunks

STALE = re.compile(r"(?i).*(replaygain_|r128_|iTunNORM|iTunSMPB|acoustid_fingerprint)")  # tags measured from the audio
STALE_FRAMES = frozenset("RVA2 RVAD XRVA RGAD MLLT ASPI SEEK RBUF POSS".split())
OF_STREAM = frozenset(  # entries that ffmpeg lists among the tags, but that describe the stream
    "DURATION ENCODER LANGUAGE HANDLER_NAME CREATION_TIME MAJOR_BRAND MINOR_VERSION COMPATIBLE_BRANDS VENDOR_ID".split()
)
STAMPED = re.compile(r"LYRICS|UNSYNCEDLYRICS|SYNCEDLYRICS|CHAPTER\d+")
STAMP = re.compile(r"(?:(?<=[\[<])|^(?:(\d+):)?)(\d{1,3}):([0-5]\d(?:\.\d+)?)(?=[\]>]|$)")  # [m:ss.xx], or h:mm:ss.xxx alone
TAG_CHUNKS, CONTAINERS = ("id3 ", "ID3 "), {"WAV": "RIFF", "WAVEX": "RIFF", "RF64": "RIFF", "AIFF": "FORM", "FLAC": "fLaC"}


@dataclass(frozen=True)
class Kept:
    """The metadata of a file.

    `kind` is the container. `chunks` are the chunks of a wav or aiff file, or the blocks of a flac file.
    """

    kind: str = ""
    id3: bytes = b""  # a whole tag
    comments: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)  # in the form of flac pictures
    chunks: list[Chunk] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @staticmethod
    def read(path: Path) -> Kept:
        """Read the metadata of a file; tags that cannot be read are named in `lost`."""
        found = Kept()
        try:
            kind, chunks = read_chunks(path, found.lost)
            found = replace(found, kind=kind, chunks=[each for each in chunks if each[0] not in TAG_CHUNKS])
            found = replace(found, id3=next((data for name, data in chunks if name in TAG_CHUNKS), b""))
            return found if kind else _read_tags(path, found)
        except Exception as error:  # libraries raise errors of all kinds on broken tags
            return replace(found, lost=[*found.lost, f"tags that cannot be read ({error})"])

    def save(self, path: Path) -> None:
        """Write the metadata as json."""
        write_bytes(path, json.dumps(asdict(self), default=lambda data: base64.b64encode(data).decode()).encode())

    @staticmethod
    def load(path: Path) -> Kept:
        """Read the file of `save`; a missing file is empty metadata, and a damaged file raises UserError."""
        if not path.is_file():
            return Kept()
        try:
            data, plain = json.loads(path.read_bytes()), base64.b64decode
            data |= {"id3": plain(data["id3"]), "pictures": list(map(plain, data["pictures"]))}
            return Kept(**data | {"chunks": [(name, plain(body)) for name, body in data["chunks"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it, and the edit is written without tags") from error

    def write(self, path: Path, form: tuple[str, str], change: Change) -> list[str]:
        """Write the metadata that is still valid into an audio file; return the names of the lost metadata.

        `form` is (container, subtype) by their libsndfile names.
        """
        lost, kind = list(self.lost), CONTAINERS.get(form[0], form[0])
        comments = list(_moved_comments(self.comments, change, lost))
        tags, chunks = _moved_id3(self.id3, change, lost), list[Chunk]()
        if self.kind == kind:
            move = _moved_blocks if kind == "fLaC" else move_chunks
            chunks = move(kind, self.chunks, change, lost)
        else:
            comments += families.of_chunks(self.chunks, self.kind, lost)
        if kind in ("RIFF", "FORM", "MP3"):
            tag = families.id3_tag(tags, comments, self.pictures)
            if kind == "MP3":
                path.write_bytes(tag + path.read_bytes())
            else:
                append_chunks(path, chunks + [(TAG_CHUNKS[kind == "FORM"], tag)] * bool(tag))
        elif kind in ("fLaC", "OGG"):
            pictures = list(self.pictures)
            of_tag = families.of_id3(tags, pictures, lost)
            comments = of_tag + [each for each in comments if each[0].upper() not in dict(of_tag)]
            _write_comments(path, form[1], comments, pictures, chunks)
        elif self.id3 or comments or self.pictures:
            lost.append("tags")
        return list(dict.fromkeys(lost))


# ---- reading


def _read_tags(path: Path, found: Kept) -> Kept:
    """Read the tags of a file that is neither wav nor aiff, with mutagen or, for other containers, with PyAV."""
    import mutagen
    from mutagen._vorbis import VComment
    from mutagen.apev2 import APEv2, error
    from mutagen.asf import ASF
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4, MP4Tags

    file: Any = mutagen.File(path)
    tags = file.tags if file is not None else None
    if isinstance(tags, ID3):
        with suppress(Exception):  # a tag before the audio is read again without translation, to copy its bytes
            tags = ID3(path, translate=False)
        found = replace(found, id3=families.saved(_in_milliseconds(tags, file.info if file else None), found.lost))
    elif isinstance(tags, VComment):
        found.comments.extend(list.__iter__(tags))  # type: ignore[arg-type]
    elif isinstance(tags, MP4Tags):
        found.comments.extend(families.of_mp4(tags, found.pictures, found.lost))
    with suppress(error):
        found.comments.extend(families.of_ape(tags if isinstance(tags, APEv2) else APEv2(path), found.pictures, found.lost))
    if isinstance(file, mutagen.FileType) and hasattr(file, "metadata_blocks"):
        found.pictures.extend(picture.write() for picture in file.pictures)  # type: ignore[attr-defined]
        blocks = [(str(b.code), b.write()) for b in file.metadata_blocks if b.code in (2, 5) or b.code > 6]  # type: ignore[attr-defined]
        return replace(found, kind="fLaC", chunks=blocks)
    pictures = [text for key, text in found.comments if key.upper() == "METADATA_BLOCK_PICTURE"]
    found.comments[:] = [each for each in found.comments if each[0].upper() != "METADATA_BLOCK_PICTURE"]
    found.pictures.extend(map(base64.b64decode, pictures))
    if file is None or isinstance(file, MP4 | ASF):
        _read_container(path, found, bool(tags) and isinstance(file, MP4))
    return found


def _in_milliseconds(tags: Any, info: Any) -> Any:
    """Convert times in MPEG frames to milliseconds in ID3 tags, because the copy may have no MPEG frames."""
    unit = 1000 * (1152 if getattr(info, "version", 1) == 1 else 576) / info.sample_rate
    for frame in (*tags.getall("SYLT"), *tags.getall("ETCO")):
        if frame.format == 1:
            name = "text" if frame.FrameID == "SYLT" else "events"
            setattr(frame, name, [(what, round(time * unit)) for what, time in getattr(frame, name)])
            frame.format = 2
    return tags


def _read_container(path: Path, found: Kept, only_chapters: bool) -> None:
    """Add the chapters of a container and, unless `only_chapters`, its tags and pictures, read with PyAV."""
    import av
    from av.stream import Disposition

    with av.open(str(path)) as opened:
        container: Any = opened
        for number, chapter in enumerate(container.chapters(), 1):
            minutes, seconds = divmod(float(chapter["start"] * chapter["time_base"]), 60)
            key = f"CHAPTER{number:03d}"
            found.comments.append((key, f"{int(minutes // 60):02d}:{int(minutes % 60):02d}:{seconds:06.3f}"))
            found.comments.append((f"{key}NAME", chapter["metadata"].get("title", "")))
        if only_chapters:
            return
        for tags in (container.metadata, *(stream.metadata for stream in container.streams.audio[:1])):
            found.comments.extend((families.standard(key), text) for key, text in tags.items() if key.upper() not in OF_STREAM)
        for stream in container.streams.video:
            if stream.disposition & Disposition.attached_pic:
                found.pictures.append(families.picture(bytes(next(container.demux(stream)))))


# ---- changes by an edit


def _moved_comments(comments: Iterable[tuple[str, str]], change: Change, lost: list[str]) -> Iterator[tuple[str, str]]:
    for key, text in comments:
        if STALE.match(key) or (key.upper() == "CUESHEET" and change.before + change.after):
            lost.append(f"tag {key}")
        else:
            yield key, _moved_text(text, change) if STAMPED.fullmatch(key.upper()) else text


def _moved_text(text: str, change: Change) -> str:
    """Shift the time stamps of a text by the samples that are added before the recording."""

    def later(match: re.Match[str]) -> str:
        hours, minutes, seconds = match.groups()
        digits = len(seconds.partition(".")[2])
        total = round(int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds) + change.before / change.rate, digits)
        clock = f"{total % 60:0{digits + 3 if digits else 2}.{digits}f}"
        return f"{int(total // 3600):02d}:{int(total // 60) % 60:02d}:{clock}" if hours else f"{int(total // 60):02d}:{clock}"

    return STAMP.sub(later, text) if change.before else text


def _moved_id3(data: bytes, change: Change, lost: list[str]) -> Any:
    from mutagen.id3 import ID3

    tags, later = ID3(), round(1000 * change.before / change.rate)
    try:
        tags = ID3(io.BytesIO(data), translate=False) if data else tags
    except Exception as error:  # a damaged tag
        lost.append(f"ID3 tag ({error})")
    stale = STALE_FRAMES | ({"TLEN", "SYTC"} if change.before + change.after else frozenset())
    for key, frame in list(tags.items()):
        if frame.FrameID in stale or STALE.match(getattr(frame, "desc", "")):
            lost.append(f"ID3 frame {key}")
            del tags[key]
        elif frame.FrameID == "SYLT":
            frame.text = [(text, time + later) for text, time in frame.text]
        elif frame.FrameID == "ETCO":
            frame.events = [(event, time + later) for event, time in frame.events]
        elif frame.FrameID == "CHAP":
            frame.start_time, frame.end_time = frame.start_time + later, frame.end_time + later
            frame.start_offset = frame.end_offset = 0xFFFFFFFF  # unset: byte offsets are valid in the old file only
        elif frame.FrameID == "USLT":
            frame.text = _moved_text(frame.text, change)
        elif frame.FrameID == "TXXX" and STAMPED.fullmatch(frame.desc.upper()):
            frame.text = [_moved_text(text, change) for text in frame.text]
    return tags


def _moved_blocks(_: str, blocks: Iterable[Chunk], change: Change, lost: list[str]) -> list[Chunk]:
    """Return the blocks of a flac file that are still valid.

    A cue sheet ends with the audio, and application blocks may have positions.
    """
    kept = []
    for code, data in blocks:
        if change.before or (code == families.CUE_SHEET and change.after):
            lost.append(families.named_block(code))
        else:
            kept.append((code, data))
    return kept


def _write_comments(
    path: Path, subtype: str, comments: Iterable[tuple[str, str]], pictures: Iterable[bytes], blocks: Iterable[Chunk]
) -> None:  # fmt: skip
    from mutagen.flac import FLAC, CueSheet, MetadataBlock, Picture
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    file: Any = {"VORBIS": OggVorbis, "OPUS": OggOpus}.get(subtype, FLAC)(path)
    if file.tags is None:
        file.add_tags()
    tags: Any = file.tags
    for key, text in comments:
        list.append(tags, (re.sub(r"[^ -<>-}]", "_", key) or "COMMENT", text))
    for data in pictures:
        if hasattr(file, "add_picture"):
            file.add_picture(Picture(data))
        else:
            list.append(tags, ("METADATA_BLOCK_PICTURE", base64.b64encode(data).decode()))
    for code, data in blocks:
        block: Any = CueSheet(data) if code == families.CUE_SHEET else MetadataBlock(data)
        block.code = int(code)
        file.metadata_blocks.append(block)
    file.save(padding=lambda _: 0)
