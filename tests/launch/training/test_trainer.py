"""The training loop: exact resumption, its log, and its error messages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe
from launch.engines.checkpoint import load_checkpoint, written
from launch.engines.engine import TorchEngine, lr_at
from launch.training.batches import batches
from launch.training.control import Stop, schedule_step
from launch.training.log import read_log
from launch.training.tasks.task import Task, fold
from launch.training.trainer import fit

RECIPE = Recipe(steps=40, batch=4, lr=1e-2, warmup=5, log_every=1, save_every=10)


class Line(nn.Module):
    """A line with dropout (noise of the step) and a running mean (a state that is no parameter)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("mean", torch.zeros(3))

    def loss(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.mean.lerp_(x.mean(0), 0.1)
        error = nn.functional.dropout(self.linear(x - self.mean), 0.5)[:, 0] - x.sum(1)
        return {"loss": error.square().mean(), "drift": self.mean.norm()}


class Toy(Task):
    """The smallest task: it knows nothing of music, as the loop should not."""

    name, unit, amount = "toy_0", "rows", 4.0

    def __init__(self, out: Path, seed: int = 0, pause: float = 0.0, poison: int = -1) -> None:
        torch.manual_seed(seed)
        self.model, self.out, self.seed, self.pause, self.poison = Line(), out, seed, pause, poison
        self.identity = {"data": "rows"}

    def open(self) -> None:
        pass

    def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
        time.sleep(self.pause)
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(fold(self.seed, step, rank)))

    def loss(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        losses = self.model.loss(batch)
        return losses | {"spectral": losses["loss"] * (float("nan") if step == self.poison else 1.0)}

    def save(self, model: nn.Module) -> None:
        torch.save(model.state_dict(), self.out)


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in read_log(folder / "log.jsonl")]


def test_the_rate_warms_up_holds_and_lands_where_the_recipe_says():
    linear = Recipe(steps=1000, batch=1, lr=2.0, warmup=50, schedule="linear", decay_from=0.6, final_lr=0.05)
    assert lr_at(0, linear) == pytest.approx(2.0 / 50)
    assert lr_at(49, linear) == lr_at(599, linear) == 2.0
    assert lr_at(800, linear) == pytest.approx(2.0 * (0.05 + 0.95 * 0.5))
    assert lr_at(1000, linear) == lr_at(5000, linear) == pytest.approx(0.1)
    cosine = replace(linear, schedule="cosine")
    assert lr_at(50, cosine) == 2.0 and lr_at(525, cosine) == pytest.approx(2.0 * 0.525)
    assert lr_at(1000, cosine) == pytest.approx(0.1)
    assert {lr_at(s, replace(linear, schedule="constant", warmup=0)) for s in (0, 500, 999)} == {2.0}


def test_the_published_rate_starts_and_ends_at_zero_and_may_go_down_in_stairs():
    recipe = Recipe(steps=1000, batch=1, lr=2.0, warmup=50, schedule="published", decay_from=0.6)
    assert lr_at(0, recipe) == lr_at(1000, recipe) == 0.0 and lr_at(25, recipe) == 1.0
    assert lr_at(600, recipe) == 2.0 and lr_at(800, recipe) == pytest.approx(1.0)
    stairs = replace(recipe, decay_from=1.0, gamma=0.5, gamma_every=100)
    assert [lr_at(s, stairs) for s in (99, 100, 250)] == [2.0, 1.0, 0.5]


def test_a_gpu_takes_batches_from_pinned_memory_by_threads_that_use_it(tmp_path, monkeypatch):
    pinned, used = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for device in (torch.device("cuda:1"), torch.device("cpu")):
        engine = SimpleNamespace(rank=0, accumulate=2, parts=2, device=device)
        made = [part for _, parts, _ in batches(Toy(tmp_path), 0, 3, engine) for _, part in parts]
        assert {id(part) for part in made} == {id(part) for part in pinned} or device.type == "cpu"
    assert len(pinned) == 6 and set(used) == {torch.device("cuda:1")}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_training_goes_from_pinned_batches(tmp_path):
    task = Toy(tmp_path / "w.pt")
    task.loss = lambda batch, step, loss=task.loss: loss(batch.to("cuda", non_blocking=True), step) if batch.is_pinned() else {}
    assert fit(task, RECIPE, tmp_path / "t", device="cuda").ended == "done"


def test_training_lowers_the_loss_and_leaves_log_checkpoint_and_weights(tmp_path):
    recipe = replace(RECIPE, steps=200, lr=0.05, save_every=50)
    trained = fit(Toy(tmp_path / "w.pt"), recipe, tmp_path / "t")
    lines = read_log(tmp_path / "t" / "log.jsonl")
    assert (trained.step, trained.ended) == (200, "done")
    assert [line["step"] for line in lines] == list(range(1, 201))
    assert {"loss", "drift", "lr", "gradient_norm", "rows_per_second", "data_wait", "minutes"} <= set(lines[0])
    first, last = (sum(line["loss"] for line in part) for part in (lines[:50], lines[-50:]))
    assert last < 0.8 * first
    assert (tmp_path / "w.pt").exists()
    assert [path.name for path in written(tmp_path / "t")] == ["step_00000200", "step_00000150"]


