"""Census of the source: sizes, import cycles, duplicate names, glossary matches. `python -m tests.census`

Everything is read from the source text (ast); no module of ours is imported. The table goes to stdout, and below it all
violations with file and line. The exit code is 0 if all limits hold, else 1. The rules of the glossary are in
tests/glossary.txt. An import whose module name is computed at run time is not seen.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GLOSSARY = Path(__file__).with_name("glossary.txt")
PACKAGES = ("vqvae", "priors", "data_prep", "jukebox", "launch")
MAX_MODULES = 12  # in a directory
MAX_FUNCTION_LINES = 60  # from `def` to the end, docstring included
MAX_PARAMETERS = 12  # of a function, without self or cls
# Lines of all *.py of the five packages. Commit 3ccb48a had 24751; routes, run version 3 and the Python API came after it, then the
# spectral route, the check of a GPU, what files of users need (readers, metadata, inspection, checks of output), and `learn`. A new
# system of the field has a budget in its own change: WaveNet with its codec and bench 900, the argmax bottleneck 110. The latent GAN
# with its second autoencoder and live generation has 1,900, NSynth with what is measured of it and of WaveNet 1,350. The page, its
# HTTP API and the exports have 2,600. Latent diffusion with its codec, renderers and ablation has 1,800. Docstrings in full sentences
# have 1,000 more than those in phrases.
MAX_LINES = 49000
MAX_LISTED = 200  # glossary matches that are printed
KINDS = ("module", "class", "function", "parameter", "attribute", "variable")
WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])|_+")
RULE = re.compile(r"(?:(?P<kinds>[a-z|]+) +)?(?P<scope>word|name): *(?P<pattern>.+?) +-> +(?P<term>.+)")


class Module(NamedTuple):
    """One source file."""

    name: str  # dotted; a package's `__init__.py` has the name of the package
    path: str  # relative to the root, with slashes
    source: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def is_package(self) -> bool:
        return self.path.endswith("/__init__.py")


def read_modules(root: Path, packages: Sequence[str] = PACKAGES) -> dict[str, Module]:
    """All modules of the packages by dotted name, parsed."""
    modules = {}
    for file in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        path = file.relative_to(root).as_posix()
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        source = file.read_text("utf-8")
        modules[name] = Module(name, path, source, ast.parse(source, path))
    return modules


# Sizes


def directory_sizes(modules: Mapping[str, Module]) -> dict[str, int]:
    """Number of modules directly in each directory, without `__init__.py` and `__main__.py`."""
    sizes: dict[str, int] = defaultdict(int)
    for module in modules.values():
        sizes[module.folder] += not module.path.endswith(("/__init__.py", "/__main__.py"))
    return dict(sizes)


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods, nested ones too, each with its qualified name after the name of the module."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name, child
            is_scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            yield from walk(child, f"{prefix}{child.name}." if is_scope else prefix)

    return walk(module.tree, f"{module.name}.")


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, docstring included, decorators excluded."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters; `*args` and `**kwargs` count one each, a leading `self` or `cls` none."""
    a = function.args
    positional = [arg.arg for arg in a.posonlyargs + a.args]
    without_self = positional[positional[:1] in (["self"], ["cls"]) :]
    return len(without_self) + len(a.kwonlyargs) + (a.vararg is not None) + (a.kwarg is not None)


# Imports


def imported_modules(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """Names of our modules that `module` imports anywhere: in functions and under TYPE_CHECKING too.

    `from a.b import c` imports a.b.c if that is a module, else a.b. A parent package is not counted for its submodule.
    """
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute_name(node, module)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else base for name in names}
        elif isinstance(node, ast.Call) and _called_name(node) in ("import_module", "__import__"):
            found |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found & modules.keys() - {module.name}


