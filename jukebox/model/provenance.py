"""Training data of a model: provenance.json maps the hash of each set of training songs to counts of these songs.

`licences`, `artists` and `genres` count songs by name. A song without a licence counts as "unknown".
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
MOST = 12  # number of names that a list shows


def songs_hash(rows: Iterable[SongRow]) -> str:
    """Hash of a set of songs, computed from the hashes of their files."""
    return hashlib.sha256("\n".join(sorted(row.hash for row in rows)).encode()).hexdigest()[:12]


def song_counts(rows: Sequence[SongRow]) -> dict[str, Any]:
    """Count the songs, their hours, and the songs of each licence, artist and genre."""
    return {
        "songs": len(rows), "hours": sum(row.seconds for row in rows) / 3600,
        "licences": Counter(row.licence or UNKNOWN for row in rows),
        "artists": Counter(row.artist for row in rows if row.artist),
        "genres": Counter(genre for row in rows for genre in row.genres),
    }  # fmt: skip


def named(counts: Mapping[str, int], most: int = MOST) -> str:
    """Text of at most `most` names with their counts, the most frequent first, and of the number of other names."""
    order = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = [f"{name} {count}" for name, count in order[:most]]
    return ", ".join(shown + [f"and {len(order) - most} others"] * (len(order) > most)) or "none"


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read the entries of a model folder; empty if the folder has no provenance.json."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record_songs(folder: Path, rows: Sequence[SongRow]) -> None:
    """Add a set of training songs to the provenance of a model folder."""
    with FileLock(folder / ".lock"):
        known, name = read_provenance(folder), songs_hash(rows)
        if name not in known:
            write_json(folder / FILE, known | {name: song_counts(rows)})


def card_lines(folder: Path) -> list[str]:
    """Return a line of the model card for each set of training songs."""
    entries = read_provenance(folder).values()
    return [f"trained on {e['songs']} songs, {e['hours']:.3g} h, by licence: {named(e['licences'])}" for e in entries]
