"""Small files of model and run folders, written so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path


def write_json(path: Path, data: dict) -> None:
    """Write a json file at once or not at all; what is not a number becomes null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(plain(data), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path, digits: int = 12) -> str:
    """The first digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:digits]
