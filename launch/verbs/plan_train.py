"""`jukebox plan train`: what training a prior takes on a cluster or on this machine, with the arithmetic in sight."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_prep.errors import UserError
from jukebox.planning import sizes
from jukebox.planning.training import (
    CARDS,
    ROOM,
    Budget,
    Machines,
    Training,
    activation_bytes,
    budget,
    exchanged,
    largest_rows,
    operations,
)

GB = 1e9
CHOICES = ((1, False), (2, False), (1, True), (2, True), (3, False), (3, True))  # (ZeRO, recompute), the fastest first
ROWS = 8  # at once on a GPU, at most: more rows make no product faster
STEPS = 3  # that are timed on this machine, after one


def plan_train(
    model: str, level: int, gpus: str, card: str, batch: int, steps: int, zero: str, recompute: bool, offload: bool,
    precision: str, share: float, network: float, threads: int,
) -> list[Budget]:  # fmt: skip
    """Print a table of what each number of GPUs, and each stage of ZeRO that was named, takes; the arithmetic of the first row."""
    from launch.verbs.plan import read_config

    priors = {entry["level"]: entry["config"] for entry in read_config(model)["priors"]}
    level = max(priors, default=-1) if level < 0 else level
    if level not in priors:
        raise UserError(
            f"{model} has priors for level {', '.join(map(str, sorted(priors))) or '(none)'}; got --level {level}"
        )
    prior = priors[level]
    counts, stages = numbers("--gpus", gpus or "1", 1, 1 << 20), numbers("--zero", zero, 0, 3) if zero else []
    batch, steps = (
        batch or recipe_of(model, level, "batch") or max(counts),
        steps or recipe_of(model, level, "steps") or 100_000,
    )
    setup = Training(1, bf16=precision == "bf16", recompute=recompute, offload=offload, ema=False)
    machines = (
        on_card(card, share, network) if card != "here" else here(prior, setup, min(batch, ROWS), network, threads)
    )
    rows = []
    for count in counts:
        if batch % count:
            raise UserError(f"a batch of {batch} cannot be shared by {count} GPUs; give --batch a multiple of {count}")
        some = replace(machines, gpus=count)
        ways = [replace(setup, zero=stage) for stage in stages] or [chosen(prior, setup, some, batch // count)]
        rows += [(some, fitted(prior, way, some, batch // count)) for way in ways]
    plans = [(some, way, budget(prior, way, some)) for some, way in rows]
    print(f"{model}, level {level}: {sizes.prior_weights(prior).all / GB:.3f} billion weights, windows of {sizes.window(prior)} codes, "
          f"{batch} windows a step, {steps:,} steps = {batch * steps * sizes.window(prior) / GB:.3g} billion codes")  # fmt: skip
    print(f"{card}: {machines.memory / GB:.0f} GB, {machines.rate / 1e12:.3g} TFLOP/s of products, of which {machines.share:.0%} "
          f"is reached; {machines.network / GB:.3g} GB/s between GPUs; {precision}")  # fmt: skip
    print(table(plans, steps))
    print(arithmetic(prior, *plans[0]))
    return [plan for _, _, plan in plans]


def numbers(flag: str, text: str, low: int, high: int) -> list[int]:
    """The numbers of a flag such as 64,256,512; UserError where one is none or out of range."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(low <= n <= high for n in found):
        raise UserError(f"{flag} got {text!r}, expected numbers from {low} to {high} with commas between them")
    return found


def recipe_of(model: str, level: int, what: str) -> int:
    """Steps or batch of a preset's recipe; 0 where `model` is no preset."""
    from jukebox.model.presets import PRESETS

    recipes: Mapping[int, Any] = PRESETS[model].prior_recipes if model in PRESETS else {}
    return getattr(recipes[level], what) if level in recipes else 0


# ---- machines


def on_card(card: str, share: float, network: float) -> Machines:
    if card not in CARDS:
        raise UserError(f"there is no --card {card!r}; choose one of here, {', '.join(CARDS)}")
    if not 0 < share <= 1:
        raise UserError(
            f"--share got {share:g}, expected the share of the card's rate that training reaches, such as 0.4"
        )
    memory, rate = CARDS[card]
    return Machines(1, memory, rate, share, network * GB)


