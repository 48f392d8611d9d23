"""Artists and genres of a model and their ids; id 0 is "unknown"."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_prep.align import Pace, measure_pace, name_key
from data_prep.errors import UserError
from data_prep.files import write_json

UNKNOWN = "unknown"


def clean(name: str, rules: str) -> str:
    """Return a name as the published id files spell it.

    With the rules "v2" the name is in lower case, and every other character than a-z and 0-9 becomes "_". With "v3" the name is
    only in lower case.
    """
    name = name.lower()
    return name if rules == "v3" else re.sub("[^a-z0-9]+", "_", name).strip("_")


@dataclass(frozen=True)
class Labels:
    """Artists and genres in the order of their ids, "unknown" first, and the pace of their songs.

    The lookup ignores case and surrounding spaces. For a published model the lookup follows the `rules` of this model, "v2" or
    "v3", and the last of two equal names is used. With "v2" a genre is a set of words, and each word has an id.
    """

    artists: tuple[str, ...] = (UNKNOWN,)
    genres: tuple[str, ...] = (UNKNOWN,)
    pace: Pace | None = None
    rules: str = ""

    def _key(self, name: str) -> str:
        return clean(name, self.rules) if self.rules else name_key(name)

    @cached_property
    def _artist_ids(self) -> dict[str, int]:
        return {self._key(name): number for number, name in enumerate(self.artists) if name}

    @cached_property
    def _genre_ids(self) -> dict[str, int]:
        return {self._key(name): number for number, name in enumerate(self.genres) if name}

    def artist_id(self, name: str | None) -> int:
        """Return the id of an artist; 0 for None and for an unknown name."""
        return self._artist_ids.get(self._key(name or ""), 0)

    def genre_ids(self, names: Iterable[str]) -> list[int]:
        """Return the id of each genre, 0 for unknown ones; with the rules "v2" the id of each word."""
        keys = [self._key(name) for name in names]
        if self.rules == "v2":
            keys = [word for key in keys for word in key.split("_")]
        return [self._genre_ids.get(key, 0) for key in keys]

    def extended(self, other: Labels) -> Labels:
        """Return these labels, followed by the names of `other` that they do not have; no id changes.

        The pace does not change; only genres that have no pace yet get the pace of `other`. With the rules "v2" the names are
        the words of the genres.
        """
        genres = [clean(name, self.rules).split("_") if self.rules == "v2" else [name] for name in other.genres]
        artists = _unknown(other.artists, self._artist_ids, self._key)
        words = _unknown([word for name in genres for word in name], self._genre_ids, self._key)
        pace = self.pace or other.pace
        if self.pace and other.pace:
            pace = replace(self.pace, genres={**other.pace.genres, **self.pace.genres})
        return replace(self, artists=(*self.artists, *artists), genres=(*self.genres, *words), pace=pace)

    def to_json(self) -> dict[str, Any]:
        """Convert to lists and numbers for json."""
        pace = self.pace.to_json() if self.pace else None
        rules = {"rules": self.rules} if self.rules else {}
        return {"artists": list(self.artists), "genres": list(self.genres), "pace": pace, **rules}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Labels:
        """Create labels from the result of `to_json`."""
        pace = Pace.from_json(data["pace"]) if data.get("pace") else None
        return Labels(tuple(data["artists"]), tuple(data["genres"]), pace, data.get("rules", ""))

    def save(self, path: str | Path) -> None:
        """Write a json file atomically."""
        write_json(Path(path), self.to_json())

    @staticmethod
    def load(path: str | Path) -> Labels:
        """Read the file of `save`; raise UserError if it is missing or damaged."""
        try:
            return Labels.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: there are no labels here; make them with: jukebox prepare MUSIC --out DATA") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: expected artists, genres and pace in json, could not read it ({error})") from None


def build_labels(rows: Iterable[Any]) -> Labels:
    """Collect the artists and genres of all rows, sorted, and measure the pace of the songs.

    Each row has `artist`, `genres`, `lyrics` and `word_times`.
    """
    rows = list(rows)
    artists = _vocabulary(row.artist for row in rows if row.artist)
    genres = _vocabulary(genre for row in rows for genre in row.genres)
    return Labels(artists, genres, measure_pace(rows))


def one_spelling(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Map each name to one spelling among the names that differ in case and spaces only.

    A spelling in `known` is preferred. Among several spellings the most frequent is chosen, and among equally frequent ones the
    first in sorted order.
    """
    given, first = _spellings(names), _spellings(known)
    chosen = {key: min(counts.items(), key=lambda item: (-item[1], item[0]))[0] for key, counts in (given | first).items()}
    return {name: chosen[key] for key, counts in given.items() for name in counts}


def _spellings(names: Iterable[str]) -> dict[str, Counter[str]]:
    """Return {`name_key`: number of uses of each spelling}."""
    spellings: dict[str, Counter[str]] = {}
    for name in names:
        spellings.setdefault(name_key(name), Counter())[name] += 1
    return spellings


def _unknown(names: Iterable[str], known: Mapping[str, int], key: Callable[[str], str]) -> list[str]:
    """Return the names whose keys are not in `known`, without duplicates."""
    new: dict[str, str] = {}
    for name in names:
        if key(name) and key(name) not in known and key(name) != key(UNKNOWN):
            new.setdefault(key(name), name)
    return list(new.values())


def _vocabulary(names: Iterable[str]) -> tuple[str, ...]:
    """Return "unknown" and then the names without duplicates."""
    known: dict[str, str] = {name_key(UNKNOWN): UNKNOWN}
    for name in sorted(set(names)):
        if name_key(name):
            known.setdefault(name_key(name), " ".join(name.split()))
    first, *others = known.values()
    return (first, *sorted(others, key=lambda name: (name_key(name), name)))
