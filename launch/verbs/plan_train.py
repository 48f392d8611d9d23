"""`jukebox plan train`: predict memory and time of training a prior on a cluster or on this machine, with the calculation."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from data_prep.errors import UserError
from jukebox.device import choose_device
from jukebox.model.info import ModelInfo
from jukebox.model.presets import OTHERS, PRESETS, find, read_info
from jukebox.planning.training import CARDS, ROOM, Budget, Machines, Training, budget, cost_of, exchanged, largest_rows
from launch.cli.parse import read_numbers
from priors.spec import PriorConfig

GB = 1e9
CHOICES = ((1, False), (2, False), (1, True), (2, True), (3, False), (3, True))  # (ZeRO, recompute), fastest first
ROWS = 8  # largest number of rows per GPU: more rows do not make products faster
LARGEST = 1 << 30  # windows per step
STEPS = 3  # timed steps on this machine, after a warm-up step


@dataclass(frozen=True)
class TrainPlanParams:
    """The planned training and its hardware.

    level: train: the prior to train (-1: the top one)
    gpus: train: number of GPUs; several numbers joined by commas give one row each
    card: train: here (this machine, measured), or RTX3090, RTX4090, V100, A100-40, A100, H100, H200
    zero: train: ZeRO's stage, 0 to 3, or several joined by commas (empty: the fastest that fits)
    steps: train: total steps (0: the preset's, or 100,000)
    recompute: train: gradient checkpointing
    offload: train: moments on the host
    precision: train: bf16 (autocast; weights stay float32) or float32
    share: train: reached share of the GPU's rate
    network: train: GB per second that a GPU sends to others
    """

    level: int = -1
    gpus: str = "1"
    card: str = "here"
    zero: str = ""
    steps: int = 0
    recompute: bool = False
    offload: bool = False
    precision: Literal["bf16", "float32"] = "bf16"
    share: float = 0.4
    network: float = 25.0


def plan_train(model: str, params: TrainPlanParams, batch: int, threads: int) -> list[Budget]:
    """Print a table with a row for each number of GPUs and stage of ZeRO, and the calculation of the first row."""
    info = read_info(model)
    known, card, network = info.levels_with_prior, params.card, params.network
    level = max(known, default=-1) if params.level < 0 else params.level
    if level not in known:
        raise UserError(f"{model} has priors for level {', '.join(map(str, known)) or '(none)'}; got --level {level}")
    entry = info.writer(info.stream(level).name)
    assert entry
    prior = entry.config
    setup = Training(1, bf16=params.precision == "bf16", recompute=params.recompute, offload=params.offload, ema=False)
    cost_of(prior, setup)  # raises if there is none
    counts = read_numbers(params.gpus, "--gpus", "numbers from 1 to 1048576 with commas between them", 1, 1 << 20) or (1,)
    stages = read_numbers(params.zero, "--zero", "numbers from 0 to 3 with commas between them", 0, 3)
    if not (0 <= batch <= LARGEST and 0 <= params.steps and 0 < network):
        raise UserError(
            f"--batch {batch}, --steps {params.steps}, --network {network:g}; expected a batch up to {LARGEST:,}, steps from 0 and a rate "
            "above 0"
        )
    batch = batch or recipe_of(model, entry.name, "batch") or max(counts)
    steps = params.steps or recipe_of(model, entry.name, "steps") or 100_000
    rows = min(batch, ROWS)
    machines = here(info, prior, setup, rows, network, threads) if card == "here" else on_card(card, params.share, network)
    planned = []
    for count in counts:
        if batch % count:
            raise UserError(f"a batch of {batch} cannot be shared by {count} GPUs; give --batch a multiple of {count}")
        some = replace(machines, gpus=count)
        ways = [replace(setup, zero=stage) for stage in stages] or [chosen(prior, setup, some, batch // count)]
        planned += [(some, fitted(prior, way, some, batch // count)) for way in ways]
    plans = [(some, way, budget(prior, way, some)) for some, way in planned]
    print(f"{model}, level {level}: {prior.parameters().all / GB:.3f} billion weights, windows of {prior.n_ctx} codes, "
          f"{batch} windows a step, {steps:,} steps = {batch * steps * prior.n_ctx / GB:.3g} billion codes")  # fmt: skip
    print(f"{card}: {machines.memory / GB:.0f} GB, {machines.rate / 1e12:.3g} TFLOP/s of products, of which {machines.share:.0%} "
          f"is reached; {machines.network / GB:.3g} GB/s between GPUs; {params.precision}")  # fmt: skip
    print(table(plans, steps))
    print(arithmetic(prior, *plans[0]))
    return [plan for _, _, plan in plans]


def recipe_of(model: str, prior: str, what: str) -> int:
    """Return the field `what` (steps or batch) of a preset's recipe of a prior; 0 if `model` is not a preset."""
    return getattr(find(model).prior_recipes[prior], what) if model in (*PRESETS, *OTHERS.kinds()) else 0


# ---- machines


def on_card(card: str, share: float, network: float) -> Machines:
    if card not in CARDS:
        raise UserError(f"there is no --card {card!r}; choose one of here, {', '.join(CARDS)}")
    if not 0 < share <= 1:
        raise UserError(f"--share got {share:g}, expected the share of the card's rate that training reaches, such as 0.4")
    memory, rate = CARDS[card]
    return Machines(1, memory, rate, share, network * GB)


def here(info: ModelInfo, prior: PriorConfig, setup: Training, rows: int, network: float, threads: int) -> Machines:
    """Measure this machine: its rate of products, and the share of the rate that training reaches with the first layers."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    device = choose_device("auto")
    rate = product_rate(device, torch.bfloat16 if setup.bf16 else torch.float32)
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else machine_memory()
    return Machines(1, memory, rate, trained_rate(info, prior, setup, rows, device) / rate, network * GB, device)


def machine_memory() -> float:
    """Return the bytes of memory of this machine; 16 GB if unknown."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 16 * GB


def product_rate(device: str, dtype: Any) -> float:
    """Measure the operations per second of a large matrix product: the best of four."""
    import torch

    side = 8192 if device == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(_seconds(lambda: a @ a, device) for _ in range(4))


def trained_rate(info: ModelInfo, prior: PriorConfig, setup: Training, rows: int, device: str) -> float:
    """Measure the operations per second of training steps of a prior with fewer layers, on a blank batch."""
    import torch

    from jukebox.model.folder import build_prior
    from jukebox.model.recipe import Recipe
    from launch.engines.engine import TorchEngine
    from launch.training.expected import blank_batch

    if trunk := getattr(prior, "trunk", None):
        depth = min(trunk.depth, 2 * len(trunk.order), 12)
        prior = replace(prior, trunk=replace(trunk, depth=depth, recompute=setup.recompute))  # type: ignore[type-var]
    torch.manual_seed(0)
    model = build_prior(prior)
    engine = TorchEngine(model, Recipe(10, rows, 1e-4, bf16=setup.bf16), torch.device(device))
    batch = blank_batch(info, prior, rows).to(device)

    def step() -> None:
        engine.step(model.loss, [batch], 0)

    step()
    cost = cost_of(prior, setup, device)
    passes = (4 if setup.recompute else 3) * cost.trunk + 3 * cost.rest
    return rows * passes / min(_seconds(step, device) for _ in range(STEPS))


def _seconds(function: Any, device: str) -> float:
    import torch

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    began = now()
    function()
    return now() - began


# ---- what fits


def fitted(prior: PriorConfig, setup: Training, machines: Machines, share: int) -> Training:
    """Return the setup with the largest number of rows that fits a GPU, at most ROWS; 1 if none fits.

    share: rows of a batch for each GPU, which are processed in sequential parts
    """
    rows = largest_rows(prior, setup, machines, share) or 1
    rows = max(n for n in range(1, min(rows, ROWS) + 1) if share % n == 0)
    return replace(setup, rows=rows, accumulate=share // rows)


def chosen(prior: PriorConfig, setup: Training, machines: Machines, share: int) -> Training:
    """Return the first of CHOICES that fits, or the last one. A single GPU needs no stage of ZeRO."""
    ways = [replace(setup, zero=zero, recompute=setup.recompute or again) for zero, again in CHOICES]
    if machines.gpus == 1:
        ways = [replace(setup, recompute=again) for again in dict.fromkeys((setup.recompute, True))]
    return next((way for way in ways if largest_rows(prior, way, machines, share)), ways[-1])


# ---- output


def table(plans: Sequence[tuple[Machines, Training, Budget]], steps: int) -> str:
    """Format a table with one row per plan. Memory is in GB of each GPU."""
    names = list(plans[0][2].parts)
    head = ["GPUs", "ZeRO", "recompute", "rows x parts", *names, "in all", "fits", "s a step", "codes/s", "days"]
    lines = [head, ["---"] * len(head)]
    for machines, setup, plan in plans:
        cells = [str(machines.gpus), str(setup.zero), "yes" if setup.recompute else "no", f"{setup.rows} x {setup.accumulate}"]
        cells += [f"{plan.parts[name] / GB:.3g}" for name in names]
        cells += [f"{plan.bytes / GB:.3g}", "yes" if plan.bytes <= ROOM * machines.memory else "**no**", f"{plan.seconds:.3g}"]
        lines.append([*cells, f"{plan.tokens_per_second:,.0f}", f"{steps * plan.seconds / 86400:.3g}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def arithmetic(prior: PriorConfig, machines: Machines, setup: Training, plan: Budget) -> str:
    """Format the calculation of the first row, line by line."""
    parameters, gpus, cost = prior.parameters().all, machines.gpus, cost_of(prior, setup, machines.device)
    again, windows = (4 if setup.recompute else 3), setup.rows * setup.accumulate
    steps = getattr(prior, "trunk", prior).n_ctx

    def of(stage: int) -> str:
        return f" / {gpus}" if setup.zero >= stage else ""

    return "\n".join([
        f"the first row: {parameters / GB:.4g} G weights x 4 bytes{of(3)}, gradients x 4{of(2)}, two moments x 4{of(1)}; "
        f"{setup.rows} rows of {cost.activations / GB:.3g} GB; framework {plan.framework / GB:.2g} GB",
        f"a window forward: {cost.trunk / 1e12:.4g} TFLOP of the trunk (2 x its matrices x {steps} steps, and attention) + "
        f"{cost.rest / 1e12:.3g} of head and conditions",
        f"a step: {windows} windows a GPU x ({again} x trunk + 3 x rest) / ({machines.rate / 1e12:.3g} TFLOP/s x {machines.share:.0%}) "
        f"= {plan.compute:.3g} s",
        f"beside it {exchanged(prior, setup, gpus) / GB:.3g} GB are sent by each GPU / {machines.network / GB:.3g} GB/s "
        f"= {plan.exchange:.3g} s; the longer one counts",
    ])  # fmt: skip
