"""Ids of artists and genres of the published models, from the id files of their code.

A file `v2_artist_ids.txt` (also v3, and genre) holds lines `name;id`. The two versions clean names differently:

    v2   lower case, anything but a-z and 0-9 becomes one _, none at the ends; a genre is a bag of its words
    v3   lower case only; a genre is one phrase

Id 0 is unknown, and in v2 also "various" and the empty name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.labels import UNKNOWN, Labels, clean


def read_ids(path: str | Path) -> dict[str, int]:
    """The ids of an id file by name; of a duplicate name the last one is used, as published."""
    ids: dict[str, int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        name, semicolon, index = line.strip().partition(";")
        if not semicolon or not index.isdecimal():
            raise UserError(f"{path}, line {number}: {line!r}; expected name;id as in the published id files")
        ids[name.lower()] = int(index)
    return ids


@dataclass(frozen=True)
class PublishedLabels:
    """Names to ids and back, of version "v2" or "v3"."""

    version: str
    artists: Mapping[str, int]
    genres: Mapping[str, int]

    @staticmethod
    def read(folder: str | Path, version: str) -> PublishedLabels:
        """The tables of a folder with `v2_artist_ids.txt` and so on."""
        return PublishedLabels(version, *(read_ids(Path(folder) / f"{version}_{n}_ids.txt") for n in ("artist", "genre")))

    def artist_id(self, name: str) -> int:
        """The id of an artist; 0 if unknown."""
        return self.artists.get(clean(name, self.version), 0)

    def genre_ids(self, genre: str) -> list[int]:
        """The ids of a genre, in v2 of each of its words; 0 for unknown ones."""
        name = clean(genre, self.version)
        return [self.genres.get(word, 0) for word in (name.split("_") if self.version == "v2" else [name])]

    def artist(self, index: int) -> str:
        """The name of an id; several are sorted and joined, as published."""
        return "_".join(sorted(name for name, i in self.artists.items() if i == index))

    def genre(self, indices: list[int]) -> str:
        """The genre of a bag of ids; -1 is padding."""
        names = ["_".join(sorted(n for n, i in self.genres.items() if i == index)) for index in indices if index >= 0]
        return "_".join(names)

    def labels(self) -> Labels:
        """The same tables as the labels of a model folder."""
        return Labels(_by_number(self.artists), _by_number(self.genres), rules=self.version)


def _by_number(ids: Mapping[str, int]) -> tuple[str, ...]:
    """Names in the order of their ids; 0 is unknown, and an id without a name is empty."""
    names = {index: name for name, index in ids.items() if index} | {0: UNKNOWN}
    return tuple(names.get(index, "") for index in range(max(names) + 1))
