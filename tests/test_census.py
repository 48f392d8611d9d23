"""The census finds violations in small planted sources, and the project has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.census import (
    GLOSSARY,
    MAX_FUNCTION_LINES,
    MAX_MODULES,
    MAX_PARAMETERS,
    ROOT,
    Module,
    Row,
    count_lines,
    count_parameters,
    directory_sizes,
    duplicate_classes,
    format_table,
    functions,
    glossary_matches,
    identifiers,
    import_cycles,
    main,
    oversized_functions,
    read_glossary,
    read_modules,
    report,
    split_words,
)


@pytest.fixture
def plant(tmp_path: Path):
    """A function that writes sources (path -> text) and reads them as modules."""

    def plant(sources: dict[str, str]) -> dict[str, Module]:
        for path, source in sources.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(source, "utf-8")
        return read_modules(tmp_path)

    return plant


@pytest.fixture(scope="module")
def project() -> dict[str, Module]:
    return read_modules(ROOT)


def matched(modules: dict[str, Module], glossary: str) -> list[tuple[str, str, int]]:
    return [match.identifier for match in glossary_matches(modules, read_glossary(glossary))]


# The import graph


@pytest.mark.parametrize(
    "back",
    [
        "import jukebox.a",
        "from jukebox.a import f",
        "from jukebox import a",
        "from . import a",
        "from .a import f",
        "def g():\n    from jukebox.a import f",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jukebox.a import f",
        "import importlib\nimportlib.import_module('jukebox.a')",
    ],
)
def test_a_cycle_is_found_by_any_form_of_import(plant, back):
    modules = plant({"jukebox/a.py": "import jukebox.b", "jukebox/b.py": back, "jukebox/c.py": "import jukebox.a"})
    assert import_cycles(modules) == [["jukebox.a", "jukebox.b"]]


def test_a_cycle_across_packages_is_found_and_two_cycles_are_two(plant):
    sources = {
        "vqvae/a.py": "import priors.b",
        "priors/b.py": "import launch.c.d",
        "launch/c/d.py": "from ...vqvae import a\nfrom vqvae import a",
        "jukebox/e.py": "from jukebox.f import x",
        "jukebox/f.py": "from jukebox.e import y",
    }
    assert import_cycles(plant(sources)) == [["jukebox.e", "jukebox.f"], ["launch.c.d", "priors.b", "vqvae.a"]]


def test_relative_imports_are_resolved_in_packages_and_modules(plant):
    sources = {
        "jukebox/x/__init__.py": "from .a import f\nfrom ..b import g",
        "jukebox/x/a.py": "from ..b import g",
        "jukebox/b.py": "from .x.a import f",
    }
    assert import_cycles(plant(sources)) == [["jukebox.b", "jukebox.x.a"]]


def test_a_submodule_is_no_import_of_its_package_but_a_name_of_it_is(plant):
    init = {"jukebox/__init__.py": "from jukebox.a import f", "jukebox/b.py": ""}
    assert import_cycles(plant(init | {"jukebox/a.py": "from jukebox import b\nimport jukebox.b"})) == []
    assert import_cycles(plant(init | {"jukebox/a.py": "from jukebox import f"})) == [["jukebox", "jukebox.a"]]


# Sizes


def test_thirteen_modules_in_a_directory_break_the_limit(plant):
    modules = plant({f"jukebox/x/m{i}.py": "" for i in range(13)} | {"jukebox/x/__init__.py": "", "jukebox/y.py": ""})
    assert directory_sizes(modules) == {"jukebox": 1, "jukebox/x": 13}
    rows, details = report(modules, [])
    assert rows[0] == Row("modules in a directory", 13, 12, "jukebox/x") and not rows[0].holds
    assert details == ["directory jukebox/x: 13 modules, limit 12"]


def test_init_and_main_do_not_count_as_modules(plant):
    modules = plant({f"jukebox/m{i}.py": "" for i in range(12)} | {"jukebox/__init__.py": "", "jukebox/__main__.py": ""})
    assert directory_sizes(modules) == {"jukebox": 12} and report(modules, [])[0][0].holds


def test_functions_are_measured_with_their_qualified_names(plant):
    source = """
        class A:
            def f(self, x, /, y, *args, z=1, **kwargs):
                def inner(a):
                    return a
                return inner
    """
    modules = plant({"vqvae/a.py": "if True:" + source})
    measured = {name: (count_lines(f), count_parameters(f)) for name, f in functions(modules["vqvae.a"])}
    assert measured == {"vqvae.a.A.f": (4, 5), "vqvae.a.A.f.inner": (2, 1)}


def test_a_function_with_a_line_or_a_parameter_too_many_breaks_the_limit_and_is_named(plant):
    def source(lines: int, parameters: int) -> str:
        names = ", ".join(f"a{i}" for i in range(parameters))
        return f"class A:\n    def f(self, {names}):\n" + "        pass\n" * (lines - 1)

    modules = plant({"vqvae/a.py": source(MAX_FUNCTION_LINES, MAX_PARAMETERS)})
    assert oversized_functions(modules) == [] and all(row.holds for row in report(modules, [])[0])
    modules = plant({"vqvae/a.py": source(MAX_FUNCTION_LINES + 1, MAX_PARAMETERS + 1)})
    rows, details = report(modules, [])
    assert [(row.value, row.limit, row.where) for row in rows if not row.holds] == [
        (61, 60, "vqvae.a.A.f"),
        (13, 12, "vqvae.a.A.f"),
    ]
    assert details == ["function vqvae.a.A.f: 61 lines, limit 60", "function vqvae.a.A.f: 13 parameters, limit 12"]


def test_the_table_is_aligned():
    rows = [Row("lines", 12, 100), Row("longest function", 7, None, "a.f")]
    assert format_table(rows).splitlines() == [
        "measure           value  limit  holds  where",
        "lines                12    100  yes",
        "longest function      7      -  -      a.f",
    ]


def test_the_exit_code_is_0_if_all_limits_hold_and_else_1(plant, tmp_path, capsys):
    plant({"vqvae/a.py": "import vqvae.b", "vqvae/b.py": ""})
    assert main(tmp_path) == 0 and capsys.readouterr().out.startswith("measure")
    plant({"vqvae/b.py": "import vqvae.a"})
    assert main(tmp_path) == 1 and "import cycle of 2 modules: vqvae.a, vqvae.b" in capsys.readouterr().out


# Names


def test_a_duplicate_class_is_found_with_its_places(plant):
    modules = plant(
        {
            "vqvae/a.py": "class Config: ...\nclass _Private: ...",
            "launch/b.py": "\nclass Config: ...\nclass _Private: ...\nclass Other:\n    class Config: ...",
        }
    )
    assert duplicate_classes(modules) == {"Config": ["launch/b.py:2", "vqvae/a.py:1"]}


@pytest.mark.parametrize(
    "identifier, words",
    [
        ("HalfDone", ["half", "done"]),
        ("_one_by_one", ["one", "by", "one"]),
        ("VQVAEConfig", ["vqvae", "config"]),
        ("MP3File", ["mp3", "file"]),
        ("int8", ["int8"]),
        ("MAX_LINES", ["max", "lines"]),
        ("__init__", ["init"]),
    ],
)
def test_identifiers_are_split_into_words(identifier, words):
    assert split_words(identifier) == words


def test_every_kind_of_identifier_is_found(plant):
    source = """\