def _called_name(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _absolute_name(node: ast.ImportFrom, module: Module) -> str:
    """The module after `from`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    above = node.level - module.is_package  # one dot is the package of a module; a package is its own
    return ".".join([*parts[: len(parts) - above], *filter(None, [node.module])])


def import_cycles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Strongly connected components of the import graph that have more than one module."""
    graph = {name: imported_modules(module, modules) for name, module in modules.items()}
    reachable = {name: _reachable(graph, name) for name in graph}
    components = {frozenset(b for b in reachable[a] if a in reachable[b]) for a in graph}
    return sorted(sorted(component) for component in components if len(component) > 1)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Nodes that a path of at least one edge leads to from `start`."""
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += graph[node]
    return seen


# Names


def duplicate_classes(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Names of public top-level classes that are defined more than once, with file and line of each definition."""
    places = defaultdict(list)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{module.path}:{node.lineno}")
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


class Identifier(NamedTuple):
    """A name that the source defines: its kind (one of KINDS) and its line."""

    kind: str
    name: str
    line: int


def identifiers(module: Module) -> Iterator[Identifier]:
    """All names that a module defines, its own included; names that are only used are left out."""
    yield Identifier("module", module.name.rpartition(".")[2], 1)
    fields: set[ast.AST] = set()
    for node in ast.walk(module.tree):  # breadth first: a class comes before its fields
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.ClassDef):
            yield Identifier("class", node.name, line)
            fields |= _fields(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Identifier("function", node.name, line)
        elif isinstance(node, ast.arg):
            yield Identifier("parameter", node.arg, line)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Identifier("attribute" if node in fields else "variable", node.id, line)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield Identifier("attribute", node.attr, line)
        elif isinstance(node, ast.alias) and node.asname:
            yield Identifier("variable", node.asname, line)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield Identifier("variable", node.name, line)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield Identifier("variable", node.rest, line)


def _fields(node: ast.ClassDef) -> set[ast.AST]:
    """The names that are assigned or annotated in the body of a class."""
    targets = [t for s in node.body if isinstance(s, ast.Assign) for t in s.targets]
    targets += [s.target for s in node.body if isinstance(s, ast.AnnAssign)]
    return {name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def split_words(identifier: str) -> list[str]:
    """The words of a snake_case or CamelCase identifier, in lower case."""
    return [word.lower() for word in WORD_BOUNDARY.split(identifier) if word]


class Rule(NamedTuple):
    """A line of the glossary."""

    kinds: tuple[str, ...]
    scope: str  # "word" or "name"
    pattern: re.Pattern[str]
    term: str

    def matches(self, identifier: Identifier) -> bool:
        words = split_words(identifier.name)
        candidates = words if self.scope == "word" else ["_".join(words)]
        return identifier.kind in self.kinds and any(map(self.pattern.fullmatch, candidates))


def read_glossary(text: str) -> list[Rule]:
    """The rules of a glossary; tests/glossary.txt describes the format. Raises ValueError if a line is not a rule."""
    rules = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = RULE.fullmatch(line)
        kinds = tuple((match["kinds"] or "|".join(KINDS)).split("|")) if match else ()
        if not match or not set(kinds) <= set(KINDS):
            raise ValueError(f"glossary line {number}: {line!r} is not `[KIND|KIND ]word|name: PATTERN -> TERM`")
        rules.append(Rule(kinds, match["scope"], re.compile(match["pattern"]), match["term"]))
    return rules


class Match(NamedTuple):
    """An identifier that a rule of the glossary matches."""

    path: str
    identifier: Identifier
    rule: Rule

    def __str__(self) -> str:
        kind, name, line = self.identifier
        return f"{self.path}:{line} {kind} {name} ({self.rule.scope}: {self.rule.pattern.pattern} -> {self.rule.term})"


def glossary_matches(modules: Mapping[str, Module], rules: Sequence[Rule]) -> list[Match]:
    """Every identifier that a rule matches, in the order of files and lines; the first rule that matches is given."""
    found = []
    for module in modules.values():
        for identifier in sorted(set(identifiers(module)), key=lambda i: (i.line, i.name, i.kind)):
            rule = next((rule for rule in rules if rule.matches(identifier)), None)
            if rule:
                found.append(Match(module.path, identifier, rule))
    return found


# The report


class Row(NamedTuple):
    """A row of the table; without a limit it is for information."""

    measure: str
    value: int
    limit: int | None
    where: str = ""

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    cells = [("measure", "value", "limit", "holds", "where")]
    for row in rows:
        limit, holds = ("-", "-") if row.limit is None else (str(row.limit), "yes" if row.holds else "no")
        cells.append((row.measure, str(row.value), limit, holds, row.where))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = (f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip() for a, b, c, d, e in cells)
    return "\n".join(lines)


def oversized_functions(modules: Mapping[str, Module]) -> list[str]:
    """One line for each function that has too many lines or parameters, with its name."""
    found = []
    for name, function in (pair for module in modules.values() for pair in functions(module)):
        if (lines := count_lines(function)) > MAX_FUNCTION_LINES:
            found.append(f"function {name}: {lines} lines, limit {MAX_FUNCTION_LINES}")
        if (parameters := count_parameters(function)) > MAX_PARAMETERS:
            found.append(f"function {name}: {parameters} parameters, limit {MAX_PARAMETERS}")
    return found


def report(modules: Mapping[str, Module], rules: Sequence[Rule]) -> tuple[list[Row], list[str]]:
    """The rows of the table, and one line for each violation."""
    sizes, cycles, classes = directory_sizes(modules), import_cycles(modules), duplicate_classes(modules)
    matches = glossary_matches(modules, rules)
    everything = [pair for module in modules.values() for pair in functions(module)]
    largest = max(sizes, key=lambda folder: sizes[folder], default="")
    lines, longest = max(((count_lines(f), name) for name, f in everything), default=(0, ""))
    parameters, widest = max(((count_parameters(f), name) for name, f in everything), default=(0, ""))
    rows = [
        Row("modules in a directory", sizes.get(largest, 0), MAX_MODULES, largest),
        Row("import cycles", len(cycles), 0),
        Row("duplicate names of public classes", len(classes), 0),
        Row("identifiers that match the glossary", len(matches), 0),
        Row("source lines (*.py)", sum(module.source.count("\n") for module in modules.values()), MAX_LINES),
        Row("longest function, lines", lines, MAX_FUNCTION_LINES, longest),
        Row("most parameters of a function", parameters, MAX_PARAMETERS, widest),
    ]
    details = [f"directory {f}: {n} modules, limit {MAX_MODULES}" for f, n in sorted(sizes.items()) if n > MAX_MODULES]
    details += oversized_functions(modules)
    details += [f"import cycle of {len(cycle)} modules: {', '.join(cycle)}" for cycle in cycles]
    details += [f"duplicate class {name}: {', '.join(where)}" for name, where in classes.items()]
    details += list(map(str, matches[:MAX_LISTED]))
    if len(matches) > MAX_LISTED:
        details.append(f"and {len(matches) - MAX_LISTED} more glossary matches")
    return rows, details


def main(root: Path = ROOT) -> int:
    """Print the table and the violations; return the exit code."""
    rows, details = report(read_modules(root), read_glossary(GLOSSARY.read_text("utf-8")))
    print(format_table(rows))
    if details:
        print("", *details, sep="\n")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