def here(prior: sizes.Config, setup: Training, rows: int, network: float, threads: int) -> Machines:
    """This machine: its rate of products, and the share of it that training this prior's first layers reaches."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = product_rate(device, torch.bfloat16 if setup.bf16 else torch.float32)
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else machine_memory()
    return Machines(1, memory, rate, trained_rate(prior, setup, rows, device) / rate, network * GB, device)


def machine_memory() -> float:
    """Bytes of memory of this machine; 16 GB where the system does not say."""
    import os

    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 16 * GB


def product_rate(device: str, dtype: Any) -> float:
    """Operations a second of a large matrix product, the best of some."""
    import torch

    side = 8192 if device == "cuda" else 1024
    a = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(_seconds(lambda: a @ a, device) for _ in range(4))


def trained_rate(prior: sizes.Config, setup: Training, rows: int, device: str) -> float:
    """Operations a second of training steps of this prior, cut to some layers, on codes of no meaning."""
    import torch

    from jukebox.model.presets import Recipe
    from launch.training.engine import TorchEngine
    from priors.autoregressive.model import AutoregressivePrior, PriorConfig
    from priors.conditioning.conditions import Conditions, Lyrics

    trunk = prior["trunk"]
    depth = min(trunk["depth"], 2 * len(trunk["order"]), 12)
    cut = {**prior, "trunk": {**trunk, "depth": depth, "recompute": setup.recompute}}
    config = PriorConfig.from_json(cut)
    torch.manual_seed(0)
    model = AutoregressivePrior(config)
    engine = TorchEngine(model, Recipe(10, rows, 1e-4, bf16=setup.bf16), torch.device(device))
    codes = torch.zeros(rows, config.n_ctx, dtype=torch.long, device=device)
    lyrics = (
        Lyrics(torch.ones(rows, config.n_tokens, dtype=torch.long), torch.zeros(rows, config.n_tokens))
        if config.lyrics
        else None
    )
    above = torch.zeros(rows, config.n_ctx // config.above.ratio, dtype=torch.long) if config.above else None
    cond = Conditions(lyrics=lyrics, above=above).to(device)

    def step() -> None:
        engine.step(loss, [codes], 0)

    def loss(part: torch.Tensor) -> dict[str, torch.Tensor]:
        return model.loss({config.level: part}, cond)

    step()
    through, rest = operations(cut)
    passes = (4 if setup.recompute else 3) * through + 3 * rest
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


def fitted(prior: sizes.Config, setup: Training, machines: Machines, share: int) -> Training:
    """The rows at once that fit for a GPU's `share` of a batch, the rest in parts one after another; one row where none fits."""
    rows = largest_rows(dict(prior), setup, machines, share) or 1
    rows = max(n for n in range(1, min(rows, ROWS) + 1) if share % n == 0)
    return replace(setup, rows=rows, accumulate=share // rows)


def chosen(prior: sizes.Config, setup: Training, machines: Machines, share: int) -> Training:
    """The first of CHOICES that fits (one process: no stage); the last where none does."""
    ways = [replace(setup, zero=zero, recompute=setup.recompute or again) for zero, again in CHOICES]
    if machines.gpus == 1:
        ways = [replace(setup, recompute=again) for again in dict.fromkeys((setup.recompute, True))]
    return next((way for way in ways if largest_rows(dict(prior), way, machines, share)), ways[-1])


# ---- what is printed


def table(plans: Sequence[tuple[Machines, Training, Budget]], steps: int) -> str:
    """A row a plan; memory in GB of each GPU."""
    names = list(plans[0][2].parts)
    head = ["GPUs", "ZeRO", "recompute", "rows x parts", *names, "in all", "fits", "s a step", "codes/s", "days"]
    lines = [head, ["---"] * len(head)]
    for machines, setup, plan in plans:
        cells = [
            str(machines.gpus),
            str(setup.zero),
            "yes" if setup.recompute else "no",
            f"{setup.rows} x {setup.accumulate}",
        ]
        cells += [f"{plan.parts[name] / GB:.3g}" for name in names]
        cells += [
            f"{plan.bytes / GB:.3g}",
            "yes" if plan.bytes <= ROOM * machines.memory else "**no**",
            f"{plan.seconds:.3g}",
        ]
        lines.append([*cells, f"{plan.tokens_per_second:,.0f}", f"{steps * plan.seconds / 86400:.3g}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("| " + " | ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def arithmetic(prior: sizes.Config, machines: Machines, setup: Training, plan: Budget) -> str:
    """How the first row comes about, line by line."""
    numbers, gpus = sizes.prior_weights(prior).all, machines.gpus
    through, rest = operations(prior)
    row = activation_bytes(prior, setup.bf16, setup.recompute, machines.device == "cpu")
    again, windows = (4 if setup.recompute else 3), setup.rows * setup.accumulate

    def of(stage: int) -> str:
        return f" / {gpus}" if setup.zero >= stage else ""

    return "\n".join([
        f"the first row: {numbers / GB:.4g} G weights x 4 bytes{of(3)}, gradients x 4{of(2)}, two moments x 4{of(1)}; "
        f"{setup.rows} rows of {row / GB:.3g} GB; framework {plan.framework / GB:.2g} GB",
        f"a window forward: {through / 1e12:.4g} TFLOP of the trunk (2 x its matrices x {prior['trunk']['n_ctx']} steps, and attention) + "
        f"{rest / 1e12:.3g} of head and conditions",
        f"a step: {windows} windows a GPU x ({again} x trunk + 3 x rest) / ({machines.rate / 1e12:.3g} TFLOP/s x {machines.share:.0%}) "
        f"= {plan.compute:.3g} s",
        f"beside it {exchanged(prior, setup, gpus) / GB:.3g} GB are sent by each GPU / {machines.network / GB:.3g} GB/s "
        f"= {plan.exchange:.3g} s; the longer one counts",
    ])  # fmt: skip
