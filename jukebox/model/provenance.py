"""Training data of a model: provenance.json has an entry with counts for each set of training songs, by its hash.

`licences` counts songs by licence, those without one as "unknown"; `artists` and `genres` count songs too.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_prep.files import write_json
from data_prep.labels import UNKNOWN
from data_prep.manifest import SongRow

FILE = "provenance.json"
MOST = 12  # names of a list


def songs_hash(rows: Iterable[SongRow]) -> str:
    """Hash of a set of songs from the bytes of their files."""
    return hashlib.sha256("\n".join(sorted(row.hash for row in rows)).encode()).hexdigest()[:12]


def song_counts(rows: Sequence[SongRow]) -> dict[str, Any]:
    """Songs, hours, and songs by licence, artist and genre."""
    return {
        "songs": len(rows), "hours": sum(row.seconds for row in rows) / 3600,
        "licences": Counter(row.licence or UNKNOWN for row in rows),
        "artists": Counter(row.artist for row in rows if row.artist),
        "genres": Counter(genre for row in rows for genre in row.genres),
    }  # fmt: skip


def named(counts: Mapping[str, int], most: int = MOST) -> str:
    """Names with counts, the most frequent first; beyond `most`, the number of the others."""
    order = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = [f"{name} {count}" for name, count in order[:most]]
    return ", ".join(shown + [f"and {len(order) - most} others"] * (len(order) > most)) or "none"


def read_provenance(folder: Path) -> dict[str, Any]:
    """The entries of a model folder; none where nothing is recorded."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record_songs(folder: Path, rows: Sequence[SongRow]) -> None:
    """Add the training songs to those that a model folder records."""
    with FileLock(folder / ".lock"):
        known, name = read_provenance(folder), songs_hash(rows)
        if name not in known:
            write_json(folder / FILE, known | {name: song_counts(rows)})


def card_lines(folder: Path) -> list[str]:
    """A line of the model card per set of training songs."""
    entries = read_provenance(folder).values()
    return [f"trained on {e['songs']} songs, {e['hours']:.3g} h, by licence: {named(e['licences'])}" for e in entries]
