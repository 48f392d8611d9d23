"""Atomic writes: a reader of a file sees the old content or the new one, never a part of it, whenever the writer is killed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds, and is removed if it raises.

    Its folder is made. The default name contains the process id, so that two processes do not share it; a killed process
    leaves it. A given name is used again by the next attempt. There is no fsync: a block that needs it calls it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def file_hash(path: Path, digits: int = 12) -> str:
    """The first digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:digits]
