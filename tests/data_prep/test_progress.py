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


def test_work_with_a_limit_has_no_more_time_left_than_the_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.1)
    for limit in (0.0, 60.0):
        with progress.ProgressBar(total=1_000_000, desc="steps", limit=limit) as bar:
            time.sleep(0.2)
            bar.update()
    without, limited = capsys.readouterr().err.splitlines()[::2]
    assert re.search(r"\d+:\d\d:\d\d left", without) and re.search(r" 00:\d\d left", limited), (without, limited)
