"""Atomic writes: a reader sees the old or the new content of a file, never a part, even if the writer is killed.

The module also has a lock of a folder, for one writer or many readers.
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
# The expanded size of a zip file is at most EXPANDED times its bytes plus SPARE: masks compress to almost nothing.
EXPANDED, SPARE = 100, 1 << 30


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds, and is removed if the block raises.

    The folder of `path` is created. The default temporary name contains the process id, so that two processes do not share a
    file. A killed process leaves its temporary file; the next attempt reuses the file if `temporary` is given. There is no
    fsync. A block that needs fsync calls it. An OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):  # a failed write, or a path that the user does not know
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # the file was renamed or never created
            temporary.unlink()


def named_in_utf_8(folder: Path, what: str) -> Path:
    """Return the folder; UserError if its path is not UTF-8.

    pyarrow and safetensors cannot open files in a folder whose path is not UTF-8.
    """
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
    """Write a json file atomically; numbers that are not finite become null.

    A file name that is not UTF-8 contains surrogates. They are escaped, so that the json is valid and the name is read back
    unchanged.
    """

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_bytes(path, (json.dumps(plain(data), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def check_target(path: Path) -> None:
    """Raise UserError if a result file cannot be written.

    The function is called before slow work. It creates the folder of the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            reason = "it is a folder" if path.is_dir() else ""
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason:
        raise UserError(f"{path} cannot be written ({reason}); name another --out")


def stand_in(path: Path) -> str:
    """Return a description if a file is empty, a Git LFS pointer or a web page; return an empty string for any other file."""
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
    """Raise ValueError if a zip file expands to far more bytes than it has, and so would fill the memory."""
    with zipfile.ZipFile(path) as archive:
        inside, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if inside > EXPANDED * size + SPARE:
        raise ValueError(f"its {size / 1e6:.1f} MB expand to {inside / 1e6:,.0f} MB")


def file_hash(path: Path, digits: int = 12) -> str:
    """Return the first `digits` hexadecimal digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            alive()
            digest.update(block)
    return digest.hexdigest()[:digits]


@contextmanager
def held(folder: Path, alone: bool, refusal: str) -> Iterator[None]:
    """Hold the lock of a folder, exclusive (`alone`) or shared.

    If another process blocks the lock, UserError with the text `refusal` is raised. The system releases the lock when the
    process ends or is killed. If the folder does not support locks (a read-only disk, a system without flock), no lock is held.
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
    """Open or create the lock file; a file that another user owns is opened for reading."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return os.open(path, os.O_RDONLY)
