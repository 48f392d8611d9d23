"""`jukebox labels`: artists and genres of a model or a data folder, and names that are similar to a given name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep.errors import UserError
from data_prep.labels import Labels
from data_prep.manifest import MANIFEST, load_manifest

Counts = Mapping[str, int]


def labels(place: str, query: str = "") -> None:
    """Show artists and genres with their numbers of songs: all, those that contain a text, or similar ones.

    place: a model folder, a data folder, or the word shipped: the model of the package
    query: a name, or a part of one; empty: all names
    """
    lists = {title: list(counts.items()) for title, counts in known_names(Path(place))}
    found = {title: [each for each in names if key(query) in key(each[0])] for title, names in lists.items()}
    if not any(found.values()) and any(lists.values()):
        near = set(difflib.get_close_matches(key(query), [key(name) for names in lists.values() for name, _ in names], 10, 0.5))
        found = {title: [each for each in names if key(each[0]) in near] for title, names in lists.items()}
        if not near:
            raise UserError(f"{place} knows no name like {query!r}; `jukebox labels {place}` lists all")
        print(f"no name contains {query!r}; near to it:")
    for title, names in found.items():
        if names or not query:
            print(f"{title}: {len(names)}" + (f" of {len(lists[title])}" if query else ""))
        for name, count in names:
            print(f"  {name}" + (f"  {count}" if count else ""))


def key(name: str) -> str:
    """Normalise a name for comparison. Published models write _ instead of spaces."""
    return " ".join(name.casefold().replace("_", " ").split())


def known_names(place: Path) -> Iterator[tuple[str, Counts]]:
    """Yield (title, {name: number of songs}) for each list of names of a model or data folder, without the unknown name.

    The number is 0 if it is not known. UserError for any other folder.
    """
    from jukebox.model.info import CONFIG, SHIPPED_WORD, ModelInfo, shipped_folder
    from jukebox.model.provenance import read_provenance, song_counts

    if str(place) == SHIPPED_WORD and not place.is_dir():
        place = shipped_folder()
    if (place / CONFIG).is_file():
        info, sets = ModelInfo.read(place), list(read_provenance(place).values())
        own = {name: place / prior.labels_file for name, prior in sorted(info.priors.items())}
        tables = {"": info.labels} | {f" of {name}": Labels.load(path) for name, path in own.items() if path.is_file()}
    elif (place / MANIFEST).is_file():
        sets = [song_counts([row for row in load_manifest(place) if row.split == "train"])]
        tables = {"": Labels.load(place / "labels.json")}
    else:
        raise UserError(
            f"{place} is neither a model folder nor a data folder; name one that `jukebox train` or `prepare` wrote"
        )
    for title, table in tables.items():
        for kind, names in (("artists", table.artists), ("genres", table.genres)):
            # data sets of one model may overlap, as before and after `prepare --add`, so counts are not added
            counts = {name: max((each[kind].get(name, 0) for each in sets), default=0) for name in names[1:] if name}
            yield kind + title, counts
