"""Write the timed words of a take in the caption formats of `data_prep/metadata/captions.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.align import TimedText
from data_prep.files import write_bytes
from data_prep.metadata.captions import FORMATS, Lines, timed_lines
from jukebox.report.run_page import words_of


def read_alignment(folder: Path) -> Sequence[Mapping[str, Any]]:
    """Read the alignment of each take of a run; empty if alignment.json is missing or unreadable."""
    with suppress(OSError, ValueError, KeyError):
        return json.loads((folder / "alignment.json").read_text(encoding="utf-8"))["samples"]
    return ()


def lines_of(folder: Path, request: Mapping[str, Any], take: int) -> list[list[TimedText]]:
    """Return the timed words of take number `take` (from 1) by line. Aligned times are preferred to requested ones."""
    found, song = read_alignment(folder), request["samples"][take - 1]
    times, _ = words_of(song, found[take - 1] if len(found) >= take else None)
    return timed_lines(song["lyrics"] or "", [TimedText(*word) for word in times])


def write_lyric_files(stem: Path, lines: Lines, suffixes: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Write the words as STEM.lrc, .srt, .vtt and .labels.txt (Audacity), and return the paths.

    Without words no file is written.
    """
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes] if lines else []
    for path, suffix in zip(paths, suffixes):
        write_bytes(path, FORMATS[suffix](lines).encode("utf-8", "replace"))
    return paths
