"""Estimate of the training time on this machine. Before training begins, steps of each part are timed on blank or random data.

To keep the measurement short, a timed step has few batch rows, and the trunk of a prior has the layers of one period only. The
time of the full step follows from `PriorConfig.training_cost`. Optimiser and precision are those of the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jukebox.model.folder import build_codec, build_prior
from jukebox.model.info import ModelInfo
from jukebox.planning.sampling import spell
from launch.cluster.group import alone, largest, print_once, who
from launch.cluster.heartbeat import beat
from launch.engines.engine import TorchEngine
from priors.conditioning.conditions import Conditions, Lyrics
from priors.prior import Batch
from priors.spec import PriorConfig

if TYPE_CHECKING:
    from jukebox.model.recipe import Recipe
    from launch.training.tasks.task import TaskSetup

ENOUGH = 0.5  # seconds: in longer steps the time is proportional to the number of batch rows
MOST = 5.0  # seconds: after a step this slow no further step is timed
LONG = 12 * 3600.0


def blank_batch(info: ModelInfo, prior: PriorConfig, rows: int) -> Batch:
    """Create a batch of zeros in all streams that a prior writes and reads, with lyrics if the prior has lyrics."""

    def zeros(name: str, frames: int) -> torch.Tensor:
        stream = info.spec.stream(name)
        return torch.zeros(rows, frames, *stream.frame_shape, dtype=torch.long if stream.bins else torch.float32)

    above = [zeros(name, prior.n_ctx // prior.ratio) for name in prior.spec.reads if name not in prior.spec.writes]
    lyrics = Lyrics(torch.ones(rows, prior.n_tokens, dtype=torch.long), torch.zeros(rows, prior.n_tokens))
    cond = Conditions(lyrics=lyrics if prior.lyrics else None, above=above[0] if above else None)
    return Batch({name: zeros(name, prior.frames(name)) for name in prior.spec.writes}, cond)


def step_seconds(setup: TaskSetup, enough: float = ENOUGH, most: float = MOST) -> float:
    """Measure the seconds of a training step of a part on this device. The batch of the recipe is divided between all ranks.

    The number of rows is increased until a step takes `enough` seconds. After a step of `most` seconds no further step is
    timed.
    """
    recipe, info, device = setup.recipe, setup.model.info, torch.device(setup.device)
    share, rows, times = max(1, recipe.batch // who()[1]), 1, 1.0
    if setup.config is None:
        config = info.codec_of(setup.part).config
        model, make = build_codec(config, [setup.part]), partial(_noise, config.spec.channels, recipe.crop)
        if alone():  # with several ranks, all ranks would have to initialise codebooks together
            model.initialise(make(1), torch.Generator())
        loss = partial(_codec_loss, model)
    else:
        cut, times = _cut(setup.config, recipe)
        model, make = build_prior(cut), partial(blank_batch, info, cut)
        loss = model.loss
    engine = TorchEngine(model.train(), recipe, device)
    # warm-up: torch selects kernels and starts threads
    took = _seconds(partial(engine.step, loss, [make(rows).to(device)], 0), device)
    while took < most:
        step = partial(engine.step, loss, [make(rows).to(device)], 0)
        took = min(took, _seconds(step, device)) if rows == 1 else _seconds(step, device)
        took = min(took, _seconds(step, device)) if took < enough else took
        if rows >= share or took >= enough:
            break
        rows = min(share, rows * (2 if took > ENOUGH / 4 else 4))
    return took * times * share / rows


def _noise(channels: int, length: int, rows: int) -> torch.Tensor:
    return torch.randn(rows, channels, length) / 9


def _codec_loss(codec: Any, audio: torch.Tensor) -> dict[str, torch.Tensor]:
    return codec.loss(audio, generator=torch.Generator(), quantise=alone())


def _cut(config: PriorConfig, recipe: Recipe) -> tuple[PriorConfig, float]:
    """Return a smaller prior, with one period of the layers of the trunk, and (full step time / its step time)."""
    trunk: Any = getattr(config, "trunk", None)
    cut = replace(config, trunk=replace(trunk, depth=len(trunk.order))) if trunk else config  # type: ignore[call-arg]
    costs = [each.training_cost(recipe.bf16, recipe.recompute, True) for each in (config, cut)]
    sums = [cost.trunk + cost.rest for cost in costs if cost]
    return (cut, sums[0] / sums[1]) if len(sums) == 2 else (config, 1.0)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def steps_done(training: Path, setup: TaskSetup) -> int:
    """Return the step of the newest checkpoint of a part; 0 without checkpoints."""
    stream = None if setup.config else setup.model.spec.stream(setup.part)
    kind = setup.model.info.codec_of(setup.part).config.kind if stream else ""
    folders = [kind, f"{kind}_{stream.seed_key}"] if stream else [setup.part]
    found = (path for name in folders for path in (training / name).glob("step_" + "[0-9]" * 8))
    return max((int(path.name[5:]) for path in found), default=0)


def expected_seconds(setup: TaskSetup, steps: int) -> float:
    """Estimate the seconds of `steps` steps of a part, at most its time limit; nan if the measurement fails."""
    beat("measuring a step")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            each = step_seconds(setup)
    except Exception:  # a failed estimate must not end the training, which reports its own errors
        each = math.nan
    (each,) = largest(each)
    return min(steps * each, 60 * setup.recipe.max_minutes or math.inf) if each == each else math.nan


def print_expected(setups: Sequence[TaskSetup], training: Path, preset: str) -> None:
    """Print the expected time of the remaining steps of the parts, and advice if the time is long."""
    left = [(setup, setup.recipe.steps - steps_done(training, setup)) for setup in setups]
    found = [(f"{s.part} {steps:,} steps", expected_seconds(s, steps)) for s, steps in left if steps > 0]
    known = [(name, seconds) for name, seconds in found if seconds == seconds]
    if not known:
        return
    total = sum(seconds for _, seconds in known)
    listed = "; ".join(f"{name}, {spell(seconds)}" for name, seconds in known)
    print_once(f"expected on this machine: {listed}" + (f"; in all {spell(total)}" if len(known) > 1 else ""))
    if total > LONG:
        smaller = "" if preset == "demo" else "; --preset demo with another --out is a small model of minutes"
        print_once(
            f"that is long: --max_minutes 60 ends each part after an hour, its schedule complete; a GPU is faster{smaller}"
        )
