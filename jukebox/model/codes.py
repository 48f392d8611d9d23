"""Folders of encoded streams in a data directory: `DATA/codes/<codes hash of the stream>/`.

A folder of version 1 is named after the hash of the whole codec file and holds all levels. These folders are still read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.codes import CodesReader
from data_prep.errors import UserError
from jukebox.model.info import ModelInfo


def codes_folder(data: Path, info: ModelInfo, stream: str) -> Path:
    """Return the folder for the frames of a stream; raise UserError if the model has no trained codec for the stream."""
    if not (name := info.codes_hash(stream)):
        raise UserError(f"{info.folder} has no trained codec for {stream}; {info.advice('vqvae')}")
    return data / "codes" / name


def folders_with(data: Path, info: ModelInfo, stream: str) -> list[Path]:
    """Return the folders that hold frames of a stream, in this version or in version 1."""
    both = (codes_folder(data, info, stream), data / "codes" / info.old_codes_hash(stream))
    return [folder for folder in both if any(folder.glob("*.arrow"))]


def open_codes(data: Path, info: ModelInfo, streams: Sequence[str]) -> CodesReader:
    """Return a reader of `streams` of all songs of a data directory; raise UserError if a stream is missing."""
    folders = {stream: folders_with(data, info, stream) for stream in streams}
    if missing := [stream for stream, found in folders.items() if not found]:
        raise UserError(
            f"{data} holds no codes of this codec for {' and '.join(missing)}; "
            f"run `jukebox encode {data} {info.folder}` first, or give --from_audio"
        )
    return CodesReader(*dict.fromkeys(folder for found in folders.values() for folder in found))
