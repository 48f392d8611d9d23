"""Read tables of songs (csv with any of the usual separators, tsv, jsonl): their rows and the position of each row."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.metadata.encodings import read_text
from data_prep.metadata.tags import split_genres

_SEPARATORS = ",;\t|"


def csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (position in the file, row) of a csv or tsv file.

    A first line such as sep=; sets the separator. Without this line the separator is detected from the column names.
    """
    csv.field_size_limit(1 << 26)  # lyrics are long
    text = _whole_text(path)
    first = re.match('"?sep=(.)"?\r?\n?', text, re.IGNORECASE)
    text, skipped = (text[first.end() :], 1) if first else (text, 0)
    separator = first[1] if first else _separator(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        names = [name.strip().lower() for name in next(filter(_has_text, rows), [])]
        _check_names(path, names, skipped + 1)
        for row in rows:
            where = f"line {rows.line_num + skipped}"
            if _has_text(row[len(names) :]):
                raise UserError(
                    f'{path}, {where}: expected {len(names)} cells, got {len(row)}; put a text that contains "{separator}" in quotes'
                )
            if _has_text(row):
                cells = dict(zip(names, row))
                genres = split_genres([cells.get("genres") or cells.get("genre") or ""])
                yield where, {**cells, "genres": list(genres), "genre": None}
    except csv.Error as error:
        where = f"line {rows.line_num + skipped}"
        raise UserError(f"{path}, {where}: this is no row of a csv ({error}); write a quote within quotes twice") from None


def jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (position in the file, row) of a jsonl file."""
    for number, line in enumerate(_whole_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: this is not json ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: expected an object such as {{"path": "song.mp3"}}, got {line[:60]}')
        yield f"line {number}", row


def _whole_text(path: Path) -> str:
    """Read a table; UserError if it has damaged characters, because its paths may be wrong."""
    found = read_text(path)
    if found.damaged:
        raise UserError(f"{path}: {found.damaged} characters of it are damaged ({found.encoding}); save it again as UTF-8")
    return found.text


def _has_text(row: list[str]) -> bool:
    """Return whether any of these cells is not empty."""
    return any(cell.strip() for cell in row)


def _separator(text: str) -> str:
    """Return the separator that splits the first line into the most columns, one of which is named path."""
    line = re.split("[\r\n]", text.lstrip(), maxsplit=1)[0]

    def columns(separator: str) -> int:
        names = [name.strip(' "').lower() for name in line.split(separator)]
        return len(names) if "path" in names else 0

    return max(_SEPARATORS, key=columns)


def _check_names(path: Path, names: list[str], number: int) -> None:
    """Raise UserError if there is no column of paths, or if two columns have the same name."""
    if "path" not in names:
        found = ", ".join(filter(None, names)) or "nothing"
        raise UserError(f"{path}: expected a column named path, found {found[:80]}; name it in line {number}")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: two columns are named {twice[0]}; leave one of them")
