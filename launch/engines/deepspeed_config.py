"""Configuration of DeepSpeed: distribution of a training over ranks and memory.

ZeRO (Rajbhandari et al. 2020) shards tensors over the ranks: the moments of the optimiser (stage 1), also the gradients (stage
2), also the weights (stage 3). In all stages the losses equal those of a single process. `--card` chooses settings for the
memory of a GPU. The user can add settings in a file. These settings must not contradict the flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from jukebox.model.recipe import Recipe

# memory of a GPU in GB -> settings: with less memory, more tensors are sharded, recomputed or stored on the host
CARDS: dict[int, dict[str, Any]] = {
    8: {"zero": 3, "offload": True, "recompute": True},
    16: {"zero": 3, "offload": True, "recompute": True},
    24: {"zero": 3, "offload": False, "recompute": True},
    40: {"zero": 2, "offload": False, "recompute": True},
    80: {"zero": 1, "offload": False, "recompute": False},
}
# sizes of communication buffers: the defaults of DeepSpeed are ten times as large and take gigabytes on every GPU
BUCKETS = {
    "reduce_bucket_size": 50_000_000,
    "allgather_bucket_size": 50_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 100_000_000,
}
# keys of DeepSpeed that `configuration` sets -> the flag for each key
OURS = {
    "train_batch_size": "--batch",
    "train_micro_batch_size_per_gpu": "--accumulate",
    "gradient_accumulation_steps": "--accumulate",
    "gradient_clipping": "the recipe's clip",
    "optimizer": "--adam",
    "scheduler": "--schedule",
    "fp16": "--precision",
    "bf16": "--precision",
    "torch_autocast": "--precision",
    "zero_optimization.stage": "--zero",
    "zero_optimization.offload_optimizer.device": "--offload",
}


@dataclass(frozen=True)
class ParallelConfig:
    """Settings of a distributed training.

    `zero` is the ZeRO stage (-1: stage 1 if there are several ranks). `offload` keeps the optimiser on the host. `accumulate`
    is the number of sequential parts of each rank's batch. `file` has additional DeepSpeed settings.
    """

    zero: int = -1
    offload: bool = False
    accumulate: int = 1
    adam: str = "torch"  # or "deepspeed": kernels that are compiled at first use
    file: str = ""

    @property
    def needs_deepspeed(self) -> bool:
        """Whether even a single process needs DeepSpeed for these settings."""
        return self.zero >= 0 or self.offload or self.adam != "torch" or bool(self.file)

    @property
    def stage(self) -> int:
        return self.zero if self.zero >= 0 else 1


def check_shares(batch: int, world: int, accumulate: int) -> None:
    """Raise UserError unless all parts of a batch on all ranks have the same number of rows."""
    if batch % (world * accumulate):
        raise UserError(
            f"a batch of {batch} cannot be shared equally by {world} processes in {accumulate} parts each; "
            f"give --batch a multiple of {world * accumulate}"
        )


def configuration(recipe: Recipe, parallel: ParallelConfig, world: int, gpu: bool = False) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`; raise UserError for settings that contradict each other."""
    check_shares(recipe.batch, world, parallel.accumulate)
    if recipe.muon:
        raise UserError(
            "--muon needs whole matrices, and DeepSpeed (several ranks, --zero, --offload, --adam, --deepspeed) cuts them up; "
            "train in one process without these, or without --muon"
        )
    if recipe.compile and parallel.stage == 3:
        raise UserError("--compile needs whole weights, and ZeRO 3 gathers them inside of each block; give --zero 0, 1 or 2")
    if recipe.fp16 and parallel.stage == 0:
        raise UserError("--precision fp16 scales its losses in ZeRO 1 to 3; give one of them, or bf16")
    ours: dict[str, Any] = {
        "train_batch_size": recipe.batch,
        "train_micro_batch_size_per_gpu": recipe.batch // (world * parallel.accumulate),
        "gradient_accumulation_steps": parallel.accumulate,
        "gradient_clipping": recipe.clip if parallel.stage else 0.0,  # in stage 0, zero.py clips
        "zero_optimization": {"stage": parallel.stage, **BUCKETS},
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW is as fast on a CPU, and needs no compiler
        "steps_per_print": None,
    }
    if gpu and parallel.stage:  # reduce gradients during the backward pass, which needs the streams of a GPU
        ours["zero_optimization"]["overlap_comm"] = True
    if parallel.offload:
        if not parallel.stage:
            raise UserError("--offload keeps the optimiser's shares on the host, and ZeRO 0 has none; give --zero 1, 2 or 3")
        ours["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if recipe.fp16:
        ours["torch_autocast"] = {"enabled": True, "dtype": "float16", "lower_precision_safe_modules": []}
    return merged(ours, read_file(parallel.file)) if parallel.file else ours


def read_file(file: str) -> dict[str, Any]:
    """Read the DeepSpeed settings of the user; UserError unless the file is a JSON object."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is no json ({error}); expected DeepSpeed's settings") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no json object; expected DeepSpeed's settings by their names")
    return found


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Merge the settings `theirs` of the user into `ours`. `above` is the prefix of the keys in messages.

    Raises UserError if `theirs` sets a key of `OURS` to another value.
    """
    whole = dict(ours)
    for key, value in theirs.items():
        name = above + key
        if isinstance(value, Mapping) and isinstance(ours.get(key, {}), Mapping) and name not in OURS:
            whole[key] = merged(ours.get(key, {}), value, f"{name}.")
        elif name in OURS and ours.get(key) != value:
            raise UserError(
                f"--deepspeed sets {name} to {value!r}, here it is {ours.get(key)!r} by {OURS[name]}; leave it out of the file"
            )
        else:
            whole[key] = value
    return whole
