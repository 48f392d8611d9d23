"""The census of prose in the source measures small planted files, and the packages keep its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.census import PACKAGES, read_glossary
from tests.source_prose import (
    EXCEPTIONS,
    MAX_LONGEST,
    Text,
    exceptions_of,
    glossary_matches,
    plain_docstring,
    read_package,
    read_rules,
    read_texts,
    report,
)


@pytest.fixture
def plant(tmp_path: Path):
    """A function that reads the prose of a source."""

    def plant(source: str) -> list[tuple[int, str, str]]:
        file = tmp_path / "a.py"
        file.write_text(source, "utf-8")
        return [(text.line, text.kind, text.text) for text in read_texts(file, tmp_path)]

    return plant


def test_docstrings_comments_and_messages_are_found_with_their_lines(plant):
    source = '"""A module."""\n\n# one\n# block\nx = 1  # after code\n\n\ndef f():\n    """A function."""\n'
    source += '    raise E("four words are enough")\n'
    assert plant(source) == [
        (1, "docstring", "A module."),
        (3, "comment", "one\nblock"),
        (5, "comment", "after code"),
        (9, "docstring", "A function."),
        (10, "message", "four words are enough"),
    ]


def test_types_patterns_short_strings_and_pragmas_are_no_messages(plant):
    source = 'x: "b t c d e"\nre.compile("a b c d e")\n"a b c d e".split()\ny = "a b c"  # noqa: E501\n'
    assert plant(source) == []


def test_a_value_in_a_message_is_a_code_span(plant):
    assert plant('print(f"there are {n} files in {folder} now")') == [(1, "message", "there are `Code` files in `Code` now")]


def test_fields_are_items_and_indented_blocks_and_columns_are_left_out():
    text = "Summary.\n\na: first\n    continued\nb: second\n\n    code block\n\ncolumn   text"
    assert plain_docstring(text) == "Summary.\n\n- a: first\n    continued\n- b: second\n\n\n\n"


def test_a_word_and_a_long_sentence_are_reported_with_file_and_line():
    texts = [Text("vqvae/a.py", 3, "comment", "The model said so.\n\n" + "word " * (MAX_LONGEST + 1) + "end.")]
    rows, details = report({"vqvae": texts}, read_glossary("word: said -> logged"))
    assert [row.holds for row in rows] == [False, False, False]
    assert details[0].startswith(f"vqvae/a.py:5 {MAX_LONGEST + 2} words") and details[1].startswith("vqvae/a.py:3 said (word:")


def test_every_exception_is_a_match_that_its_file_has(monkeypatch):
    rules, texts = read_rules(), [text for name in (*PACKAGES, "tests") for text in read_package(name)]
    monkeypatch.setattr("tests.source_prose.exceptions_of", lambda match: [])
    found = glossary_matches(texts, rules)
    assert EXCEPTIONS.keys() == {key for match in found for key in exceptions_of(match)}


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_sentences_are_short_and_have_the_terms_of_the_field(package):
    rows, details = report({package: read_package(package)}, read_rules())
    assert [row for row in rows if not row.holds] == [] and details == []
