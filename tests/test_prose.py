"""The census of prose measures small planted pages, and the pages of the project keep its limits."""

from __future__ import annotations

from tests.census import GLOSSARY, read_glossary
from tests.prose import EXCEPTIONS, MAX_LONGEST, Page, glossary_matches, hand_written, main, read_page, report, sentences

RULES = read_glossary(GLOSSARY.read_text("utf-8"))


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(text)]


def words(text: str, glossary: str) -> list[str]:
    page = Page("page.md", 0, list(sentences(text)))
    return [match.word for match in glossary_matches(page, read_glossary(glossary))]


def test_sentences_end_at_full_stops_and_not_within_numbers_and_abbreviations():
    text = "A window has 2.5 s (e.g. Ten codes). It is **short.** The next one! `code` follows?\nYes, in\nthree lines."
    assert len(texts(text)) == 5
    assert texts(text)[-1] == "Yes, in three lines."


def test_code_tables_headings_and_html_are_no_sentences():
    text = "# Title\n\n```\nsaid here. And there.\n```\n\n"
    text += "| a | b |\n|---|---|\n| Told. | Heard. |\n\n<!-- hidden --> Prose with `code said`.\n"
    assert texts(text) == ["Prose with Code."]


def test_a_list_item_is_a_paragraph_and_a_link_its_text():
    text = "Items:\n\n- one [fact](a.md#b)\n  continued\n- two\n1. three\n"
    assert texts(text) == ["Items:", "one fact continued", "two", "three"]
    assert [sentence.line for sentence in sentences(text)] == [1, 3, 5, 6]


def test_rules_for_words_and_for_phrases_are_found_in_prose_but_not_in_code():
    glossary = "word: said|told -> logged\nname: (.*_)?side_by_side(_.*)? -> in parallel\nclass name: look -> encode"
    text = "It said this, told that.\n\nWindows lie side by side. Look.\n\n`said`\n"
    assert words(text, glossary) == ["said", "told", "windows lie side by side"]


def test_the_report_of_a_bad_page_names_the_line_and_the_exit_code_is_one(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Good.\n\n" + "word " * (MAX_LONGEST + 1) + "end.\n\nThe model said so.\n", "utf-8")
    assert main([str(page)]) == 1
    printed = capsys.readouterr().out
    assert f":3 {MAX_LONGEST + 2} words, limit {MAX_LONGEST}" in printed and ":5 said (word:" in printed


def test_every_exception_is_a_match_that_its_page_has(monkeypatch):
    allowed = dict(EXCEPTIONS)
    monkeypatch.setattr("tests.prose.EXCEPTIONS", {})
    pages = list(map(read_page, hand_written()))
    assert allowed.keys() <= {(match.page, match.word) for page in pages for match in glossary_matches(page, RULES)}


def test_the_pages_have_at_most_sixty_percent_of_their_words_short_sentences_and_the_terms_of_the_field():
    rows, details = report(list(map(read_page, hand_written())), RULES)
    assert [row for row in rows if not row.holds] == [] and details == []
