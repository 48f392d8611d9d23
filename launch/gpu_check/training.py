"""Measure training on a GPU: steps compared with matrix products, DeepSpeed and torch's engine, a killed and resumed run."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from jukebox.model.folder import ModelFolder, build_codec
from jukebox.model.presets import PRESETS
from jukebox.model.recipe import Recipe
from jukebox.params import MachineOptions, SamplingOptions
from jukebox.runs import request
from jukebox.runs.run import Run
from jukebox.song import Song
from launch.bench.bench import conditions_of
from launch.bench.train import measured
from launch.engines.engine import TorchEngine
from launch.engines.speed import counted, product_rate
from launch.gpu_check.part import Part, published
from priors.prior import Batch

MOST_ROWS, STATE = 16, 16  # most windows in a batch; bytes per weight for the weight, its gradient and two moments
KILLED_AT = 32  # the run is killed after this number of codes of level 1
RESUME = "import sys; from launch.gpu_check.training import resume; resume(sys.argv[1])"


def train(part: Part) -> None:
    product, small = product_rate(part.device, torch.bfloat16), PRESETS["test" if part.tiny else "small"].priors
    part.figure("matrix product", product / 1e12, "TFLOP/s")
    measure(part, "prior_1b_lyrics", published("prior_1b_lyrics", part.tiny), product, aim=0.4)
    for name in ("prior_2", "prior_0"):
        measure(part, f"preset small, {name}", small[name], product)


def measure(part: Part, name: str, config: Any, product: float, aim: float = math.nan) -> None:
    """Measure training steps as in `jukebox train` in bf16, including the optimiser, with as many windows as fit."""
    rows = rows_that_fit(part, config)
    prior = part.prior(config, torch.float32).train().requires_grad_(True)
    engine = TorchEngine(prior, Recipe(steps=1000, batch=rows, lr=1e-4, bf16=True), part.device)
    codes = torch.randint(config.bins, (rows, config.n_ctx), device=part.device)
    batch = Batch({prior.stream: codes}, conditions_of(prior, rows, 0).to(part.device))
    _, operations = counted(lambda: engine.step(prior.loss, [batch], 0))
    seconds, dtype = part.seconds(lambda: engine.step(prior.loss, [batch], 1)), str(engine.dtype).removeprefix("torch.")
    part.figure(f"{name}, batch {rows}", codes.numel() / seconds, "codes/s", dtype)
    share = operations / seconds / product
    part.figure(f"{name}: operations, of those of the product", share, "share", dtype, at_least=aim)


def rows_that_fit(part: Part, config: Any) -> int:
    """Return the number of windows whose activations fill three fifths of the memory besides weights, gradients and moments."""
    if part.tiny:
        return 2
    gc.collect()  # frees the tensors of the previous shape
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(part.device)[0] - STATE * config.parameters().all
    return max(1, min(MOST_ROWS, int(0.6 * free / config.training_cost(True).activations)))


def deepspeed(part: Part) -> None:
    if not find_spec("deepspeed"):
        raise ModuleNotFoundError(name="deepspeed")
    job = {"ranks": 1, "repeats": 3, "threads": 1, "seed": 0, "device": str(part.device)}
    job |= {"shape": {"width": 64, "n_ctx": 64}} if part.tiny else {}
    for stage, name in ((-1, "torch's engine"), (2, "ZeRO 2"))[part.tiny :]:
        row = measured({**job, "zero": stage})
        part.figure(f"{name}, 25 M weights", row["codes_per_second"], "codes/s", "float32")
        part.figure(f"{name}, 25 M weights: memory", row["peak_mb"][0], "MiB", "float32")


def verbs(part: Part) -> None:
    """Check that a killed and resumed run has the same codes as an uninterrupted run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, preset = Path(temporary), PRESETS["test"]
        model = ModelFolder.create(folder / "model", preset.codec)
        model.save_codec(build_codec(preset.codec))
        for name in preset.parts("autoregressive"):
            model.save_prior(name, part.prior(preset.priors[name], torch.float32, std=0.3))
        machine = MachineOptions(threads=1, device=str(part.device), compile="on" if part.device.type == "cuda" else "off")
        asked = request.sampled(model.info, [Song()], 0.25, request.RunSettings(SamplingOptions(seed=1), machine=machine))
        for name in ("killed", "whole"):
            Run.create(folder / name, asked)
        killed = kill(folder / "killed")
        part.figure("run, codes of level 1 when it was killed", killed.count(1), "codes", "float32", at_least=1)
        began = time.perf_counter()
        killed = resume(folder / "killed")
        part.figure("run, resumed", time.perf_counter() - began, "s", "float32")
        whole = resume(folder / "whole")
        differ = sum(int((killed.codes(level) != whole.codes(level)).sum()) for level in asked["levels"])
        part.figure("run, codes that differ from those without a kill", differ, "codes", "float32", at_most=0)


def resume(folder: str | Path) -> Run:
    """Resume a run."""
    from jukebox.sampling import walk  # walk needs tqdm

    run = Run.open(folder)
    run.shown = False  # write no page
    return walk.resume(run)


def kill(folder: Path) -> Run:
    """Sample a run in a process that is killed in level 1; return the partial run."""
    process = subprocess.Popen([sys.executable, "-c", RESUME, str(folder)])
    while process.poll() is None and Run.open(folder).count(1) < KILLED_AT:
        time.sleep(0.01)
    if process.poll() is not None:
        raise RuntimeError(f"sampling ended with code {process.returncode} before it was killed")
    process.kill()
    process.wait()
    return Run.open(folder)
