"""Census of the prose in the source: docstrings, comments and messages. `python -m tests.source_prose [PATH ..]`

A message is a string of at least MIN_WORDS words: of an error, a print or a table. Types, regular expressions and lists of words
(`"..".split()`) are not messages. In a docstring a line `name: description` is a paragraph. An indented block is code or a table,
which is left out, and so is a line with columns. Sentences and rules are those of tests/prose.py. The rules of
tests/source_glossary.txt hold in addition to those of tests/glossary.txt.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import prose
from tests.census import GLOSSARY, PACKAGES, ROOT, Row, Rule, format_table, read_glossary
from tests.prose import Match, Sentence

SOURCE_GLOSSARY = GLOSSARY.with_name("source_glossary.txt")
KINDS = ("docstring", "comment", "message")
MIN_WORDS = 4
MAX_MEDIAN = 18  # words in the median sentence of a package
MAX_LONGEST = 40  # words in any sentence
SILENT = ("compile", "split", "fullmatch", "sub", "findall")  # calls whose strings are patterns or lists of words
# (path or folder, word; of a sentence that a `name` rule matches its first words): uses in the plain sense, each with a reason
EXCEPTIONS = {
    ("data_prep/metadata/lyrics.py", "letters"): "letters of an alphabet",
    ("data_prep/synthetic/voice.py", "letter"): "the voice has a sound per letter of the alphabet",
    ("data_prep/synthetic/voice.py", "letters"): "the voice has a sound per letter of the alphabet",
    ("data_prep/synthetic/songs.py", "letters"): "the voice has a sound per letter of the alphabet",
    ("jukebox/report/curves.py", "letters"): "the name of a constant",
    ("launch/cluster/supervise.py", "behind"): "ranks that are behind, and a word of a documented output",
    ("launch/ablate/prompts.py", "listening"): "people listen",
    ("launch/demo/demo.py", "listen"): "people listen",
    ("launch/learn/learn.py", "listen"): "people listen",
    ("vqvae/spectral/losses.py", "hearing"): "human hearing",
}

# (path, first words): texts that are no sentences and may be longer than MAX_LONGEST, each with a reason
LISTS = {
    ("data_prep/metadata/tags.py", "eng en english"): "a table of languages",
    ("launch/bench/bench.py", "what: sample"): "the choices of a flag",
    ("launch/cluster/carriers.py", "again="): "a shell script",
}

FIELD = re.compile(r"^\*{0,2}[A-Za-z_][\w.]*(?:, [A-Za-z_]\w*)*: ")  # `name: description` or `a, b: description`
PRAGMA = re.compile(r"^#\s*(noqa|type:|pyright:|fmt:|ruff:|pragma|!)")


class Text(NamedTuple):
    """A docstring, a block of comments or a message."""

    path: str
    line: int
    kind: str  # one of KINDS
    text: str

    @property
    def sentences(self) -> list[Sentence]:
        return [Sentence(self.line + s.line - 1, s.text) for s in prose.sentences(self.text)]


def read_texts(file: Path, root: Path = ROOT) -> list[Text]:
    """The prose of a Python file in the order of its lines."""
    path, source = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file), file.read_text("utf-8")
    tree = ast.parse(source)
    found = [("docstring", *pair) for pair in docstrings(tree)]
    found += [("comment", *pair) for pair in comments(source)]
    found += [("message", *pair) for pair in messages(tree)]
    return [Text(path, line, kind, text) for kind, line, text in sorted(found, key=lambda item: item[1])]


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring; fields are list items and indented blocks are empty lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            yield node.body[0].lineno, plain_docstring(ast.get_docstring(node, clean=True) or "")


def plain_docstring(text: str) -> str:
    """The text of a docstring as Markdown that has as many lines."""
    lines, in_item, in_text = [], False, False
    for line in text.splitlines():
        is_indented, is_field = bool(re.match(r"  |\S+ {2,}\S", line)), bool(FIELD.match(line)) and not in_text
        in_item = bool(prose.ITEM.match(line)) or is_field or (in_item and is_indented)
        lines.append("" if is_indented and not in_item else f"- {line}" if is_field else line)
        in_text = bool(line) and not in_item
    return "\n".join(lines)


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each block of comments; a comment after code is a block."""
    first, column, lines = 0, 0, []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or PRAGMA.match(token.string):
            continue
        (line, start), alone = token.start, not token.line[: token.start[1]].strip()
        if lines and (not alone or line != first + len(lines) or start != column):
            yield first, "\n".join(lines)
            lines = []
        first, column, lines = (line, start if alone else -1, []) if not lines else (first, column, lines)
        lines.append(token.string.removeprefix("#").removeprefix(" "))
    if lines:
        yield first, "\n".join(lines)


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string of at least MIN_WORDS words that is no docstring, type, pattern or list of words."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        text = string_of(node)
        if text is not None:
            if len(prose.WORD.findall(text)) >= MIN_WORDS:
                yield getattr(node, "lineno", 1), text
            continue
        todo += [child for child in ast.iter_child_nodes(node) if not is_silent(node, child)]


