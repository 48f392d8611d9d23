"""What training takes: the arithmetic of ZeRO, what was measured, and the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_prep.errors import UserError
from jukebox.model.presets import SETS, find, shapes
from jukebox.planning.training import BUCKET, LIVE, Machines, Training, budget, exchanged, largest_rows, memory
from launch.bench.train import SHAPE
from launch.cli import main
from launch.engines.deepspeed_config import BUCKETS
from priors.autoregressive.config import AutoregressiveConfig
from priors.transformer.config import TrunkConfig

DEMO = find("demo").priors["prior_2"].for_corpus(5, 4)


def test_buckets_are_those_that_deepspeed_is_told():
    assert set(BUCKETS.values()) == {BUCKET, LIVE} and BUCKETS["stage3_max_live_parameters"] == LIVE


# MiB at most, beyond what there was before the model, of rank 0: `jukebox bench train`, on a CPU over gloo (docs/results/training.md)
SEEN = {(1, 0): 583, (1, 1): 731, (1, 2): 731, (1, 3): 931, (2, 0): 589, (2, 1): 584, (2, 2): 584, (2, 3): 767}


@pytest.mark.parametrize("ranks, zero", SEEN)
def test_memory_of_ranks_is_within_a_fifth_of_what_was_measured(ranks, zero):
    trunk = TrunkConfig(SHAPE["n_ctx"], SHAPE["width"], SHAPE["depth"], SHAPE["heads"], m_attn=1.0, m_mlp=4.0)
    prior = AutoregressiveConfig("vq.0", SHAPE["bins"], 8, 44_100, trunk)
    parts = memory(prior, Training(SHAPE["batch"] // ranks, zero=zero, bf16=False), ranks, "cpu")
    assert abs(sum(parts.values()) / 2**20 / SEEN[ranks, zero] - 1) < 0.2


def test_zero_shares_out_moments_then_gradients_then_weights():
    numbers = DEMO.parameters().all
    stages = [memory(DEMO, Training(2, zero=stage), 4) for stage in range(4)]
    assert [plan["moments"] for plan in stages] == [8 * numbers] + 3 * [2 * numbers]
    assert [plan["gradients"] for plan in stages] == 2 * [4 * numbers] + 2 * [numbers]
    assert [plan["weights"] for plan in stages] == 3 * [4 * numbers] + [5 * numbers]  # so small a model is gathered whole
    big = shapes("5b")[1]["prior_2"]
    whole, shared = (memory(big, Training(1, zero=stage), 64)["weights"] for stage in (2, 3))
    assert shared < whole / 4
    assert all(plan["activations"] == stages[0]["activations"] for plan in stages)
    assert exchanged(DEMO, Training(1, accumulate=4, zero=3), 4) == 6 * exchanged(DEMO, Training(1, accumulate=4), 4)


def test_more_gpus_take_less_time_and_recomputing_takes_less_memory_and_more_time():
    prior = shapes("5b")[1]["prior_2"]
    few, many = (Machines(gpus, 80e9, 312e12, 0.4, 25e9) for gpus in (64, 512))
    setup = Training(1, accumulate=8, zero=1)
    plain, again = budget(prior, setup, few), budget(prior, replace(setup, recompute=True), few)
    assert again.bytes < 0.7 * plain.bytes and 1.3 < again.compute / plain.compute < 1.34
    faster = budget(prior, replace(setup, accumulate=1), many)
    assert faster.batch == plain.batch and 7.9 < plain.compute / faster.compute < 8.1
    assert (
        largest_rows(prior, replace(setup, recompute=True), few, 8) >= 1 > largest_rows(prior, replace(setup, zero=0), few, 8)
    )


def test_a_prior_whose_training_cost_is_not_known_is_rejected_in_one_line():
    with pytest.raises(UserError, match="the cost of training a prior of kind masked is not known"):
        memory(find("demo").priors["masked"], Training(1), 1)


@pytest.mark.parametrize("model", [*SETS, "demo"])
def test_every_published_set_is_planned_at_the_command_line(model, capsys):
    assert main(["plan", "train", model, "--card", "A100", "--gpus", "64,256", "--batch", "512"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("|") for line in lines) == 4 and "the first row:" in lines[6]


def test_this_machine_is_measured_and_mistakes_are_one_line(capsys):
    for level in ("2", "1"):
        flags = ["--level", level, "--precision", "float32", "--batch", "2", "--threads", "1"]
        assert main(["plan", "train", "test", *flags]) == 0
    assert "of which" in capsys.readouterr().out
    for flags, message in [
        (["--card", "A1000"], "there is no --card"),
        (["--card", "A100", "--gpus", "64", "--batch", "100"], "give --batch a multiple of 64"),
        (["--card", "A100", "--zero", "4"], "expected numbers from 0 to 3"),
        (["--card", "A100", "--share", "1.5"], "--share got 1.5"),
        (["--card", "A100", "--level", "7"], "got --level 7"),
    ]:
        assert main(["plan", "train", "demo", *flags]) == 2
        assert message in capsys.readouterr().err
