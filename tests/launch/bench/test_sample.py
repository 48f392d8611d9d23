"""The bench of sampling: one row per case and dtype, and the bits of a dtype."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import UserError
from launch.bench.bench import bench
from launch.bench.prior import SHAPE
from launch.bench.sample import Case, _matrices, _prior, bench_sample

SMALL = {**SHAPE, "n_ctx": 64, "prior_width": 64, "prior_depth": 3, "heads": 2, "blocks": 4}


def test_what_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(UserError, match="--peer got"):
        bench("sample", peer=str(tmp_path / "python"))
    with pytest.raises(UserError, match="--repeats 0"):
        bench("sample", repeats=0)


@pytest.mark.parametrize(("dtype", "kept"), [("float32", torch.float32), ("int8", torch.int8)])
def test_the_products_read_every_matrix_of_a_step_in_its_dtype(tmp_path, dtype, kept):
    from jukebox.model.settings import prior_config
    from priors.autoregressive.model import AutoregressivePrior

    config = prior_config(SMALL, {"l_bins": 2048, "downs_t": (3, 2, 2), "strides_t": (2, 2, 2)})
    torch.save(AutoregressivePrior(config).state_dict(), tmp_path / "ours.pt")
    prior = _prior({"shape": SMALL, "dtype": dtype, "ours": str(tmp_path / "ours.pt")})
    matrices = _matrices(prior)
    assert all(w.dtype == kept for w in matrices)
    assert sum(w.numel() for w in matrices) == 3 * (64 * 48 + 16 * 64 + 2 * 64 * 64) + 2048 * 64


@pytest.mark.long
def test_the_table_has_a_row_a_case_and_dtype(tmp_path, capsys):
    cases = (Case("few", 1, 0, 8), Case("after some", 2, 16, 4))
    rows = bench_sample("", 2, 1, 0, str(tmp_path / "table.json"), "cpu", shape=SMALL, cases=cases)
    assert [(row["name"], row["dtype"]) for row in rows] == [
        (case.name, dtype) for case in cases for dtype in ("float32", "bfloat16", "int8")
    ]
    assert json.loads((tmp_path / "table.json").read_text()) == rows
    assert all(len(row["walls"]) == 2 and row["codes_per_second"] > 0 for row in rows)
    assert "a sum reads" in capsys.readouterr().out
