"""One rank's work for the tests of several processes: cases of training, one after another in one process group.

    torchrun --nproc_per_node 2 rank_work.py DATA MODEL OUT case case ..

A case is WHAT[-zeroSTAGE][-accumulateN][-offload][-recompute][-ema][-bf16][-counted], such as vqvae-zero2. It leaves
OUT/<case>/log.jsonl and, when it is done, OUT/<case>.weights (what its task would have saved).
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from toys import Duel  # noqa: E402

from jukebox.model.folder import ModelFolder  # noqa: E402
from jukebox.model.presets import Recipe, find  # noqa: E402
from launch.cluster.group import join, part  # noqa: E402
from launch.engines.deepspeed_config import ParallelConfig  # noqa: E402
from launch.training import loop  # noqa: E402
from launch.training.loop import fit  # noqa: E402
from launch.training.tasks import MaskedTask, PriorTask, TaskSetup, VQVAETask  # noqa: E402

RECIPE = Recipe(steps=30, batch=8, lr=3e-3, warmup=5, log_every=1, save_every=10, crop=1024)
UNSHARED = '{"zero_optimization": {"stage3_param_persistence_threshold": 0}}'  # else small weights are never shared out


def make_task(what: str, data: Path, model: Path, recipe: Recipe) -> Any:
    """A stream of the codec, a prior with lyrics, the masked prior, or a toy of two phases."""
    if what == "duel":
        return Duel()
    opened = ModelFolder.from_pretrained(model)
    if what == "vqvae":
        return VQVAETask(TaskSetup(opened, "vq.2", data, recipe, 0, "cpu"))
    sizes = len(opened.labels.artists), len(opened.labels.genres), opened.vocabulary.size
    recipe, name = replace(recipe, drop_lyrics=0.1, jitter_seconds=0.03), "masked" if what == "masked" else "prior_2"
    setup = TaskSetup(opened, name, data, recipe, 0, "cpu", find("test").priors[name].for_corpus(*sizes))
    return MaskedTask(setup) if what == "masked" else PriorTask(setup)


def run_case(case: str, data: Path, model: Path, out: Path) -> None:
    """Train the case and keep what it would have saved."""
    what, *words = case.split("-")
    numbers = {w.rstrip("0123456789"): int(re.sub(r"\D", "", w) or 0) for w in words}
    recipe = replace(RECIPE, ema=0.9 if "ema" in numbers else 0.0, recompute="recompute" in numbers)
    recipe = replace(recipe, bf16="bf" in numbers, delay_quantiser=0.2 if what == "vqvae" else 0.0)
    loop.COUNT_AFTER = 0.0 if "counted" in numbers else 1e9
    settings = out / "unshared.json"
    parallel = ParallelConfig(
        numbers.get("zero", -1), "offload" in numbers, numbers.get("accumulate", 1), "torch",
        str(settings) if numbers.get("zero") == 3 else "",
    )  # fmt: skip
    task = make_task(what, data, model, recipe)
    task.save = lambda: save_file(dict(task.model.state_dict()), out / f"{case}.weights")
    fit(task, recipe, out / case, parallel=parallel)


def main() -> None:
    torch.set_num_threads(1)
    data, model, out = (Path(word) for word in sys.argv[1:4])
    (out / "unshared.json").write_text(UNSHARED)
    join("cpu")
    for case in sys.argv[4:]:
        run_case(case, data, model, out)
    part()


if __name__ == "__main__":
    main()
