"""The bench of a WaveNet: all sides draw the same codes, and its table has the rates and ratios of each stack."""

from __future__ import annotations

import json

import pytest
import torch

from data_prep.errors import UserError
from launch.bench import wavenet
from launch.bench.bench import bench
from launch.bench.wavenet import bench_wavenet
from priors.wavenet.config import StackConfig
from priors.wavenet.stack import GatedStack

TINY = StackConfig(3, 1, 6, 6, 6)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(wavenet, "SAMPLES", {"naive": 3, "cached": 5, "compiled": 9})


def test_a_row_has_the_rate_of_each_side_and_their_ratios(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wavenet, "STACKS", (TINY,))
    rows = bench_wavenet(2, 1, 0, str(tmp_path / "rows.json"), "cpu", (TINY,))
    (row,) = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert [row] == rows and (row["receptive_field"], row["undilated_receptive_field"]) == (8, 4)
    assert all(row[f"{side}_samples_per_second"] > 0 for side in ("naive", "cached", "compiled"))
    assert row["cached_over_naive"] > 0 and row["compiled_over_cached"] > 0
    head, names, line = capsys.readouterr().out.splitlines()
    assert "cpu, 1 CPU threads" in head and "cached/naive" in names and line.split()[:5] == ["3", "x", "6", "8", "4"]


def test_sides_that_draw_other_codes_are_an_error(monkeypatch):
    whole = GatedStack.forward
    monkeypatch.setattr(GatedStack, "forward", lambda self, x, *more: whole(self, x.flip(1), *more))
    with pytest.raises(RuntimeError, match="steps of a receptive field of 8 draw other codes"):
        bench_wavenet(1, 1, 0, "", "cpu", (TINY,))


def test_the_verb_finds_it_and_checks_its_repeats():
    with pytest.raises(UserError, match="--repeats 0: expected at least 1"):
        bench("wavenet", repeats=0, device="cpu")
    assert torch.get_num_threads() == 1
