"""Crash-safe checkpoints that do not depend on ranks: every engine resumes from those of any other.

    step_00000500/manifest.json                step, minutes, recipe, identity, state of the engine, sizes of its files
    step_00000500/tensors_000.safetensors      whole tensors of about 1 GB together: `weights/NAME` (buffers too),
                                               `average/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, `momentum_buffer/NAME` (Muon)

ZeRO's shards are gathered tensor by tensor and written by rank 0, so that no rank ever holds a second model; a resumed run
takes its shards again. A folder is written under a temporary name, synced and renamed; the last `keep` stay. An incomplete
checkpoint (a missing or short file) is skipped with a warning in favour of the previous one. If none is complete, an error is
raised instead of a restart. Batches and noise are pure functions of (seed, step), so no random state needs to be stored.
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
    """An opened checkpoint: `metadata` is its manifest, tensors are read one at a time."""

    path: Path
    metadata: dict[str, Any]
    places: dict[str, Callable[[], Tensor]] = field(default_factory=dict, repr=False)  # tensor -> its reader

    def names(self, kind: str) -> list[str]:
        """Names of the tensors of a kind: weights, average, exp_avg, exp_avg_sq, momentum_buffer."""
        return [name.removeprefix(f"{kind}/") for name in self.places if name.startswith(f"{kind}/")]

    def get(self, kind: str, name: str) -> Tensor | None:
        read = self.places.get(f"{kind}/{name}")
        return None if read is None else read()

    def within(self, prefix: str) -> Checkpoint:
        """The tensors of a part of the model, whose names begin with `prefix`, by their names in that part."""
        split = [(*name.split("/", 1), read) for name, read in self.places.items()]
        mine = {f"{kind}/{name.removeprefix(prefix)}": read for kind, name, read in split if name.startswith(prefix)}
        return replace(self, places=mine)

    def named_for(self, model: nn.Module) -> Checkpoint:
        """The same with the current names of tensors, for a checkpoint of an earlier version."""
        rename = getattr(getattr(model, "config", None), "state_name", str)
        split = [(*name.split("/", 1), read) for name, read in self.places.items()]
        return replace(self, places={f"{kind}/{rename(name)}": read for kind, name, read in split})


def save_checkpoint(folder: Path, metadata: dict[str, Any], tensors: Iterable[tuple[str, Tensor]], keep: int) -> None:
    """Write step `metadata["step"]` into `folder`; the last `keep` stay, and later ones are deleted.

    A checkpoint of a later step was broken and skipped; if it were counted, it would displace a complete one.
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
    """The tensors on the CPU, gathered into files of about `SHARD` bytes."""
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
    """The newest complete checkpoint (None: there is none), and a sentence about skipped ones; UserError if all are broken."""
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
    """Open a checkpoint after checking that all files are complete; ValueError names one that is not."""
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
    """The checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step_*"), reverse=True)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
