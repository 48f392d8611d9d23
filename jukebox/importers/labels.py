"""Ids of artists and genres of the published models, from the id files of the published code.

A file such as `v2_artist_ids.txt` or `v3_genre_ids.txt` has lines `name;id`. The two versions normalise names differently:

    v2   lower case; each run of other characters than a-z and 0-9 becomes one _, none at the ends; a genre is a bag of words
    v3   lower case only; a genre is one phrase

Id 0 is the unknown name. In v2 id 0 is also "various" and the empty name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import UserError
from data_prep.labels import UNKNOWN, Labels, clean


def read_ids(path: str | Path) -> dict[str, int]:
    """Read the ids of an id file by name. The last id of a duplicate name is used, as in the published code."""
    ids: dict[str, int] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        name, semicolon, index = line.strip().partition(";")
        if not semicolon or not index.isdecimal():
            raise UserError(f"{path}, line {number}: {line!r}; expected name;id as in the published id files")
        ids[name.lower()] = int(index)
    return ids


@dataclass(frozen=True)
class PublishedLabels:
    """Tables of version "v2" or "v3" that map names of artists and genres to ids and back."""

    version: str
    artists: Mapping[str, int]
    genres: Mapping[str, int]

    @staticmethod
    def read(folder: str | Path, version: str) -> PublishedLabels:
        """Read the two id files of a version from a folder."""
        return PublishedLabels(version, *(read_ids(Path(folder) / f"{version}_{n}_ids.txt") for n in ("artist", "genre")))

    def artist_id(self, name: str) -> int:
        """Return the id of an artist; 0 if unknown."""
        return self.artists.get(clean(name, self.version), 0)

    def genre_ids(self, genre: str) -> list[int]:
        """Return the ids of a genre: one id in v3, an id for each word in v2. Unknown names have id 0."""
        name = clean(genre, self.version)
        return [self.genres.get(word, 0) for word in (name.split("_") if self.version == "v2" else [name])]

    def artist(self, index: int) -> str:
        """Return the name of an artist's id. Several names of one id are sorted and joined, as in the published code."""
        return "_".join(sorted(name for name, i in self.artists.items() if i == index))

    def genre(self, indices: list[int]) -> str:
        """Return the genre of a bag of ids, in which -1 is padding."""
        names = ["_".join(sorted(n for n, i in self.genres.items() if i == index)) for index in indices if index >= 0]
        return "_".join(names)

    def labels(self) -> Labels:
        """Convert the tables to the labels of a model folder."""
        return Labels(_by_number(self.artists), _by_number(self.genres), rules=self.version)


def _by_number(ids: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names in the order of their ids. Id 0 is the unknown name, and an id without a name is empty."""
    names = {index: name for name, index in ids.items() if index} | {0: UNKNOWN}
    return tuple(names.get(index, "") for index in range(max(names) + 1))
