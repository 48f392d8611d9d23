"""Progress without a terminal: whole lines at intervals, and silence for short work."""

from __future__ import annotations

import re
import time

import pytest

from data_prep import progress
from data_prep.pool import map_songs


def test_short_work_in_a_pipe_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    with progress.ProgressBar(total=2, desc="songs", unit="song") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_long_work_in_a_pipe_prints_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.2)
    assert list(map_songs(time.sleep, [0.15] * 6, workers=1, what="songs")) == [None] * 6
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and all(re.match(r"songs: \d of 6, .*left, .*song", line) for line in lines), lines
    assert lines[-1].startswith("songs: 6 of 6")


def test_a_terminal_has_a_bar_on_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.ProgressBar(total=2, desc="songs") as bar:
        bar.update(2)
    error = capsys.readouterr().err
    assert "100%" in error and error.count("\n") == 1 and "\r" in error
