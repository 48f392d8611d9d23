"""A file that is replaced atomically is the old one or the new one, whatever happens to the writer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.files import replacing, write_bytes, write_json


def test_the_new_file_is_visible_only_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from data_prep.files import replacing
with replacing(Path({target!r}), Path({temporary!r}) if {temporary!r} else None) as temporary:
    temporary.write_bytes(b"ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["", "a.part"])
def test_a_killed_writer_leaves_the_old_file_and_the_next_one_succeeds(tmp_path: Path, name: str) -> None:
    path, temporary = tmp_path / "a.bin", name and str(tmp_path / name)
    write_bytes(path, b"old")
    script = KILLED.format(path=sys.path, target=str(path), temporary=temporary)
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
    with replacing(path, tmp_path / name if name else None) as again:
        again.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == (1 if name else 2)  # a given name is used again


def test_json_files_hold_no_nan_and_keep_unicode(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": float("nan"), "name": "Céline", "rows": [(1.5, float("inf"))]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"z": None, "name": "Céline", "rows": [[1.5, None]]} and "Céline" in text
