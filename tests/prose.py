"""Census of the hand-written pages: words, sentence lengths, matches of the glossary. `python -m tests.prose [PAGE ..]`

Pages are README.md, CONTRIBUTING.md and docs/**/*.md, without the log, generated pages and committed evidence. Words are
those of `wc -w`, without comments (`<!-- .. -->`). Sentences are those of running text: code, tables, headings and HTML are left
out, a list item is a paragraph, an inline code span is one word. The rules are those of tests/glossary.txt that hold for every kind of
identifier: a `word` rule is applied to each word, a `name` rule to the whole sentence, as if it were an identifier.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.census import GLOSSARY, KINDS, ROOT, Row, Rule, format_table, read_glossary

WITHOUT = ("docs/log.md", "docs/evidence/")  # a record, and data; docs/reference.py makes pages of the site only
WORDS_BEFORE = 39_928  # of all pages at commit f3c2367, which had 12,963 in docs/results.md alone
# words about what came later: pages of WaveNet, the latent GAN, latent diffusion and the web page, and their parts in other pages;
# the list of tables without a data file; the results of these systems
NEW_PARTS = 1_620 + 1_020 + 940 + 1_530 + 1_320 + 160 + 2_600
MAX_WORDS = WORDS_BEFORE * 6 // 10 + NEW_PARTS
MAX_MEDIAN = 18  # words in the median sentence of a page
MAX_LONGEST = 40  # words in any sentence
# (page, word): uses in the plain sense, each with a reason
EXCEPTIONS: dict[tuple[str, str], str] = {}

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2[ ]*$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
HTML = re.compile(COMMENT.pattern + r"|</?[a-zA-Z][^<>]*>", re.DOTALL)
CODE = re.compile(r"(`+).+?\1", re.DOTALL)
LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])")
TABLE_OR_HEADING = re.compile(r"^\s*(\||#+ |[-=*]{3,}\s*$)")
ITEM = re.compile(r"^\s*([-*+]|\d+[.)])\s+")
END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=[\"'(\[*]*[A-Z0-9])")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|cf|vs|Sec|Fig|Eq|No|et al|etc)\.$")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:['’][a-z]+)?")


class Sentence(NamedTuple):
    """A sentence of running text; a code span is the word `Code`."""

    line: int
    text: str

    @property
    def length(self) -> int:
        return len(self.text.split())


class Match(NamedTuple):
    """A word (or, for a `name` rule, a sentence) that a rule of the glossary matches."""

    page: str
    line: int
    word: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.word} ({self.rule.scope}: {self.rule.pattern.pattern} -> {self.rule.term})"


class Page(NamedTuple):
    """A page and its measures."""

    name: str
    words: int
    sentences: list[Sentence]

    @property
    def median(self) -> float:
        return statistics.median([s.length for s in self.sentences] or [0])

    @property
    def longest(self) -> int:
        return max((s.length for s in self.sentences), default=0)


def hand_written(root: Path = ROOT) -> list[Path]:
    """The pages that this census reads."""
    files = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return [f for f in files if f.exists() and not f.relative_to(root).as_posix().startswith(WITHOUT)]


def read_page(file: Path, root: Path = ROOT) -> Page:
    text = file.read_text("utf-8")
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    return Page(name, len(COMMENT.sub("", text).split()), list(sentences(text)))


def sentences(text: str) -> Iterator[Sentence]:
    """The sentences of the running text of a page, in order."""
    for line, paragraph in paragraphs(text):
        parts, start = [], 0
        for end in END.finditer(paragraph):
            if not ABBREVIATION.search(paragraph[: end.start()]):
                parts.append(paragraph[start : end.start()])
                start = end.end()
        yield from (Sentence(line, part.strip()) for part in [*parts, paragraph[start:]] if WORD.search(part))


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph and list item on one line, with the number of its first line, without markup."""
    for pattern in (FENCE, HTML):  # lines keep their numbers
        text = pattern.sub(lambda m: "\n" * m[0].count("\n"), text)
    text = CODE.sub(lambda m: "Code" + "\n" * m[0].count("\n"), text)
    while (plain := LINK.sub(lambda m: m[1], text)) != text:
        text = plain
    first, lines = 0, []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_item = ITEM.match(line)
        if lines and (not line.strip() or is_item or TABLE_OR_HEADING.match(line)):
            yield first, " ".join(lines)
            lines = []
        if line.strip() and not TABLE_OR_HEADING.match(line):
            first = first if lines else number
            lines.append(ITEM.sub("", line).strip())


def glossary_matches(page: Page, rules: Sequence[Rule]) -> list[Match]:
    """Every match of a rule in the sentences of a page, without EXCEPTIONS."""
    found = []
    for sentence in page.sentences:
        words = [word.lower() for word in WORD.findall(sentence.text)]
        for rule in (rule for rule in rules if rule.kinds == KINDS):
            candidates = words if rule.scope == "word" else ["_".join(words)]
            matched = [word for word in candidates if rule.pattern.fullmatch(word)]
            found += [Match(page.name, sentence.line, w.replace("_", " "), rule) for w in matched]
    return [match for match in found if (match.page, match.word) not in EXCEPTIONS]


def report(pages: Sequence[Page], rules: Sequence[Rule]) -> tuple[list[Row], list[str]]:
    """The rows of the table (totals last), and one line for each violation."""
    rows, details = [], []
    for page in pages:
        matches = glossary_matches(page, rules)
        rows.append(Row(page.name, page.words, None, f"median {page.median:g}, longest {page.longest}, matches {len(matches)}"))
        details += [f"{page.name}: median sentence of {page.median:g} words, limit {MAX_MEDIAN}"] * (page.median > MAX_MEDIAN)
        long = [s for s in page.sentences if s.length > MAX_LONGEST]
        details += [f"{page.name}:{s.line} {s.length} words, limit {MAX_LONGEST}: {s.text[:80]}" for s in long]
        details += map(str, matches)
    everything = [s.length for page in pages for s in page.sentences]
    rows += [
        Row("words", sum(page.words for page in pages), MAX_WORDS),
        Row("median sentence", round(statistics.median(everything or [0])), MAX_MEDIAN),
        Row("longest sentence", max(everything, default=0), MAX_LONGEST),
        Row("glossary matches", sum(len(glossary_matches(page, rules)) for page in pages), 0),
    ]
    return rows, details


def main(words: Sequence[str] = ()) -> int:
    """Print the table and the violations of the pages (default: all); return the exit code."""
    pages = [read_page(Path(word).resolve()) for word in words] or list(map(read_page, hand_written()))
    rows, details = report(pages, read_glossary(GLOSSARY.read_text("utf-8")))
    print(format_table(rows))
    if details:
        print("", *details, sep="\n")
    return 1 if details or not all(row.holds for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