import numpy as an_alias
class AClass:
    a_field: int = 0
    another_field = [x for x in ()]
    def a_method(self, a_parameter, *an_args, **a_kwargs):
        self.an_attribute = a_local = used
        lambda of_lambda: used
        for a_target, (nested, *starred) in used: pass
        with used as opened: pass
        try: pass
        except ValueError as error: pass
        if (walrus := used): pass
        match used:
            case {"a": captured, **rest}: pass
async def a_coroutine(): ...
A_CONSTANT = used
"""
    found: dict[str, set[str]] = {}
    for kind, name, _ in identifiers(plant({"vqvae/a_module.py": source})["vqvae.a_module"]):
        found.setdefault(kind, set()).add(name)
    variables = "an_alias x a_local a_target nested starred opened error walrus captured rest A_CONSTANT"
    assert found == {
        "module": {"a_module"},
        "class": {"AClass"},
        "function": {"a_method", "a_coroutine"},
        "parameter": {"self", "a_parameter", "an_args", "a_kwargs", "of_lambda"},
        "attribute": {"a_field", "another_field", "an_attribute"},
        "variable": set(variables.split()),
    }


def test_a_word_in_a_camel_case_name_is_matched_and_a_part_of_a_word_is_not(plant):
    modules = plant({"vqvae/a.py": "class HeardCodes: ...\nclass Rehearsal: ...\ndef sheard(): ..."})
    assert matched(modules, "word: hear(s|d|ing)? -> attend to") == [("class", "HeardCodes", 1)]


def test_a_name_rule_matches_the_whole_name_in_snake_case(plant):
    modules = plant({"vqvae/a.py": "class SideBySide: ...\n_side_by_side = 1\nside_by_side_too = 2"})
    found = matched(modules, "name: side_by_side -> in parallel")
    assert found == [("class", "SideBySide", 1), ("variable", "_side_by_side", 2)]


def test_a_rule_with_kinds_matches_these_kinds_only(plant):
    modules = plant({"vqvae/look.py": "def look(look):\n    look.look = look = 1"})
    assert matched(modules, "function|parameter name: look -> encode") == [("function", "look", 1), ("parameter", "look", 1)]
    assert len(matched(modules, "name: look -> encode")) == 5


def test_a_folder_is_matched_as_a_module(plant):
    modules = plant({"vqvae/hearing/__init__.py": "", "vqvae/hearing/a.py": ""})
    assert matched(modules, "module word: hearing -> conditioning") == [("module", "hearing", 1)]


def test_a_match_names_its_place_the_pattern_and_the_term(plant):
    modules = plant({"vqvae/a.py": "\ndef hear(): ..."})
    (match,) = glossary_matches(modules, read_glossary("# a comment\n\nword: hear  ->  attend to\n"))
    assert str(match) == "vqvae/a.py:2 function hear (word: hear -> attend to)"


@pytest.mark.parametrize("line", ["hear -> attend to", "word: hear", "place name: hear -> attend to"])
def test_a_line_that_is_no_rule_raises(line):
    with pytest.raises(ValueError, match="glossary line 2"):
        read_glossary(f"# head\n{line}")


# The project


def test_no_directory_has_more_modules_than_the_limit(project):
    assert {folder: n for folder, n in directory_sizes(project).items() if n > MAX_MODULES} == {}


def test_no_function_has_more_lines_or_parameters_than_the_limit(project):
    assert oversized_functions(project) == []


def test_the_project_has_no_import_cycles(project):
    assert import_cycles(project) == []


def test_no_two_public_classes_share_a_name(project):
    assert duplicate_classes(project) == {}


def test_no_identifier_matches_the_glossary(project):
    found = glossary_matches(project, read_glossary(GLOSSARY.read_text("utf-8")))
    assert not found, "\n".join(map(str, found))
