"""Every command in the pages is one that the command line takes, and the pages that the site makes are whole."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

import jukebox
from data_prep.errors import UserError
from launch.cli.commands import GROUPS, VERBS, load
from launch.cli.usage import read_arguments, read_usage
from tests.prose import CODE, FENCE, hand_written

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"(?:^|[ /])(?:jukebox|launch\.cli) (?=[a-z])")
# (page, flag and value): flags that a verb gets from the prior of its model
OF_PRIORS = {("extending.md", "--repetition_penalty 1"), ("wavenet.md", "--tempo 120 --density 4")}


def commands(text: str) -> list[str]:
    """The commands in the code blocks of a page, without comments, optional parts, pipes and explanations after three spaces."""
    blocks = [block[0].splitlines() for block in FENCE.finditer(text)]
    lines = [line for first, *block in blocks if first.strip("` ") not in ("python", "toml") for line in block[:-1]]
    found = [line[match.end() :] for line in lines if (match := COMMAND.search(line)) and "jukebox launch:" not in line]
    return [re.sub(r"\[.*?\]|\s{3,}.*|#.*|\s\|\s.*|\s\.\.\.?(?=\s|$)", "", line).strip() for line in found]


def wrong(command: str, page: str = "") -> str:
    """What is wrong with the words after `jukebox`; empty if nothing is."""
    if command.startswith("launch ") and " -- " in command and (found := wrong(command.partition(" -- ")[2], page)):
        return found
    for name, flag in OF_PRIORS:
        command = command.replace(flag, "") if name == page else command
    verb, *words = shlex.split(command)
    if verb not in VERBS:
        return f"there is no verb {verb}"
    try:
        read_arguments(read_usage(verb, load(VERBS[verb][0])), words)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", hand_written(), ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page):
    found = {command: wrong(command, page.name) for command in commands(page.read_text("utf-8"))}
    assert {command: error for command, error in found.items() if error} == {}


@pytest.mark.parametrize("page", hand_written(), ids=lambda page: page.name)
def test_verbs_and_flags_in_running_text_exist(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for span in (match[0].strip("`") for match in CODE.finditer(text)):
        if match := re.match(r"jukebox ([a-z][a-z-]+)(?= |$)", span):
            flags = {flag.name for flag in read_usage(match[1], load(VERBS[match[1]][0])).flags}
            assert set(re.findall(r"--(\w[\w-]*)", span.partition(" -- ")[0])) <= flags, span


def test_a_command_that_does_not_parse_is_found():
    text = "```\njukebox sampel MODEL\njukebox sample MODEL --second 3\nmpirun -n 2 jukebox resume RUN    # well\n```\n"
    assert [bool(wrong(command)) for command in commands(text)] == [True, True, False]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference) -> dict[str, str]:
    return reference.pages()


def test_the_reference_has_every_verb_every_public_name_and_every_module(reference, pages):
    assert re.findall(r"^## Verbs: (\S+)$", pages["reference/verbs.md"], re.MULTILINE) == list(GROUPS)
    assert re.findall(r"^### (\S+)$", pages["reference/verbs.md"], re.MULTILINE) == [
        v for names in GROUPS.values() for v in names
    ]
    assert re.findall(r"^## (\S+)$", pages["reference/api.md"], re.MULTILINE) == sorted(jukebox.__all__)
    assert (
        "| demo | tokens | " in pages["reference/configuration.md"]
        and "| `final_lr` | `0.05` |" in pages["reference/configuration.md"]
    )
    assert all(f"## {package}\n" in pages["reference/modules.md"] for package in reference.PACKAGES)


def test_links_out_of_the_folder_lead_to_pages_of_the_site_or_become_text(reference):
    text = "[a](docs/data.md#codes), [b](LICENSE), [c](CONTRIBUTING.md), [d](https://a.b/c), [e](#here)"
    assert (
        reference.fit_links(text, "README.md") == "[a](data.md#codes), b, [c](contributing.md), [d](https://a.b/c), [e](#here)"
    )
    assert (
        reference.fit_links("[a](../../CONTRIBUTING.md) [b](../data.md)", "docs/results/a.md")
        == "[a](../contributing.md) [b](../data.md)"
    )


def test_every_page_of_the_menu_exists(pages):
    def paths(menu: object) -> list[str]:
        return (
            [menu]
            if isinstance(menu, str)
            else [p for each in (menu.values() if isinstance(menu, dict) else menu) for p in paths(each)]
        )

    menu = paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    assert [path for path in menu if path not in pages and not (ROOT / "docs" / path).is_file()] == []
    assert len(menu) == len(set(menu))
