"""The bench of the lower levels: both arms write the same codes' count, and their passes are counted, not computed."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import UserError
from launch.bench.bench import bench
from launch.bench.upsample import SHAPES, Shape, arms_of, bench_upsample, masked_of, upsampler_of

SMALL = Shape(32, "float32", columns=32, depth=1, bins=16)


def test_both_arms_have_the_same_width_depth_and_dtype():
    assert {(shape.width, shape.dtype) for shape in SHAPES} == {(w, d) for w in (256, 512) for d in ("float32", "bfloat16")}
    for shape in (Shape(64, "float32", bins=16), Shape(128, "bfloat16", bins=16)):
        trunks = [prior.config.trunk for prior in (upsampler_of(shape, 0), masked_of(shape))]
        assert all((t.width, t.depth, t.heads) == (shape.width, shape.depth, shape.width // 64) for t in trunks)
        assert masked_of(shape).inlet.w.dtype == upsampler_of(shape, 1).x_emb.weight.dtype == getattr(torch, shape.dtype)


def test_a_code_a_step_beside_a_few_passes_however_many_codes(tmp_path, capsys):
    rows = bench_upsample(1, 1, 0, str(tmp_path / "table.json"), "cpu", [SMALL], [(3, 2)])
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    passes = {row["arm"]: row["passes"] for row in rows}
    assert passes["autoregressive"] == passes["steps of torch"] == 32 * 20 and passes["masked 3,2"] == 5
    assert all(row["seconds"] > 0 for row in rows) and "music s/s" in capsys.readouterr().out


def test_windows_side_by_side_take_as_many_steps_as_a_window_has(monkeypatch):
    monkeypatch.setattr("launch.bench.upsample.CODES", 128)
    monkeypatch.setattr("launch.bench.upsample.WARM_UP", 32)
    arms = arms_of(SMALL, [], 0)
    assert arms["autoregressive"]() == 32 * 20
    assert arms["parallel windows"]() == 128 + 128


def test_what_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(UserError, match="takes both"):
        bench("upsample", data=str(tmp_path))
    with pytest.raises(UserError, match="--repeats 0"):
        bench("upsample", repeats=0)
