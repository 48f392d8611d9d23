"""Crash-safe checkpoints that do not depend on ranks: each engine can resume from the checkpoints of every other engine.

    step_00000500/manifest.json                step, minutes, recipe, identity, state of the engine, sizes of its files
    step_00000500/tensors_000.safetensors      whole tensors of about 1 GB together: `weights/NAME` (buffers too),
                                               `average/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `momentum_buffer/NAME` (Muon)

Rank 0 gathers the shards of ZeRO tensor by tensor and writes the tensors. So no rank holds a second model. A resumed run shards
the tensors again. A folder is written under a temporary name, synced and renamed. The last `keep` checkpoints are kept. If a
checkpoint is incomplete (a missing or short file), it is skipped with a warning, and the previous one is used. If no checkpoint
is complete, an error is raised instead of a restart. Batches and noise are pure functions of (seed, step), so checkpoints need
no random state.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep.errors import UserError
from data_prep.files import write_json

MANIFEST, SHARD = "manifest.json", 2**30  # bytes


@dataclass
class Checkpoint:
    """An opened checkpoint. `metadata` is the manifest. Tensors are read one at a time."""

    path: Path
    metadata: dict[str, Any]
    places: dict[str, Callable[[], Tensor]] = field(default_factory=dict, repr=False)  # name -> function that reads the tensor

    def names(self, kind: str) -> list[str]:
        """Return the names of the tensors of `kind`: weights, average, exp_avg, exp_avg_sq or momentum_buffer."""
        return [name.removeprefix(f"{kind}/") for name in self.places if name.startswith(f"{kind}/")]

    def get(self, kind: str, name: str) -> Tensor | None:
        read = self.places.get(f"{kind}/{name}")
        return None if read is None else read()

    def within(self, prefix: str) -> Checkpoint:
        """Return the checkpoint of a part of the model: tensors with names that begin with `prefix`, without the prefix."""
        split = [(*name.split("/", 1), read) for name, read in self.places.items()]
        mine = {f"{kind}/{name.removeprefix(prefix)}": read for kind, name, read in split if name.startswith(prefix)}
        return replace(self, places=mine)

    def named_for(self, model: nn.Module) -> Checkpoint:
        """Return the checkpoint with the current tensor names of `model`: earlier versions used other names."""
        rename = getattr(getattr(model, "config", None), "state_name", str)
        split = [(*name.split("/", 1), read) for name, read in self.places.items()]
        return replace(self, places={f"{kind}/{rename(name)}": read for kind, name, read in split})


def save_checkpoint(folder: Path, metadata: dict[str, Any], tensors: Iterable[tuple[str, Tensor]], keep: int) -> None:
    """Write the checkpoint of step `metadata["step"]` into `folder`, and keep only the last `keep` checkpoints.

    Checkpoints of later steps are deleted too. Later checkpoints are broken, because the run resumed from an earlier one.
    """
    path = folder / f"step_{metadata['step']:08d}"
    fresh = folder / "step.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    files = {}
    for number, shard in enumerate(shards(tensors)):
        file = fresh / f"tensors_{number:03d}.safetensors"
        save_file(shard, file)
        files[file.name] = file.stat().st_size
        _sync(file)
    write_json(fresh / MANIFEST, {**metadata, "files": files})
    _sync(fresh / MANIFEST)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(fresh, path)
    there = written(folder)
    for old in there[: there.index(path)] + there[there.index(path) + keep :]:
        shutil.rmtree(old)


def shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Move tensors to the CPU, and yield them in groups of about `SHARD` bytes, one group per file."""
    shard, size = {}, 0
    for name, tensor in tensors:
        shard[name] = tensor.detach().cpu().contiguous()
        size += shard[name].nbytes
        if size >= SHARD:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def load_checkpoint(folder: Path) -> tuple[Checkpoint | None, str]:
    """Return the newest complete checkpoint (None: there are no checkpoints), and a message about skipped checkpoints.

    Raises UserError if all checkpoints are broken.
    """
    broken = []
    for path in written(folder):
        try:
            found = open_checkpoint(path)
        except (OSError, ValueError, SafetensorError) as error:
            broken.append(f"{path} is broken ({error})")
            continue
        warning = f"{' and '.join(broken)}; going on from the one before it, step {found.metadata['step']}" if broken else ""
        return found, warning
    if broken:
        raise UserError(
            f"{folder} has no whole checkpoint: {' and '.join(broken)}; restore one from a copy, or delete {folder} to start from step 0"
        )
    return None, ""


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint after checking that all files are complete; ValueError names an incomplete file."""
    metadata = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(metadata, dict) or not {"step", "minutes", "files", "recipe", "identity", "engine"} <= set(metadata):
        raise ValueError(f"{MANIFEST} is not that of a checkpoint")
    places = {}
    for name, size in metadata["files"].items():
        there = (path / name).stat().st_size
        if there != size:
            raise ValueError(f"{name} has {there} of its {size} bytes")
        opened = safe_open(path / name, "pt")
        places |= {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118
    return Checkpoint(path, metadata, places)


def written(folder: Path) -> list[Path]:
    """Return the paths of the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step_*"), reverse=True)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
