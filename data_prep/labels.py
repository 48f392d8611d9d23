"""The names of artists and genres that a model knows, and their numbers; number 0 is everybody else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.align import Pace, measure_pace, name_key
from data_prep.errors import UserError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Labels:
    """Artists and genres in the order of their numbers, "unknown" first, and the pace of the songs they come from.

    Names are looked up without regard to case and to spaces around them.
    """

    artists: tuple[str, ...] = (UNKNOWN,)
    genres: tuple[str, ...] = (UNKNOWN,)
    pace: Pace | None = None

    @cached_property
    def _artist_ids(self) -> dict[str, int]:
        return {name_key(name): number for number, name in enumerate(self.artists)}

    @cached_property
    def _genre_ids(self) -> dict[str, int]:
        return {name_key(name): number for number, name in enumerate(self.genres)}

    def artist_id(self, name: str | None) -> int:
        """Return the number of an artist; 0 for None and for a name that is not known."""
        return self._artist_ids.get(name_key(name or ""), 0)

    def genre_ids(self, names: Iterable[str]) -> list[int]:
        """Return the number of each genre, 0 for those that are not known."""
        return [self._genre_ids.get(name_key(name), 0) for name in names]

    def to_json(self) -> dict[str, Any]:
        """Return lists and plain numbers; `from_json` undoes it."""
        pace = self.pace.to_json() if self.pace else None
        return {"artists": list(self.artists), "genres": list(self.genres), "pace": pace}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Labels:
        """Undo `to_json`."""
        pace = Pace.from_json(data["pace"]) if data.get("pace") else None
        return Labels(tuple(data["artists"]), tuple(data["genres"]), pace)

    def save(self, path: str | Path) -> None:
        """Write a json file, at once or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        part.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)

    @staticmethod
    def load(path: str | Path) -> Labels:
        """Read what `save` wrote; UserError where it is missing or is something else."""
        try:
            return Labels.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"{path}: there are no labels here; make them with: jukebox prepare MUSIC --out DATA"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: expected artists, genres and pace in json, could not read it ({error})") from None


def build_labels(rows: Iterable[Any]) -> Labels:
    """Collect the names of all rows (each with `artist`, `genres`, `lyrics`, `word_times`), sorted, and their pace.

    Of names that differ only in case the first in sorted order is shown.
    """
    rows = list(rows)
    artists = _vocabulary(row.artist for row in rows if row.artist)
    genres = _vocabulary(genre for row in rows for genre in row.genres)
    return Labels(artists, genres, measure_pace(rows))


def _vocabulary(names: Iterable[str]) -> tuple[str, ...]:
    """Return "unknown" and then each name once."""
    known: dict[str, str] = {name_key(UNKNOWN): UNKNOWN}
    for name in sorted(set(names)):
        if name_key(name):
            known.setdefault(name_key(name), " ".join(name.split()))
    first, *others = known.values()
    return (first, *sorted(others, key=lambda name: (name_key(name), name)))
