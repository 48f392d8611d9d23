"""Convert published checkpoints of two layouts to the files of a model folder, with one tensor in memory at a time.

published   a folder or the files vqvae.pth.tar, prior_level_0.pth.tar ..; each is a checkpoint with `model` and settings
port        a hub folder openai/jukebox-* of the transformers port: config.json and one state dict, as safetensors or files of
            torch.save
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.errors import UserError
from jukebox.importers.hf_port import codec_settings, prior_settings, published_codec_name, published_prior_name
from jukebox.importers.prior_keys import prior_key
from jukebox.importers.streamed import Lazy, write_streamed
from jukebox.importers.torchfile import PublishedCheckpoint, open_checkpoint, stored_tensors
from jukebox.model.folder import is_norm
from jukebox.model.info import open_weights
from jukebox.model.settings import prior_config
from priors.autoregressive.config import AutoregressiveConfig
from priors.autoregressive.model import AutoregressivePrior

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Weights = dict[str, Lazy]  # by name


@dataclass
class FoundWeights:
    """Weights and settings of a checkpoint, under published names. Keys of priors are levels, 0 is the finest."""

    codec: Weights | None = None
    codec_hps: dict[str, Any] | None = None
    priors: dict[int, Weights] = field(default_factory=dict)
    prior_hps: dict[int, dict[str, Any]] = field(default_factory=dict)
    where: dict[int, Path] = field(default_factory=dict)  # the file or folder of each prior


def is_plain(value: Any) -> bool:
    """Whether a setting is None, a number, a text, or a list of these. Other settings are ignored."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _settings(checkpoint: PublishedCheckpoint) -> dict[str, Any]:
    hps = checkpoint.content.get("hps")
    return {n: v for n, v in hps.items() if is_plain(v)} if isinstance(hps, Mapping) else {}


def lazy_file(path: Path, entry: str = "model") -> tuple[Weights, PublishedCheckpoint]:
    """Return the unread weights under `entry` of a file of torch.save, and the opened file."""
    checkpoint = open_checkpoint(path)
    stored = stored_tensors(checkpoint, entry)
    return {n: Lazy(s.shape, lambda s=s: checkpoint.tensor(s)) for n, s in stored.items()}, checkpoint


def lazy_safetensors(path: Path) -> Weights:
    """Return the unread weights of a safetensors file."""

    def read(name: str) -> Tensor:
        with open_weights(path) as file:  # opened for each tensor, so that earlier tensors are not kept in memory
            return file.get_tensor(name).clone()

    with open_weights(path) as file:
        names = file.keys()
        return {n: Lazy(tuple(file.get_slice(n).get_shape()), lambda n=n: read(n)) for n in names}


def open_published(files: Sequence[Path]) -> FoundWeights:
    """Open checkpoints in the published layout; UserError for a file whose name has neither vqvae nor prior_level_N."""
    source = FoundWeights()
    for path in files:
        weights, checkpoint = lazy_file(path)
        if "vqvae" in path.name:
            source.codec, source.codec_hps = weights, _settings(checkpoint)
        elif found := re.search(r"prior_level_(\d)", path.name):
            level = int(found[1])
            source.priors[level], source.prior_hps[level] = weights, _settings(checkpoint)
            source.where[level] = path
        else:
            raise UserError(f"{path.name}: the part is unknown; expected names such as vqvae.pth.tar and prior_level_2.pth.tar")
    return source


def open_port(folder: Path) -> FoundWeights:
    """Open a hub folder of the port and return all its shards as one checkpoint, with tensors under published names.

    Raise UserError if weights are missing or unknown.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shards = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not shards:
        raise UserError(f"{folder} has a config.json and no weights; expected model.safetensors or pytorch_model.bin")
    source = FoundWeights(codec={}, codec_hps=codec_settings(config), prior_hps=prior_settings(config))
    top = max(source.prior_hps, default=2)
    for shard in shards:
        weights = lazy_safetensors(shard) if shard.suffix == ".safetensors" else lazy_file(shard, "")[0]
        for name, tensor in weights.items():
            place, _, rest = name.partition(".")
            if place == "vqvae":
                assert source.codec is not None and source.codec_hps is not None
                source.codec[published_codec_name(rest, source.codec_hps["downs_t"])] = tensor
            else:
                number, _, rest = rest.partition(".")
                if place != "priors" or not number.isdecimal():
                    raise UserError(f"{shard}: {name} belongs neither to a codec nor to a prior; expected a hub folder")
                level = top - int(number)
                source.priors.setdefault(level, {})[published_prior_name(rest)] = tensor
                source.where[level] = folder
    if missing := _missing_shards(folder, shards):
        raise UserError(f"{folder}: {', '.join(missing)} is missing; download or copy the folder again")
    return source


def _missing_shards(folder: Path, shards: Sequence[Path]) -> list[str]:
    index = next(iter(folder.glob("*.index.json")), None)
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index else ()
    return sorted(set(named) - {shard.name for shard in shards}) if shards[0].suffix in str(index) else []


def fit(weights: Weights, config: AutoregressiveConfig) -> Weights:
    """Rename published tensors to our names and check names and shapes; ValueError names the first wrong tensor."""
    with torch.device("meta"):
        expected = AutoregressivePrior(config).state_dict()
    ours = {prior_key(name): tensor for name, tensor in weights.items()}
    if config.tied and "x_out.weight" in ours:  # one table under two names; the port may have only one of them
        out = ours.pop("x_out.weight")
        if "x_emb.weight" not in ours:
            ours["x_emb.weight"] = out
        elif out.shape != ours["x_emb.weight"].shape or not torch.equal(out.read(), ours["x_emb.weight"].read()):
            raise ValueError("the output table differs from the embedding's; this file is of a model with a table each")
    for name, like in expected.items():
        if name not in ours:
            raise ValueError(f"it has no {name}")
        if ours[name].shape != tuple(like.shape):
            raise ValueError(f"{name} has shape {ours[name].shape}; expected {tuple(like.shape)}")
    if more := sorted(set(ours) - set(expected)):
        raise ValueError(f"it has {more[0]} beside what is expected")
    return ours


def fitting(
    weights: Weights, candidates: Sequence[Mapping[str, Any]], codec_hps: Mapping[str, Any]
) -> tuple[Weights, AutoregressiveConfig]:
    """Return the renamed weights and the configuration of the first candidate settings that match the weights.

    ValueError with the last error if no candidate matches.
    """
    wrong: Exception = ValueError("no settings")
    for hps in candidates:
        try:
            config = prior_config(hps, codec_hps)
            return fit(weights, config), config
        except (ValueError, KeyError, TypeError, IndexError) as error:
            wrong = error
    raise ValueError(str(wrong)) from wrong


def write_prior(path: Path, weights: Weights, dtype: torch.dtype, done: Callable[[int], object] | None = None) -> None:
    """Write a prior's file in `dtype`. Norms stay in float32, the dtype of their computation."""
    write_streamed(path, weights, lambda name: torch.float32 if is_norm(name) else dtype, done)
