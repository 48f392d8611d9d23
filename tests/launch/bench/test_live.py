"""The bench of live music: the figures of a row, on the smallest model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jukebox.model.presets import find
from launch.bench.live import Size, bench_live, levels_speed, memory, preset_of, random_model


def test_a_row_has_speeds_memory_and_the_levels_in_the_same_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("launch.bench.live.levels_speed", lambda name, seed: 0.01)
    monkeypatch.setattr("launch.bench.live.memory", lambda model, minutes: {"memory_ratio": 1.0})
    (row,) = bench_live("", 1, 1, 0, str(tmp_path / "t.json"), (Size("test", "test_musika", "test"),), (2.0, 6.0))
    assert row["length_ratio"] == 3.0 and 0 < row["time_ratio"] < 100 and row["longest_wait"] > 0
    assert row["times_faster"] == row["long"] / 0.01 and row["memory_ratio"] == 1.0
    assert json.loads((tmp_path / "t.json").read_text())[0]["size"] == "test" and "size test" in capsys.readouterr().out


def test_the_full_size_has_the_large_codec():
    codec: Any = find("spectral").codec
    full: Any = preset_of("full")
    assert full.codec.width == codec.width and full.priors["gan"].patch == 32 and full.codec.stacked == 2


@pytest.mark.long
def test_memory_is_that_of_a_process_and_levels_are_timed_by_their_steps(tmp_path):
    found = memory(random_model(tmp_path / "model", preset_of("test_musika"), 0), (0.05, 0.1))
    assert 1.0 <= found["memory_ratio"] < 1.2 and found["first_mb"] > 50
    assert 0 < levels_speed("test", 0) < 100
