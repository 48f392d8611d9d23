"""One rank's work for the tests of several processes: cases of training in sequence in one process group.

    torchrun --nproc_per_node 2 rank_work.py DATA MODEL OUT case case ..

A case is WHAT[-zeroSTAGE][-accumulateN][-offload][-recompute][-ema][-bf16][-counted], such as vqvae-zero2. It leaves
OUT/<case>/log.jsonl, OUT/<case>.weights (what its task would have saved) and, when a rank is done, OUT/<case>.rank_<number>.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from toys import Duel, SharedDuel  # noqa: E402

from jukebox.model.folder import ModelFolder  # noqa: E402
from jukebox.model.presets import find  # noqa: E402
from jukebox.model.recipe import PhaseRecipe, Recipe  # noqa: E402
from launch.cluster.group import join, part, who  # noqa: E402
from launch.engines import weights  # noqa: E402
from launch.engines.checkpoint import load_checkpoint  # noqa: E402
from launch.engines.deepspeed_config import ParallelConfig  # noqa: E402
from launch.training import trainer  # noqa: E402
from launch.training.tasks.codec import SpectralTask, VQVAETask  # noqa: E402
from launch.training.tasks.decoder import DecoderTask  # noqa: E402
from launch.training.tasks.prior import PriorTask  # noqa: E402
from launch.training.tasks.task import TaskSetup  # noqa: E402
from launch.training.trainer import Trainer, fit  # noqa: E402

RECIPE = Recipe(steps=30, batch=8, lr=3e-3, warmup=5, log_every=1, save_every=10, crop=1024, weight_decay=0.5)
UNSHARED = '{"zero_optimization": {"stage3_param_persistence_threshold": 0}}'  # else small weights are never shared out


def make_task(what: str, data: Path, model: Path, recipe: Recipe, hollow: bool = False) -> Any:
    """A stream of the codec, a prior with lyrics, the masked prior, or a toy of two phases."""
    if what in ("duel", "shared"):
        return {"duel": Duel, "shared": SharedDuel}[what]()
    opened = ModelFolder.from_pretrained(model)
    if what == "decoder":
        phases = find("test_spectral").more_recipes["decoder"]["tokens"].phases
        return DecoderTask(TaskSetup(opened, "tokens", data, replace(recipe, crop=4096, phases=phases), 0, "cpu"))
    if what == "spectral":
        return SpectralTask(TaskSetup(opened, "tokens", data, replace(recipe, crop=4096), 0, "cpu"))
    if what == "vqvae":
        return VQVAETask(TaskSetup(opened, "vq.2", data, recipe, 0, "cpu"))
    sizes = len(opened.labels.artists), len(opened.labels.genres), opened.vocabulary.size
    recipe, name = replace(recipe, drop_lyrics=0.1, jitter_seconds=0.03), "masked" if what == "masked" else "prior_2"
    setup = TaskSetup(opened, name, data, recipe, 0, "cpu", find("test").priors[name].for_corpus(*sizes), hollow=hollow)
    return PriorTask(setup)


def run_case(case: str, data: Path, model: Path, out: Path) -> None:
    """Train the case and keep what it would have saved."""
    what, *words = case.split("-")
    numbers = {w.rstrip("0123456789"): int(re.sub(r"\D", "", w) or 0) for w in words}
    recipe = replace(RECIPE, ema=0.9 if "ema" in numbers else 0.0, recompute="recompute" in numbers)
    recipe = replace(recipe, bf16="bf" in numbers, delay_quantiser=0.2 if what == "vqvae" else 0.0)
    if what == "shared":
        recipe = replace(recipe, phases={"critic": PhaseRecipe(every=2, start=0.1, ema=0.0)})
    trainer.COUNT_AFTER = 0.0 if "counted" in numbers else 1e9
    settings = out / "unshared.json"
    parallel = ParallelConfig(
        numbers.get("zero", -1), "offload" in numbers, numbers.get("accumulate", 1), "torch",
        str(settings) if numbers.get("zero") == 3 else "",
    )  # fmt: skip
    hollow = what == "prior" and parallel.stage == 3 and who()[0] > 0
    task = make_task(what, data, model, recipe, hollow)
    assert not hollow or all(p.is_meta for p in task.model.parameters())
    task.save = lambda model: save_file(dict(model.state_dict()), out / f"{case}.weights")
    with watched() as (live, gathered):
        fit(task, recipe, out / case, parallel=parallel)
    assert set(gathered) <= {1}, "tensors are gathered one at a time, for the model file too"
    if hollow:
        assert live and max(live) <= max(p.numel() for p in make_task(what, data, model, recipe).model.parameters())
    if parallel.stage == 3:
        again = make_task(what, data, model, recipe, hollow)
        check_state(Trainer(again, recipe, out / case, 0, torch.device("cpu"), parallel, 2), out / case)
    (out / f"{case}.rank_{who()[0]}").touch()


@contextmanager
def watched() -> Iterator[tuple[list[int], list[int]]]:
    """How many numbers a model holds whenever one of its parameters is whole while ZeRO 3 cuts it up, and how many it gathers at once."""
    import deepspeed

    live, gathered, gather = list[int](), list[int](), deepspeed.zero.GatheredParameters

    def whole_parameters(model: torch.nn.Module, device: torch.device) -> Iterator[torch.nn.Parameter]:
        for p in whole(model, device):
            live.append(sum(q.numel() for q in model.parameters() if not q.is_meta))
            yield p

    def count(parameters: list[torch.nn.Parameter], **more: Any) -> Any:
        gathered.append(len(parameters))
        return gather(parameters, **more)

    whole = weights.whole_parameters
    with patch.object(weights, "whole_parameters", whole_parameters), patch.object(deepspeed.zero, "GatheredParameters", count):
        yield live, gathered


def check_state(resumed: Trainer, folder: Path) -> None:
    """All tensors of an engine that goes on from a checkpoint are those of the checkpoint, bit for bit."""
    checkpoint, _ = load_checkpoint(folder)
    tensors = dict(resumed.engine.tensors())
    assert checkpoint is not None and tensors.keys() == checkpoint.places.keys()
    assert all(torch.equal(value, checkpoint.places[name]()) for name, value in tensors.items())
    assert resumed.engine.metadata() == checkpoint.metadata["engine"]


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
