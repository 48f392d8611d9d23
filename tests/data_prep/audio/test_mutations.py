"""Whatever a file holds, it is read or refused, soon and in little memory, and gives no more audio than its bytes can hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("first", "last"), [(0, 40), pytest.param(40, 540, marks=pytest.mark.long)])
def test_a_damaged_file_is_read_or_refused_within_its_bounds(tmp_path: Path, first: int, last: int) -> None:
    pytest.importorskip("av")
    command = [sys.executable, "-m", "tests.data_prep.audio.mutations", str(tmp_path), str(first), str(last)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *files, end = map(json.loads, done.stdout.splitlines())
    assert len(files) == last - first and end["peak_mb"] < 500
    assert not [each for each in files if each["took"] > 10]
    assert not [each for each in files if isinstance(each["result"], float) and each["result"] > each["most"]]
    kinds = Counter("read" if isinstance(each["result"], float) else each["result"] for each in files)
    assert set(kinds) == {"read", "truncated", "unreadable"} and kinds["read"] > len(files) / 5, kinds