def string_of(node: ast.AST) -> str | None:
    """The text of a string or f-string; a value within it is a code span."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w*\}", "`Code`", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "`Code`" for part in node.values)
    return None


def is_silent(node: ast.AST, child: ast.AST) -> bool:
    """Whether a child of a node has no message: an annotation, a pattern, a list of words or a docstring."""
    if isinstance(node, ast.Expr) and string_of(child) is not None:
        return True
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", getattr(node.func, "id", "")) in SILENT
    return child is getattr(node, "annotation", None) or child is getattr(node, "returns", None)


def glossary_matches(texts: Sequence[Text], rules: Sequence[Rule]) -> list[Match]:
    """Every match of a rule in the sentences, without EXCEPTIONS."""
    pages = [prose.Page(text.path, 0, text.sentences) for text in texts]
    matches = [match for page in pages for match in prose.glossary_matches(page, rules)]
    return [match for match in matches if not exceptions_of(match)]


def exceptions_of(match: Match) -> list[tuple[str, str]]:
    """The keys of EXCEPTIONS that allow a match."""
    return [key for key in EXCEPTIONS if match.page.startswith(key[0]) and (match.word + " ").startswith(key[1] + " ")]


def is_list(path: str, sentence: str) -> bool:
    """Whether a text is one of LISTS."""
    return any(path == key[0] and sentence.startswith(key[1]) for key in LISTS)


def read_rules() -> list[Rule]:
    """The rules of both glossaries."""
    return [rule for file in (GLOSSARY, SOURCE_GLOSSARY) for rule in read_glossary(file.read_text("utf-8"))]


def report(packages: dict[str, list[Text]], rules: Sequence[Rule]) -> tuple[list[Row], list[str]]:
    """Three rows for each package, and one line for each violation."""
    rows, details = [], []
    for name, texts in packages.items():
        sentences = [(t, s) for t in texts for s in t.sentences if not is_list(t.path, s.text)]
        lengths, matches = [s.length for _, s in sentences] or [0], glossary_matches(texts, rules)
        rows += [
            Row(f"{name}: median sentence", round(statistics.median(lengths)), MAX_MEDIAN, f"{len(lengths)} sentences"),
            Row(f"{name}: longest sentence", max(lengths), MAX_LONGEST),
            Row(f"{name}: glossary matches", len(matches), 0),
        ]
        long = [(text, s) for text, s in sentences if s.length > MAX_LONGEST]
        details += [f"{t.path}:{s.line} {s.length} words, limit {MAX_LONGEST}: {s.text[:80]}" for t, s in long]
        details += map(str, matches)
    return rows, details


def read_package(name: str) -> list[Text]:
    """The prose of a package or file; of tests without messages, which quote those of the packages."""
    path = ROOT / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    texts = [text for file in files for text in read_texts(file)]
    return [text for text in texts if text.kind != "message" or not text.path.startswith("tests/")]


def main(words: Sequence[str] = ()) -> int:
    """Print the table and the violations of the packages and files (default: all packages and tests); return the exit code."""
    rows, details = report({word: read_package(word) for word in words or (*PACKAGES, "tests")}, read_rules())
    print(format_table(rows))
    if details:
        print("", *details, sep="\n")
    return 1 if details or not all(row.holds for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
