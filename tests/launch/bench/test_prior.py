"""The bench of training: both precisions in a table, the peer's shape and ours one and the same, memory by length."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import UserError
from launch.bench.attention import bench_attention
from launch.bench.bench import bench
from launch.bench.prior import SHAPE, _config, bench_prior
from priors.autoregressive.model import AutoregressivePrior

SMALL = {**SHAPE, "n_ctx": 64, "prior_width": 32, "prior_depth": 3, "heads": 2, "blocks": 8, "y_bins": (3, 20)}


def test_the_measured_prior_is_the_one_that_the_docs_name():
    with torch.device("meta"):
        prior = AutoregressivePrior(_config(SHAPE))
    assert sum(p.numel() for p in prior.parameters()) == 24_478_208
    assert {block.attn.pattern for block in prior.trunk.blocks} == {"row", "column", "previous_row"}


@pytest.mark.long
def test_the_table_has_a_row_a_precision_with_what_was_counted_and_measured(tmp_path, capsys):
    rows = bench_prior("", 1, 1, 0, str(tmp_path / "table.json"), "cpu", SMALL)
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert [row["precision"] for row in rows] == ["float32", "bf16"]
    # a product costs 2 operations an element and position, its gradients twice as many
    width, steps = SMALL["prior_width"], SMALL["n_ctx"]
    products = 3 * 2 * steps * (3 * (width * (width // 4) * 4 + 2 * width * width) + width * 2048)
    for row in rows:
        assert products < row["gflops_per_step"] * 1e9 < 1.1 * products
        assert row["share"] > 0 and row["peak_mb"] > 100 and len(row["walls"]) == 1
        assert row["loss"] == pytest.approx(11, abs=0.5)  # bits of a uniform guess among 2048
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.long
def test_the_memory_of_attention_has_a_row_a_pattern_and_precision(tmp_path):
    rows = bench_attention(1, str(tmp_path / "table.json"), "cpu", patterns=("row",), lengths=(512, 2048))
    assert [(row["pattern"], row["precision"]) for row in rows] == [("row", "float32"), ("row", "bf16")]
    assert all(2 < row["mb"][1] / row["mb"][0] < 8 for row in rows)  # 4 is linear, 16 a square


def test_what_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(UserError, match="--peer got"):
        bench("prior", peer=str(tmp_path / "python"))
    with pytest.raises(UserError, match="--repeats 0"):
        bench("prior", repeats=0)
