"""The code blocks of README and docs run in their order, and the runner finds those that do not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.blocks import Failure, PageRun, Toys, adapt, read_blocks, read_changes
from tests.prose import hand_written

# pages whose blocks another test runs
ELSEWHERE = {"extending.md": "tests/test_extending_page.py"}
LANGUAGES = {"bash", "python", "text", "toml"}
DAILY = ("cluster.md", "features.md", "codec.md")
MAX_SKIPPED = 18
BLOCKS = {page: read_blocks(page) for page in hand_written() if page.name not in ELSEWHERE}
RUN = [page for page, blocks in BLOCKS.items() if any(b.kind in ("bash", "python") and not b.is_skipped for b in blocks)]


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


@pytest.mark.parametrize("page", [page if page.name in DAILY else pytest.param(page, marks=pytest.mark.long) for page in RUN],
                         ids=lambda page: page.name)  # fmt: skip
def test_the_blocks_of_a_page_run_in_order(page, toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = PageRun(toys.give)
    for block in BLOCKS[page]:
        run(block)


def test_every_block_names_its_language_and_the_shell_parses_what_is_for_it():
    blocks = [block for each in BLOCKS.values() for block in each]
    assert {str(block): block.kind for block in blocks if block.kind not in LANGUAGES} == {}
    shell = "\n".join(block.code for block in blocks if block.kind == "bash")
    assert subprocess.run(["bash", "-n"], input=shell, text=True, capture_output=True).stderr == ""


def test_blocks_that_are_not_run_are_few_and_have_a_reason():
    skipped = {str(block): block.reason for blocks in BLOCKS.values() for block in blocks if block.is_skipped}
    print(*(f"{block}: {reason}" for block, reason in skipped.items()), sep="\n")
    assert all(len(reason) > 8 for reason in skipped.values()) and len(skipped) <= MAX_SKIPPED


@pytest.mark.parametrize("block, message", [
    ("bash\njukebox labels NOWHERE\n", "exit code 2"),
    ("bash\nfalse\n", "AssertionError: bash -euc false"),
    ("bash\nmake no-such-target\n", "No rule to make target"),
    ("bash\npip install 'jukebox-music[webb]'\n", "no extra"),
    ("python\nundefined\n", "NameError"),
])  # fmt: skip
def test_a_block_that_does_not_run_is_found_with_its_place(block, message, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n```{block}```\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure, match=f"page.md:3.*{message}"):
        PageRun(Toys(tmp_path).give)(*read_blocks(page))


def test_python_blocks_of_a_page_share_names_and_a_directive_changes_arguments_of_the_next_one_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run: seconds=1 -->\n```python\na = dict(seconds=30)\n```\n\n```python\nb = dict(a, more=30)\n```\n", "utf-8"
    )
    run = PageRun(Toys(tmp_path).give)
    for block in read_blocks(page):
        run(block)
    assert run.names["b"] == {"seconds": 1, "more": 30}


def test_a_directive_replaces_or_adds_flags_of_the_verbs_that_have_them():
    changes = read_changes("--steps 2; sample --seconds 1; extend --page no")
    assert adapt(["sample", "M", "--seconds", "30", "--out", "R"], changes) == ["sample", "M", "--out", "R", "--seconds", "1"]
    assert adapt(["train", "prior", "DATA"], changes) == ["train", "prior", "DATA", "--steps", "2"]
    launched = adapt(["launch", "--ranks", "8", "--", "train"], [("launch", "print", [])])
    assert launched == ["launch", "--ranks", "8", "--print", "--", "train"]


def test_a_block_without_a_reason_or_with_one_that_is_not_run_is_known(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- given: MODEL A=DATA -->\n<!-- run: no, needs a GPU -->\n```bash\nfalse\n```\n", "utf-8")
    (block,) = read_blocks(Path(page))
    assert block.is_skipped and block.reason == "needs a GPU" and block.given == ("MODEL", "A=DATA")
