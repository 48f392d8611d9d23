"""The engines' parts: skipped spikes, measured noise, separate phases, batches in parts, DeepSpeed's configuration."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from data_prep.errors import UserError
from jukebox.model.recipe import PhaseRecipe, Recipe
from launch.cluster.ranks import first_host, local_rank, meeting_point, rank_and_ranks
from launch.engines.checkpoint import load_checkpoint
from launch.engines.choose import open_engine
from launch.engines.deepspeed_config import BUCKETS, CARDS, OURS, ParallelConfig, configuration, merged
from launch.engines.engine import TorchEngine, lr_at
from launch.engines.gradients import PartNorms, Spikes, noise_scale
from launch.engines.phases import Phase
from launch.training.log import read_log
from launch.training.trainer import fit

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toys import Duel, Line, SharedDuel

RECIPE = Recipe(steps=40, batch=8, lr=1e-2, warmup=5, log_every=1, save_every=10)
CPU = torch.device("cpu")


def test_an_update_is_left_out_when_its_gradient_is_far_longer_than_usual():
    spikes = Spikes(above=5.0)
    assert all(spikes.allows(1.0 + i % 2) for i in range(20)) and spikes.allows(7.0), "below 5 times the median"
    assert not spikes.allows(11.0) and spikes.skipped == 1
    assert spikes.allows(1.0)
    assert [spikes.allows(11.0) for _ in range(60)][-1], "where gradients have grown for good, updates go on"
    assert Spikes(above=0.0).allows(1e9) and all(Spikes(above=5.0).allows(10.0**i) for i in range(10)), "too young to know"


def test_a_spike_moves_no_weight_and_is_counted_the_same_after_a_restart(tmp_path):
    def data(step: int) -> torch.Tensor:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return x * (1e4 if step in (25, 33) else 1.0)

    class Task(Line):
        def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
            return data(step).chunk(world)[rank]

    recipe = replace(RECIPE, schedule="constant")
    fit(Task(), replace(recipe, steps=27), tmp_path / "t")
    fit(Task(), recipe, tmp_path / "t")
    fit(Task(), recipe, tmp_path / "whole")
    lines = read_log(tmp_path / "t" / "log.jsonl")
    assert [line["skipped"] for line in lines][24:27] == [0, 1, 1] and lines[-1]["skipped"] == 2
    assert [line["loss"] for line in lines] == [line["loss"] for line in read_log(tmp_path / "whole" / "log.jsonl")]
    model = nn.Linear(3, 1)
    engine = TorchEngine(model, RECIPE, CPU)
    for step in range(27):
        before = model.weight.detach().clone()
        engine.step(lambda x: {"loss": model(x).square().mean()}, [data(step)], step)
        assert torch.equal(before, model.weight) == (step == 25), step


def test_the_noise_scale_of_a_gradient_with_known_noise_is_found():
    """Rows' gradients are (1, 1, 1, 1) plus noise of variance 9 a component: the scale is 4 * 9 / 4 rows."""
    torch.manual_seed(0)
    part, whole, parts, rows = 0.0, 0.0, 4, 8
    p = nn.Parameter(torch.zeros(4))
    norms = PartNorms([p], parts, CPU)
    for _ in range(3000):
        for _ in range(parts):
            ((1.0 + 3.0 * torch.randn(rows // parts, 4)).mean(0) @ p / parts).backward()
        assert p.grad is not None
        part, whole = part + norms.take().item(), whole + p.grad.square().sum().item()
        p.grad = None
    assert noise_scale(part / 3000, whole / 3000, rows, parts) == pytest.approx(9.0, rel=0.1)
    assert math.isnan(noise_scale(1.0, 2.0, rows, parts)), "less noise than none is no noise scale"


def test_gradients_of_parts_are_measured_in_logged_steps_only(tmp_path, monkeypatch):
    squares = []
    monkeypatch.setattr(PartNorms, "take", lambda norms, take=PartNorms.take: squares.append(norms.total.item()) or take(norms))
    fit(Line(), replace(RECIPE, steps=12, log_every=5, save_every=8), tmp_path / "t", parallel=ParallelConfig(accumulate=4))
    lines = read_log(tmp_path / "t" / "log.jsonl")
    assert [line["step"] for line in lines] == [5, 8, 10, 12] and all("gradient_square_of_parts" in line for line in lines)
    fit(Line(), replace(RECIPE, steps=12, log_every=1), tmp_path / "every", parallel=ParallelConfig(accumulate=4))
    every = read_log(tmp_path / "every" / "log.jsonl")
    assert [line["gradient_square_of_parts"] for line in lines] == [
        every[n - 1]["gradient_square_of_parts"] for n in (5, 8, 10, 12)
    ]
    assert len(squares) == 4 + 12, "and a step that is not logged adds nothing to them"


def test_averages_of_all_weights_take_one_operation_and_are_those_of_each_alone():
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    model, names = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)), []
    engine = TorchEngine(model, replace(RECIPE, ema=0.9), CPU)
    alone = {name: value.clone() for name, value in engine.average.items()}
    for step in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        names.clear()
        with Names():
            engine.follow()
        engine.turns[""] += 1
        for name, p in model.named_parameters():
            alone[name].lerp_(p.detach(), 1.0 - min(0.9, (1 + step) / (10 + step)))
        assert names.count("_foreach_lerp_.Scalar") == 1 and not any(name.startswith("lerp") for name in names)
    assert all(torch.equal(value, alone[name]) for name, value in engine.average.items())


def test_a_batch_taken_in_parts_trains_as_the_whole_does(tmp_path):
    for parts in (1, 4):
        fit(Line(), RECIPE, tmp_path / str(parts), parallel=ParallelConfig(accumulate=parts))
    one, four = (read_log(tmp_path / name / "log.jsonl") for name in ("1", "4"))
    for name in ("loss", "gradient_norm"):
        assert [line[name] for line in one] == pytest.approx([line[name] for line in four], rel=1e-4)
    assert "noise_scale" not in one[-1] and any("noise_scale" in line for line in four)


def test_phases_learn_in_turn_each_by_its_own_optimiser_and_leave_the_others_still():
    task = Duel()
    engine = open_engine(task.model, replace(RECIPE, schedule="constant", warmup=0), CPU, ParallelConfig(), task.phases(RECIPE))
    for phase, moves in (("generator", "makes"), ("critic", "judges")):
        before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
        engine.step(lambda x, phase=phase: task.phase_loss(phase, x, 0, None), [task.batch(0, 0, 1)], 0, phase=phase)
        moved = {name.split(".")[0] for name, p in task.model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {moves}
        assert all(p.grad is None and p.requires_grad for p in task.model.parameters())
    assert engine.updates == {"generator": 1, "critic": 1}


def test_two_phases_train_log_and_go_on_exactly(tmp_path):
    recipe = replace(RECIPE, steps=300, lr=2e-2, save_every=50, schedule="constant")
    fit(Duel(), replace(recipe, steps=130), tmp_path / "t")
    fit(Duel(), recipe, tmp_path / "t")
    fit(Duel(), replace(recipe, steps=130), tmp_path / "whole")
    lines = read_log(tmp_path / "t" / "log.jsonl")
    assert {"loss", "critic_loss", "gradient_norm", "critic_gradient_norm"} <= set(lines[0])
    assert abs(lines[0]["made"]) < 1.0 and lines[-1]["made"] == pytest.approx(3.0, abs=1.0)
    whole = read_log(tmp_path / "whole" / "log.jsonl")
    assert [(a["loss"], a["critic_loss"]) for a in lines[:130]] == [(a["loss"], a["critic_loss"]) for a in whole]


DUEL = replace(
    RECIPE, steps=60, lr=2e-2, warmup=4, ema=0.9, phases={"critic": PhaseRecipe(every=3, start=0.2, lr=0.5, ema=0.0)}
)


def test_a_phase_learns_in_its_steps_with_its_own_rate_and_average(tmp_path):
    """From step 12 (a fifth of 60) on, in every third step, with a warm-up of its own: 16 turns."""
    task = SharedDuel()
    fit(task, DUEL, tmp_path / "t")
    lines = read_log(tmp_path / "t" / "log.jsonl")
    assert [line["step"] - 1 for line in lines if "critic_loss" in line] == list(range(12, 60, 3))
    rates = [line["critic_lr"] for line in lines if "critic_lr" in line]
    assert rates[:4] == pytest.approx([0.5 * lr_at(turn, DUEL, 12 + 3 * turn) for turn in range(4)], rel=1e-5)
    kept, _ = load_checkpoint(tmp_path / "t")
    assert kept is not None and set(kept.names("average")) == {"makes.weight", "makes.bias"}
    assert {name: state["turns"] for name, state in kept.metadata["engine"].items()} == {"generator": 60, "critic": 16}


def test_the_phases_of_a_step_share_one_forward_pass_of_each_part_of_a_batch(tmp_path):
    for parts, passes in ((1, 60), (2, 2 * 60)):
        task = SharedDuel()
        fit(task, DUEL, tmp_path / str(parts), parallel=ParallelConfig(accumulate=parts))
        assert task.forwards == passes
    one, two = (read_log(tmp_path / parts / "log.jsonl") for parts in ("1", "2"))
    for name in ("loss", "critic_loss"):
        values = [[line[name] for line in lines if name in line] for lines in (one, two)]
        assert values[0] == pytest.approx(values[1], rel=1e-4), name


def test_two_phases_with_r1_converge_to_their_equilibrium(tmp_path):
    task = SharedDuel()
    fit(task, replace(RECIPE, steps=400, lr=2e-2, schedule="cosine", save_every=400), tmp_path / "t")
    makes = task.model["makes"]
    assert makes.bias.item() == pytest.approx(3.0, abs=0.1) and makes.weight.norm().item() < 0.3


def test_a_run_killed_in_either_phase_goes_on_exactly(tmp_path):
    found = []
    for dies in ("", "generator", "critic"):
        task, folder = SharedDuel(), tmp_path / f"dies {dies}"

        def phase_loss(phase, batch, step, shared, dies=dies, whole=task.phase_loss):
            if step == 33 and phase == dies:
                raise MemoryError
            return whole(phase, batch, step, shared)

        if dies:
            task.phase_loss = phase_loss
            with pytest.raises(MemoryError):
                fit(task, DUEL, folder)
            task = SharedDuel()
        fit(task, DUEL, folder)
        lines = [(line["step"], line["loss"], line.get("critic_loss")) for line in read_log(folder / "log.jsonl")]
        found.append((lines, [p.detach().clone() for p in task.model.parameters()]))
    for lines, weights in found[1:]:
        assert lines == found[0][0] and all(torch.equal(a, b) for a, b in zip(weights, found[0][1], strict=True))


def test_what_is_in_no_phase_is_frozen_and_what_is_in_two_is_an_error():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "still": nn.Linear(2, 2)})
    engine = TorchEngine(model, RECIPE, CPU, [Phase.of(RECIPE, name, model[name]) for name in "ab"])
    assert not any(p.requires_grad for p in model["still"].parameters())
    engine.step(lambda x: {"loss": sum(layer(x).sum() for layer in model.values())}, [torch.ones(1, 2)], 0, phase="a")
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="a parameter is in the phases 'a' and 'whole'"):
        TorchEngine(model, RECIPE, CPU, [Phase.of(RECIPE, "a", model["a"]), Phase.of(RECIPE, "whole", model)])
    with pytest.raises(ValueError, match="the phase 'still' has no parameter to train"):
        TorchEngine(model, RECIPE, CPU, [Phase.of(RECIPE, "still", model["still"])])


