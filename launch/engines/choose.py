"""Choice of the engine of a training: `TorchEngine` for one process, `DeepSpeedEngine` for many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe
from launch.cluster.group import who
from launch.engines.checkpoint import Checkpoint
from launch.engines.deepspeed_config import ParallelConfig
from launch.engines.engine import Engine, TorchEngine
from launch.engines.phases import Phase
from launch.engines.weights import fill_model


def open_engine(
    model: nn.Module, recipe: Recipe, device: torch.device, parallel: ParallelConfig, phases: Sequence[Phase] = (),
    checkpoint: Checkpoint | None = None,
) -> Engine:  # fmt: skip
    """Create the engine of a training, and restore it from `checkpoint` if given.

    With several ranks or an option of DeepSpeed, the engine is a `DeepSpeedEngine`, else a `TorchEngine`.
    """
    if recipe.fp16 and device.type != "cuda":
        raise UserError("--precision fp16 is for GPUs without bf16, and there is none here; give bf16 or float32")
    if checkpoint is not None:
        checkpoint = checkpoint.named_for(model)
        fill_model(model, checkpoint, assign=parallel.stage == 3)  # in ZeRO 3 tensors stay memory-mapped until the sharding
    if who()[1] > 1 or parallel.needs_deepspeed:
        from launch.engines.zero import DeepSpeedEngine

        engine: Engine = DeepSpeedEngine(model, recipe, device, parallel, phases)
    else:
        engine = TorchEngine(model, recipe, device, phases, parallel.accumulate)
    if checkpoint is not None:
        engine.restore(checkpoint)
    return engine