def test_a_run_killed_in_mid_step_goes_on_with_the_losses_of_an_uninterrupted_one(tmp_path):
    program = (
        "import sys, torch; torch.set_num_threads(1); sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; import test_trainer as t; from launch.training.trainer import fit\n"
        "out = Path(sys.argv[1]); fit(t.Toy(out / 'w.pt', pause=0.02), t.RECIPE, out / 't')\n"
    )
    here, root = Path(__file__).parent, Path(__file__).parents[3]
    command = [sys.executable, "-c", program, str(tmp_path), str(here), str(root)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    log = tmp_path / "t" / "log.jsonl"
    while len(read_log(log)) < 17 and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept, _ = load_checkpoint(tmp_path / "t")
    assert kept is not None and kept.metadata["step"] == 10 and len(read_log(log)) >= 17
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
        fit(Toy(tmp_path / "whole.pt"), RECIPE, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    assert losses(tmp_path / "t") == losses(tmp_path / "whole")
    again, whole = torch.load(tmp_path / "w.pt"), torch.load(tmp_path / "whole.pt")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_another_seed_gives_another_run(tmp_path):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "a")
    fit(Toy(tmp_path / "w.pt", seed=1), RECIPE, tmp_path / "b", seed=1)
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_interrupted_by_ctrl_c_it_finishes_the_step_saves_and_goes_on(tmp_path):
    class Interrupted(Toy):
        def loss(self, batch, step):
            if step == 14:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(batch, step)

    stopped = fit(Interrupted(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    assert (stopped.step, stopped.ended) == (15, "stopped") and not (tmp_path / "w.pt").exists()
    assert fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t").ended == "done"
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "whole")
    assert losses(tmp_path / "t") == losses(tmp_path / "whole")


def test_a_finished_run_says_so_and_more_steps_go_on_from_it(tmp_path, capsys):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    (tmp_path / "w.pt").unlink()
    capsys.readouterr()
    assert fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t").ended == "done"
    assert "trained already, 40 steps" in capsys.readouterr().out and (tmp_path / "w.pt").exists()
    assert fit(Toy(tmp_path / "w.pt"), replace(RECIPE, steps=50), tmp_path / "t").step == 50
    assert "steps was 40, is 50" in capsys.readouterr().out
    assert [line["step"] for line in read_log(tmp_path / "t" / "log.jsonl")] == list(range(1, 51))


def test_a_jump_of_the_rate_by_other_steps_is_reported_with_the_rates_of_the_log(tmp_path, capsys):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    fit(Toy(tmp_path / "w.pt"), replace(RECIPE, steps=60), tmp_path / "t")
    rates = {line["step"]: line["lr"] for line in read_log(tmp_path / "t" / "log.jsonl")}
    found = re.search(
        r"toy_0: the learning rate jumps from (\S+) to (\S+) at step 40: .*40 before and 60 now", capsys.readouterr().out
    )
    assert found and [float(each) for each in found.groups()] == pytest.approx([rates[40], rates[41]], rel=0.01)


@pytest.mark.parametrize("changes", [{}, {"log_every": 2}, {"schedule": "constant", "steps": 80}])
def test_a_rate_that_goes_on_as_it_was_is_not_reported(tmp_path, changes, capsys):
    constant = replace(RECIPE, schedule="constant", save_every=20)
    with pytest.raises(UserError):
        fit(Toy(tmp_path / "w.pt", poison=30), constant, tmp_path / "t")
    fit(Toy(tmp_path / "w.pt"), replace(constant, **changes), tmp_path / "t")
    assert "jumps" not in capsys.readouterr().out


def test_a_loss_that_is_no_number_is_named_with_its_step_and_good_weights_are_kept(tmp_path):
    recipe = replace(RECIPE, log_every=7)
    with pytest.raises(UserError, match=r"toy_0: spectral became nan at step 24; the checkpoint of step 20 is kept"):
        fit(Toy(tmp_path / "w.pt", poison=23), recipe, tmp_path / "t")
    kept, _ = load_checkpoint(tmp_path / "t")
    assert kept is not None and all(torch.isfinite(kept.get("weights", n)).all() for n in kept.names("weights"))
    assert not (tmp_path / "w.pt").exists()


def test_a_checkpoint_cut_in_half_is_passed_over_for_the_one_before(tmp_path, capsys):
    class Dies(Toy):
        def loss(self, batch, step):
            if step == 25:
                raise KeyboardInterrupt
            return super().loss(batch, step)

    with pytest.raises(KeyboardInterrupt):
        fit(Dies(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    last = written(tmp_path / "t")[0] / "tensors_000.safetensors"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    assert "going on from the one before it, step 10" in capsys.readouterr().out
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "whole")
    assert losses(tmp_path / "t") == losses(tmp_path / "whole")


def test_a_training_whose_checkpoints_are_all_damaged_stops_and_keeps_what_is_there(tmp_path):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    cut, empty = written(tmp_path / "t")
    (cut / "tensors_000.safetensors").write_bytes(b"")
    (empty / "manifest.json").write_text("[]")
    before = losses(tmp_path / "t")
    with pytest.raises(
        UserError, match=r"no whole checkpoint: .*step_00000040 is broken.* and .*step_00000030 is broken.*; restore"
    ):
        fit(Toy(tmp_path / "w.pt"), replace(RECIPE, steps=50), tmp_path / "t")
    assert losses(tmp_path / "t") == before and written(tmp_path / "t") == [cut, empty]


def test_a_damaged_checkpoint_of_a_later_step_does_not_drive_out_a_whole_one(tmp_path):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    (written(tmp_path / "t")[0] / "tensors_000.safetensors").write_bytes(b"")
    fit(Toy(tmp_path / "w.pt"), replace(RECIPE, steps=35), tmp_path / "t", keep=1)
    assert [path.name for path in written(tmp_path / "t")] == ["step_00000035"]


def test_a_checkpoint_of_another_seed_or_model_is_refused(tmp_path):
    fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")
    with pytest.raises(UserError, match="began with seed 0, now it is 1"):
        fit(Toy(tmp_path / "w.pt", seed=1), RECIPE, tmp_path / "t", seed=1)
    other = Toy(tmp_path / "w.pt")
    other.model.linear = nn.Linear(3, 2)
    with pytest.raises(UserError, match="another model"):
        fit(other, RECIPE, tmp_path / "t")


def test_a_time_limit_lands_the_rate_ends_the_run_and_says_where(tmp_path, capsys):
    recipe = replace(
        RECIPE, steps=100_000, max_minutes=2.0 / 60, log_every=1
    )  # lands for 0.3 s: more than a busy machine takes away
    toy, seen = Toy(tmp_path / "w.pt", pause=0.005), []
    toy.loss = lambda batch, step: seen.append(step) or Toy.loss(toy, batch, step)
    trained = fit(toy, recipe, tmp_path / "t")
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] > 80_000, "what the task begins late, it begins"
    assert trained.ended == "time" and trained.step < 100_000 and (tmp_path / "w.pt").exists()
    assert f"ended it at step {trained.step} of 100000" in capsys.readouterr().out
    rates = [line["lr"] for line in read_log(tmp_path / "t" / "log.jsonl")]
    assert rates[-1] < 0.5 * max(rates)


def test_the_schedule_follows_the_time_where_the_steps_will_not_be_done_in_it():
    assert schedule_step(10, 100, 50.0, 0.0) == 10, "no limit"
    assert schedule_step(50, 100, 50.0, 100.0) == 50 and schedule_step(70, 100, 50.0, 100.0) == 70, "they will be done"
    assert schedule_step(10, 100, 50.0, 100.0) == 50
    assert schedule_step(0, 100, 4.0, 100.0) == 0, "not in the first 5 % of the time"


def test_averaged_weights_are_what_is_saved_and_live_weights_go_on(tmp_path):
    torch.manual_seed(0)
    model, recipe = Line(), replace(RECIPE, ema=0.9)
    engine = TorchEngine(model, recipe, torch.device("cpu"))
    history = []
    for step in range(30):
        engine.step(model.loss, [torch.randn(4, 3)], step)
        history.append(model.linear.weight.detach().clone())
    live = model.linear.weight.detach().clone()
    with engine.weights() as averaged:
        inside = averaged.linear.weight.detach().clone()
    assert torch.equal(model.linear.weight, live) and not torch.equal(inside, live)
    assert (inside - torch.stack(history[-10:]).mean(0)).norm() < (inside - history[0]).norm()


def test_a_young_average_hurries_unless_as_published():
    averages = {}
    for schedule in ("constant", "published"):
        model = Line()
        engine = TorchEngine(model, replace(RECIPE, ema=0.9, schedule=schedule), torch.device("cpu"))
        engine.average = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        model.linear.weight.data.fill_(1.0)
        engine.follow()
        averages[schedule] = engine.average["linear.weight"].mean().item()
    assert averages == {"constant": pytest.approx(0.9), "published": pytest.approx(0.1)}


def test_biases_and_gains_do_not_decay_and_matrices_do():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    recipe = replace(RECIPE, weight_decay=0.5, warmup=0, schedule="constant")
    engine = TorchEngine(model, recipe, torch.device("cpu"))
    before = [p.detach().clone() for p in model.parameters()]
    engine.step(lambda _: {"loss": sum((p * 0).sum() for p in model.parameters())}, [None], 0)  # type: ignore[dict-item]
    changed = {p.ndim: not torch.equal(p, old) for p, old in zip(model.parameters(), before)}
    assert changed == {2: True, 1: False}


def test_two_processes_cannot_train_the_same_part_of_a_model(tmp_path):
    from filelock import FileLock

    (tmp_path / "t").mkdir()
    with FileLock(tmp_path / "t" / ".lock"), pytest.raises(UserError, match="another process is training toy_0"):
        fit(Toy(tmp_path / "w.pt"), RECIPE, tmp_path / "t")


def test_one_wish_to_stop_may_come_by_two_signals_but_the_same_twice_means_at_once():
    with Stop() as stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