def test_deepspeed_is_told_the_global_batch_and_the_stage():
    asked_to_stop = configuration(replace(RECIPE, batch=24), ParallelConfig(zero=2, offload=True, accumulate=3), world=4)
    assert asked_to_stop["train_batch_size"] == 24 and asked_to_stop["train_micro_batch_size_per_gpu"] == 2
    assert asked_to_stop["zero_optimization"] == {"stage": 2, **BUCKETS, "offload_optimizer": {"device": "cpu"}}
    assert configuration(RECIPE, ParallelConfig(), world=2)["zero_optimization"]["stage"] == 1
    on_gpus = [configuration(RECIPE, ParallelConfig(zero=stage), 2, gpu=True)["zero_optimization"] for stage in range(4)]
    assert [settings.get("overlap_comm", False) for settings in on_gpus] == [False, True, True, True]
    assert {ParallelConfig(**{k: v for k, v in card.items() if k != "recompute"}).stage for card in CARDS.values()} == {1, 2, 3}


def test_a_file_of_ones_own_adds_settings_and_may_not_contradict_the_flags(tmp_path):
    file = tmp_path / "mine.json"
    theirs = {"stage": 3, "stage3_prefetch_bucket_size": 5, "sub_group_size": 7}
    file.write_text(json.dumps({"zero_optimization": theirs, "prescale_gradients": True}))
    asked_to_stop = configuration(RECIPE, ParallelConfig(zero=3, file=str(file)), world=2)
    assert asked_to_stop["zero_optimization"] == {**BUCKETS, **theirs} and asked_to_stop["prescale_gradients"]
    with pytest.raises(UserError, match=r"sets zero_optimization.stage to 3, here it is 1 by --zero"):
        configuration(RECIPE, ParallelConfig(zero=1, file=str(file)), world=2)
    for name, flag in OURS.items():
        theirs: dict = {"x": 1} if name in ("optimizer", "scheduler", "fp16", "bf16", "torch_autocast") else 77
        for key in reversed(name.split(".")):
            theirs = {key: theirs}
        with pytest.raises(UserError, match=flag):
            merged(configuration(RECIPE, ParallelConfig(zero=1), world=2), theirs)
    file.write_text("{")
    with pytest.raises(UserError, match="is no json"):
        configuration(RECIPE, ParallelConfig(zero=1, file=str(file)), world=2)


