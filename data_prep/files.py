"""Atomic writes: a reader of a file sees the old content or the new one, never a part of it, whenever the writer is killed.

And a lock by which many readers of a folder, or one writer, keep the others out.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep.errors import UserError
from data_prep.pool import alive

IN_USE = ".in_use.lock"
EXPANDED, SPARE = (
    100,
    1 << 30,
)  # what a zip file may hold: so many times its own bytes, and masks, which are nearly nothing in it


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds, and is removed if it raises.

    Its folder is made. The default name contains the process id, so that two processes do not share it; a killed process
    leaves it. A given name is used again by the next attempt. There is no fsync: a block that needs it calls it. An OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):  # of a write, or of a name that the user has not given
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # it is not there, or could not be
            temporary.unlink()


def named_in_utf_8(folder: Path, what: str) -> Path:
    """The folder; UserError where its name is not UTF-8: pyarrow and safetensors open no files in it."""
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: the name of {what}, and of the folders around it, has to be UTF-8; rename it") from None
    return folder


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: dict) -> None:
    """Write a json file atomically; what is not a finite number becomes null.

    File names that are not UTF-8 hold surrogates, which are escaped: that is json, and reading gives them back.
    """

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_bytes(path, (json.dumps(plain(data), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def check_target(path: Path) -> None:
    """UserError where a file cannot be written: before the work whose result it is to hold. Its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            reason = "it is a folder" if path.is_dir() else ""
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason:
        raise UserError(f"{path} cannot be written ({reason}); name another --out")


def stand_in(path: Path) -> str:
    """What a file is instead of data that was to be fetched: empty, a pointer of Git LFS, a web page; empty text for anything else."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (`git lfs pull` fetches that)"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return "a web page, not the file itself"
    return ""


def check_archive(path: Path) -> None:
    """ValueError where the members of a zip file are far larger than the file: what it holds would fill the memory."""
    with zipfile.ZipFile(path) as archive:
        inside, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if inside > EXPANDED * size + SPARE:
        raise ValueError(f"its {size / 1e6:.1f} MB expand to {inside / 1e6:,.0f} MB")


def file_hash(path: Path, digits: int = 12) -> str:
    """The first digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            alive()
            digest.update(block)
    return digest.hexdigest()[:digits]


@contextmanager
def held(folder: Path, alone: bool, refusal: str) -> Iterator[None]:
    """Hold a folder's lock, `alone` or beside others who do not hold it alone; UserError with `refusal` where others do.

    The system releases it when the process ends, however it ends. Where there is no such lock (a disk that cannot be written and
    has none, a system without flock), nothing is held.
    """
    try:
        import fcntl

        file = _open_lock(folder / IN_USE)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(file)


def _open_lock(path: Path) -> int:
    """The file of a lock, made where that is possible; one that another user made is opened to read."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return os.open(path, os.O_RDONLY)
