"""`jukebox bench render`: an arm per route, with passes that are counted, not computed."""

from __future__ import annotations

import json
import math

import pytest

from launch.bench.render import bench_render
from launch.cli import main


@pytest.mark.long
def test_each_arm_has_its_passes_and_diffusion_far_fewer_than_three_levels(tmp_path, capsys):
    rows = bench_render("", "", 0.7, 1, 1, 0, str(tmp_path / "bench.json"), ("test", "test_melody"))
    by_name = {row["arm"]: row for row in rows}
    assert list(by_name) == ["autoregressive", "masked", *(f"diffusion, {n} steps" for n in (5, 10, 20)), "phase decoder"]
    assert json.loads((tmp_path / "bench.json").read_text()) == rows and "diffusion, 20 steps" in capsys.readouterr().out
    frames = {hop: int(0.7 * 22050) // 256 * (256 // hop) for hop in (8, 32, 64, 128, 256)}
    codes = frames[8] + frames[32] + frames[128]
    assert codes <= by_name["autoregressive"]["passes"] <= 1.2 * codes + 10
    windows = 1 + math.ceil(max(0, frames[64] - 64) / 32)
    tokens = by_name["phase decoder"]["passes"]
    assert frames[256] <= tokens <= 1.2 * frames[256] + 10
    for steps in (5, 10, 20):
        assert by_name[f"diffusion, {steps} steps"]["passes"] == tokens + steps * windows
    assert by_name["diffusion, 5 steps"]["fewer_passes"] > 0.95 and by_name["autoregressive"]["fewer_passes"] == 0
    assert all(row["seconds"] > 0 and row["decoder_passes"] > 0 for row in rows)


def test_a_length_below_0_is_one_line(capsys):
    assert main(["bench", "render", "--seconds", "-1"]) == 2
    assert "more than 0" in capsys.readouterr().err
