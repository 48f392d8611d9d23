"""Every verb with odd names, an output that cannot be written, a full disk and Ctrl-C: one line, the right code, nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.cli.commands import VERBS
from tests.launch.cli.every_verb import CASES

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What each verb did in each situation; all in one process, because each start takes seconds."""
    command = [sys.executable, "-m", "tests.launch.cli.every_verb", str(tmp_path_factory.mktemp("verbs"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {(each["verb"], each["situation"]): each for each in map(json.loads, done.stdout.splitlines())}


def test_every_verb_has_a_case() -> None:
    assert not set(VERBS) - set(CASES)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_loses_nothing_and_says_in_one_line_what_is_wrong(tried, verb: str) -> None:
    case = CASES[verb]
    done = {situation: each for (name, situation), each in tried.items() if name == verb}
    assert not any(each["changed"] for each in done.values())
    assert case.slow or done["plain"]["code"] == 0, done["plain"]
    if not case.writes:
        return
    assert done["below a file"]["code"] == 2 and len(done["below a file"]["err"]) == 1, done["below a file"]
    if not case.slow:  # what is small fits on the disk
        full = done["full disk"]
        assert full["code"] == 0 or (full["code"] == 2 and len(full["err"]) == 1), full
        assert done["again"]["code"] == 0, done["again"]
    stopped = done["interrupted"]
    if stopped["reached"] or case.slow:
        assert stopped["code"] == 130 and len(stopped["err"] or stopped["out"]) == 1, stopped
