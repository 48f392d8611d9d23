"""The figures of tables of results that stand in committed files are those of the files."""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "results" / "spectral.md").read_text("utf-8")
NUMBER = re.compile(r"(-?\d*\.?\d+)(?: ± (\d*\.?\d+))?")
FIGURES = {
    "Frechet": "frechet",
    "mel, dB": "mel_db",
    "rise, ms": "rise_ms",
    "moving pitch": "moving_pitch",
}  # column -> name in the file
# row -> name in the file of seeds; rows of other names are the same
SOUNDS = {
    "60 s, last 20 s": "minute, last part",
    "180 s, last 20 s (one seed)": "longest, last part",
    "another song's labels": "another's labels",
}
Values = Mapping[tuple[str, str], list[float]]  # (sound, figure) -> a value per seed


def of_seeds() -> Values:
    """docs/evidence/evidence.csv, written by `make evidence`."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    with (ROOT / "docs" / "evidence" / "evidence.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values[row["sound"], row["figure"]] += [float(row["value"])] if row["value"] else []
    return values


def of_card() -> Values:
    """The table in the card of the model of the package, written by `make model`."""
    card = (ROOT / "jukebox" / "assets" / "demo" / "card.md").read_text("utf-8").partition("```\n")[2].partition("\n```")[0]
    header, _, *rows = (re.split(r"\s{2,}", line.strip()) for line in card.splitlines())
    return {(row[0], name): [float(cell.split()[0])] for row in rows for name, cell in zip(header[1:], row[1:]) if cell != "-"}


def of_recordings() -> Values:
    """The figures of the codec in docs/evidence/recordings.csv, written by `make evidence-recordings`."""
    with (ROOT / "docs" / "evidence" / "recordings.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["model"], row["part"]) == ("main", "codec")]
    return {(row["row"], row["figure"]): [float(row["value"])] for row in rows}


def table(section: str) -> list[tuple[str, str, str]]:
    """(row, column, cell) of the first table of a section of the page, without bold."""
    text = PAGE.partition(f"## {section}\n")[2].replace("**", "")
    lines = re.search(r"(^\|.*\|\n)+", text, re.MULTILINE)[0].splitlines()  # type: ignore[index]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [(row[0].removesuffix(" (8)"), name, cell) for row in rows for name, cell in zip(header[1:], row[1:])]


def agrees(cell: str, values: list[float]) -> bool:
    """Whether a cell is the mean (± the standard deviation) of the values, rounded to its digits."""
    match = NUMBER.fullmatch(cell)
    expected = [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0] if values else []
    shown = [text for text in match.groups() if text] if match else []
    digits = [len(text.partition(".")[2]) for text in shown]
    near = [abs(float(text) - value) <= 0.5 * 10.0**-n + 1e-9 for text, value, n in zip(shown, expected, digits)]
    return bool(near) and all(near)


@pytest.mark.parametrize(
    "section, values, rows",
    [("Three seeds", of_seeds(), 13), ("The model of the package", of_card(), 5), ("Recordings", of_recordings(), 4)],
)
def test_a_table_has_the_figures_of_its_file(section, values, rows):
    cells = [(SOUNDS.get(row, row), FIGURES.get(name, name), cell) for row, name, cell in table(section) if cell]
    backed = [(row, figure, cell) for row, figure, cell in cells if any(row == sound for sound, _ in values)]
    assert [each for each in backed if not agrees(each[2], values.get(each[:2], []))] == []
    assert len({row for row, _, _ in backed}) == rows


def test_a_figure_that_differs_from_its_file_is_found():
    values = [26.9, 27.9]
    assert agrees("27.4", values) and agrees("27.4 ± .7", values) and agrees("27", values)
    assert (
        not agrees("27.5", values) and not agrees("27.4 ± .8", values) and not agrees("yes", values) and not agrees("27.4", [])
    )
