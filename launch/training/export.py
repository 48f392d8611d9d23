"""`jukebox export`: write the weights of a checkpoint into a model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_prep.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from launch.engines.checkpoint import Checkpoint

M = TypeVar("M", bound="nn.Module")


def export(training: str, *, out: str = "", step: int = 0) -> None:
    """Write the weights of a checkpoint into a model folder, during a training or from another machine.

    If the training keeps averaged weights, the averaged weights are written, as at the end of the training.

    training: the folder of a training, such as MODEL/training/prior_2
    out: the model folder to write into, created as a copy of MODEL if missing; empty: MODEL itself
    step: the checkpoint of this step; 0: the last complete one
    """
    folder = Path(training)
    checkpoint = chosen(folder, step)
    home = folder.resolve().parents[1]
    target = Path(out) if out else home
    if not (target / "config.json").is_file():
        copy_model(home, target)
    settings = {
        name.removeprefix("setting "): json.loads(value)
        for name, value in checkpoint.metadata["identity"].items()
        if name.startswith("setting ")
    }
    write(checkpoint, settings, target)
    print(f"{checkpoint.metadata['name']}: the weights of step {checkpoint.metadata['step']} are in {target}")


def chosen(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of `step`, or for step 0 the last complete checkpoint; UserError if there is none."""
    from launch.engines.checkpoint import load_checkpoint, open_checkpoint, written

    if step:
        wanted = folder / f"step_{step:08d}"
        if wanted not in written(folder):
            there = ", ".join(str(int(path.name[5:])) for path in written(folder)) or "none"
            raise UserError(f"{folder} has no checkpoint of step {step}; there are: {there}")
        return open_checkpoint(wanted)
    found, complaint = load_checkpoint(folder)
    if complaint:
        print(complaint)
    if found is None:
        raise UserError(
            f"{folder} holds no whole checkpoint; expected the folder of a training, such as MODEL/training/prior_2"
        )
    return found


def copy_model(home: Path, target: Path) -> None:
    """Copy the model folder `home` without its training folders (checkpoints and logs)."""
    if not (home / "config.json").is_file():
        raise UserError(f"{home} holds no model; give --out a model folder for the weights to go into")
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("training", ".lock", "*.tmp"), dirs_exist_ok=True)


def part_of(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind and the part (a stream, or the name of a prior) of a checkpoint from its metadata.

    Checkpoints of version 1 have only a name, from which both are derived.
    """
    identity, (what, _, level) = metadata["identity"], metadata["name"].partition("_")
    if "kind" in identity:
        return identity["kind"], identity["part"]
    return {"vqvae": ("vqvae", f"vq.{level}"), "prior": ("autoregressive", metadata["name"])}.get(what, (what, what))


def write(checkpoint: Checkpoint, settings: dict[str, Any], target: Path) -> None:
    """Write a checkpoint into a model folder, as a stream of the codec or a prior with the configuration `settings`."""
    from jukebox.model.folder import ModelFolder, build_codec, build_prior
    from priors.registry import PRIOR_CONFIGS
    from vqvae.registry import CODEC_CONFIGS

    model, (kind, part) = ModelFolder.from_pretrained(target), part_of(checkpoint.metadata)
    if kind in CODEC_CONFIGS.kinds():
        config = CODEC_CONFIGS.load(kind).from_json(settings)
        if config not in [entry.config for entry in model.info.codecs]:
            raise UserError(f"{target} holds a codec of another configuration; give another --out")
        model.save_codec(filled(build_codec(config, [part]), checkpoint))
        return
    config = PRIOR_CONFIGS.load(kind).from_json(settings)
    for stream in dict.fromkeys((*config.spec.writes, *config.spec.reads)):
        known = {f"codes of {stream}": model.info.codes_hash(stream), "codec": model.info.old_codes_hash(stream)}
        if any(checkpoint.metadata["identity"].get(name, value) != value for name, value in known.items()):
            raise UserError(f"the prior was trained on the codes of another codec than that of {target}; give another --out")
    model.save_prior(part, filled(build_prior(config), checkpoint))


def filled(model: M, checkpoint: Checkpoint) -> M:
    """Load the weights of a checkpoint into `model`, and return the model. Averaged weights are preferred.

    Raises UserError if the tensors do not match the model, for example because the checkpoint has adapters.
    """
    checkpoint = checkpoint.within(checkpoint.metadata.get("exported", "")).named_for(model)
    averaged = {name: checkpoint.get("average", name) for name in checkpoint.names("weights")}
    state = {name: checkpoint.get("weights", name) if value is None else value for name, value in averaged.items()}
    try:
        model.load_state_dict(state, assign=True)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint.path} is not of a plain model ({str(error).strip().splitlines()[-1].strip()}); the command that "
            "trains it writes the model too, at the end of its --steps"
        ) from None
    return model
