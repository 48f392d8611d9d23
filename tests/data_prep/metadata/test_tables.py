"""Tables of songs as spreadsheets write them: no row and no cell is lost without an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.metadata.tables import csv_rows


def read(path: Path, text: str, encoding: str = "utf-8") -> list[dict[str, Any]]:
    """The rows of a csv of this text, without what is not there."""
    path.write_bytes(text.encode(encoding))
    return [{name: cell for name, cell in row.items() if cell} for _, row in csv_rows(path)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_table_is_read_with_every_separator_end_of_line_and_encoding(
    tmp_path: Path, separator: str, end: str, encoding: str
) -> None:
    rows = [
        ("Path ", "Artist", "genres", "lyrics"),
        ("a.mp3", "Zoë", '"Folk, Pop; Rock"', f'"one{end}two{separator}"'),
        ("", "", "", ""),
    ]
    text = end.join(separator.join(row) for row in rows) + end
    expected = {"path": "a.mp3", "artist": "Zoë", "genres": ["Folk", "Pop", "Rock"], "lyrics": f"one{end}two{separator}"}
    assert read(tmp_path / "a.csv", text, encoding) == [expected]
    assert read(tmp_path / "a.csv", f"sep={separator}{end}{text}", encoding) == [expected]
    assert read(tmp_path / "a.csv", f'"sep={separator}"{end}{text}', encoding) == [expected]
    spaced = text.replace(separator, separator + " ").replace(f"two{separator} ", f"two{separator}")
    assert read(tmp_path / "a.csv", spaced, encoding)[0]["lyrics"] == expected["lyrics"]


@pytest.mark.parametrize("sign", "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e".split(" "))
def test_no_other_sign_ends_a_line(tmp_path: Path, sign: str) -> None:
    rows = read(tmp_path / "a.csv", f"path,artist\na.mp3,A{sign}nn\nb.mp3,Bob\n")
    assert [row["path"] for row in rows] == ["a.mp3", "b.mp3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('path,lyrics\na.mp3,"one\nb.mp3,two\n', "line 3: this is no row of a csv"),
        ("path,lyrics\na.mp3,one, two\n", "line 2: expected 2 cells, got 3; put a text that contains"),
        ("sep=;\npath;lyrics\na.mp3;one;two\n", "line 3: expected 2 cells, got 3"),
        ("path,artist,Artist\na.mp3,a,b\n", "two columns are named artist"),
        ('path,artist\na.mp3,"A\\" nn"\n', "line 2: this is no row of a csv"),
        ("artist;name\n", "expected a column named path, found artist;name; name it in line 1"),
    ],
)
def test_what_would_be_lost_is_an_error_that_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path / "a.csv", text)


def test_damaged_tables_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("path\ndéjà été ü.mp3\nb\0.mp3".encode())
    with pytest.raises(UserError, match="1 characters of it are damaged"):
        list(csv_rows(tmp_path / "a.csv"))