def test_what_cannot_be_spread_is_told_in_one_line():
    for recipe, parallel, words in [
        (RECIPE, ParallelConfig(accumulate=3), "by 2 processes in 3 parts each; give --batch a multiple of 6"),
        (RECIPE, ParallelConfig(zero=0, offload=True), "give --zero 1, 2 or 3"),
        (replace(RECIPE, compile=True), ParallelConfig(zero=3), "needs whole weights, .* give --zero 0, 1 or 2"),
        (replace(RECIPE, fp16=True), ParallelConfig(zero=0), "fp16 scales its losses in ZeRO 1 to 3"),
        *[(replace(RECIPE, muon=1e-3), ParallelConfig(zero=zero), "or without --muon") for zero in range(4)],
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            configuration(recipe, parallel, world=2)
    with pytest.raises(UserError, match="there is none here; give bf16 or float32"):
        open_engine(nn.Linear(1, 1), replace(RECIPE, fp16=True), CPU, ParallelConfig())


def test_ranks_their_machines_and_their_meeting_point_are_read_from_every_starter():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n7", "MASTER_PORT": "1234"}
    open_mpi = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    mpich = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
    slurm = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-10],x"}
    slurm["SLURM_JOB_ID"] = "42"
    places = [(rank_and_ranks(e), local_rank(e), meeting_point(e)) for e in (torchrun, open_mpi, mpich, slurm, {})]
    assert places == [
        ((3, 4), 1, ("n7", 1234)), ((1, 2), 1, ("127.0.0.1", 29500)), ((1, 2), 1, ("127.0.0.1", 29500)),
        ((5, 8), 1, ("gpu07", 20042)), ((0, 1), 0, ("127.0.0.1", 29500)),
    ]  # fmt: skip
    assert first_host("n1,n2") == "n1" and first_host("n[3,5-7]") == "n3" and first_host("login") == "login"
    with pytest.raises(UserError, match="no address at which they meet: set MASTER_ADDR"):
        meeting_point({**mpich, "MPI_LOCALNRANKS": "1"})
