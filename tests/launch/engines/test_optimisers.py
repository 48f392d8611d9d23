"""AdamW and Muon: which weights each trains and at what rate, what a checkpoint keeps, and what cannot be trained by Muon."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe
from launch.engines.checkpoint import load_checkpoint
from launch.engines.deepspeed_config import ParallelConfig
from launch.engines.engine import TorchEngine, lr_at
from launch.engines.optimisers import muon_matrices, parameter_groups
from launch.training.log import read_log
from launch.training.trainer import fit

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toys import Bend, Hidden

CPU = torch.device("cpu")
RECIPE = Recipe(steps=40, batch=8, lr=1e-2, muon=3e-2, warmup=5, log_every=1, save_every=10)
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def moved(recipe: Recipe, x: torch.Tensor = X, step: int = 10, place: int = 0) -> dict[str, torch.Tensor]:
    """How far one update moves every weight of `Hidden`."""
    model = Hidden()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = TorchEngine(model, recipe, CPU)
    engine.turns[""] = step
    engine.step(lambda x: {"loss": model(x).square().mean()}, [x], step, place)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_muon_orthogonalises_the_update_of_hidden_matrices_and_adamw_trains_the_rest():
    ours, adam = moved(RECIPE), moved(replace(RECIPE, muon=0.0))
    update = ours.pop("inner.weight") / (lr_at(10, RECIPE) * 3 * 0.2 * 8**0.5)  # scaled to the RMS of AdamW's
    singular = torch.linalg.svdvals(update)
    assert 0.5 < singular.min() and singular.max() < 1.5
    assert torch.linalg.svdvals(adam.pop("inner.weight"))[-1] < 0.3 * torch.linalg.svdvals(update)[-1]
    assert all(torch.equal(change, adam[name]) for name, change in ours.items())


def test_the_rate_of_muon_follows_the_schedule_and_its_place_in_it():
    full = moved(RECIPE, step=4)["inner.weight"]
    for change, share in (
        (moved(RECIPE, step=0), 1 / 5),  # warm-up
        (moved(RECIPE, step=4, place=22), lr_at(22, RECIPE) / RECIPE.lr),
        (moved(replace(RECIPE, muon=6e-2), step=4), 2),
    ):
        assert change["inner.weight"] == pytest.approx(share * full, rel=1e-4)


def test_weight_decay_holds_for_the_matrices_of_muon():
    recipe, still = replace(RECIPE, weight_decay=0.5), 0 * X
    bare, decayed = (moved(each, still)["inner.weight"] for each in (RECIPE, recipe))
    assert decayed - bare == pytest.approx(-lr_at(10, recipe) * 3 * 0.5 * Hidden().inner.weight.detach(), rel=1e-3)


def test_weight_decay_is_for_matrices_also_where_zero_3_has_cut_them_up():
    matrix, vector = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(4))
    cut = nn.Parameter(torch.zeros(0))
    cut.ds_shape = torch.Size((3, 4))  # type: ignore[attr-defined]  # as DeepSpeed remembers it
    groups = parameter_groups([matrix, vector, cut], 0.5)
    assert [(group["params"], group["weight_decay"]) for group in groups] == [([matrix, cut], 0.5), ([vector], 0.0)]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_run_with_muon_goes_on_with_the_losses_of_an_uninterrupted_one(tmp_path, accumulate):
    recipe, parallel = replace(RECIPE, ema=0.9, schedule="constant"), ParallelConfig(accumulate=accumulate)
    fit(Bend(), replace(recipe, steps=17), tmp_path / "t", parallel=parallel)
    kept, _ = load_checkpoint(tmp_path / "t")
    assert kept is not None and kept.names("momentum_buffer") == ["inner.weight"]
    assert set(kept.names("exp_avg")) == set(kept.names("exp_avg_sq")) == {"inner.bias", "out.weight", "out.bias"}
    again, whole = Bend(), Bend()
    fit(again, recipe, tmp_path / "t", parallel=parallel)
    fit(whole, recipe, tmp_path / "whole", parallel=parallel)
    lines = [[line["loss"] for line in read_log(tmp_path / name / "log.jsonl")] for name in ("t", "whole")]
    assert lines[0] == lines[1] and len(lines[0]) == 40 and lines[0][-1] < 0.5 * lines[0][0]
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_a_run_may_change_its_optimiser(tmp_path):
    fit(Bend(), replace(RECIPE, steps=20, muon=0.0), tmp_path / "t")
    fit(Bend(), RECIPE, tmp_path / "t")
    kept, _ = load_checkpoint(tmp_path / "t")
    assert (
        kept is not None and kept.names("momentum_buffer") == ["inner.weight"] and "inner.weight" not in kept.names("exp_avg")
    )


def test_a_spike_moves_neither_weights_nor_momentum():
    model = Hidden()
    engine = TorchEngine(model, RECIPE, CPU)
    for step in range(22):
        before = [t.clone() for _, t in engine.tensors()]
        engine.step(lambda factor: {"loss": factor * model(X).square().mean()}, [1e6 if step == 20 else 1.0], step)
        same = [torch.equal(a, b) for a, (_, b) in zip(before, engine.tensors(), strict=step > 0)]
        assert all(same) == (step == 20), step


def test_losses_that_overflow_in_fp16_leave_out_the_updates_of_both_optimisers():
    model = Hidden()
    engine = TorchEngine(model, replace(RECIPE, fp16=True), CPU)
    for factor, moves in ((1e-3, True), (1e6, False), (1e-3, True)):
        before, scale = [p.detach().clone() for p in model.parameters()], engine.scalers[""].get_scale()
        engine.step(lambda factor: {"loss": factor * model(X).float().square().mean()}, [factor], 10)
        assert [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)] == [moves] * 4
        assert (engine.scalers[""].get_scale() < scale) != moves


def test_a_model_without_matrices_for_muon_is_an_error_that_names_its_kind():
    with pytest.raises(UserError, match="kind Linear .* train it without --muon"):
        muon_matrices(nn.Linear(2, 2), RECIPE)
    with pytest.raises(UserError, match="all of them are frozen"):
        muon_matrices(Hidden().requires_grad_(False), RECIPE)
    assert muon_matrices(nn.Linear(2, 2), replace(RECIPE, muon=0.0)) == set()
