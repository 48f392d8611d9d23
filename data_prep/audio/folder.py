"""List the files of a folder and its sub-folders, for all verbs; other files are counted by suffix."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path


def list_files(folder: Path, suffixes: Collection[str], out: Path | None = None) -> tuple[list[Path], Counter[str]]:
    """Return the files with these suffixes, sorted, and the number of other files by suffix.

    Links to folders are followed, and each folder is read once. Hidden files (also the "._" companions of macOS) and the folder
    `out` are ignored.
    """
    found, others = [], Counter()
    seen = {out.resolve()} if out is not None and out.resolve() != folder.resolve() else set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place) / name for name in files if not name.startswith(".")):
            if path.suffix.lower() in suffixes:
                found.append(path)
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    return sorted(found), others


def named(counts: Mapping[str, int], most: int = 8) -> str:
    """Format counts, the largest first: "3 .jpg, 1 .txt"; empty if there are none."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[most:])
    words = [f"{count} {name}" for name, count in ordered[:most]] + [f"{rest} of other suffixes"] * bool(rest)
    return ", ".join(words).encode("utf-8", "replace").decode()
