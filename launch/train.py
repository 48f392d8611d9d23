"""`jukebox train`: a preset, a data folder and a model folder become tasks for the one loop (`launch/loop.py`).

`MODEL/training/<task>/` keeps the log and two checkpoints of every part; at its end the weights are written into MODEL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from launch.loop import Task


def chosen_levels(levels: str, known: Sequence[int]) -> list[int]:
    """Levels written as "2,1,0" (empty: all of `known`), coarsest first."""
    try:
        chosen = {int(part) for part in levels.split(",")} if levels.strip() else set(known)
    except ValueError:
        raise UserError(f"--levels got {levels!r}, expected numbers with commas between them, such as 2,1,0") from None
    if wrong := sorted(chosen - set(known)):
        raise UserError(f"there is no level {wrong[0]}; choose among {', '.join(map(str, sorted(known)))}")
    return sorted(chosen, reverse=True)


def train(
    what: Literal["vqvae", "prior"],
    data: str,
    *,
    preset: str = "small",
    level: int = -1,
    levels: str = "",
    out: str = "",
    steps: int = 0,
    batch: int = 0,
    lr: float = 0.0,
    max_minutes: float = 0.0,
    precision: Literal["auto", "bf16", "float32"] = "auto",
    schedule: Literal["auto", "constant", "linear", "cosine", "published"] = "auto",
    ema: float = -1.0,
    recompute: bool = False,
    seed: int = 0,
    threads: int = 0,
    device: str = "auto",
    wandb: str = "",
    from_model: str = "",
    tune: Literal["all", "lora", "labels", "lyrics"] = "all",
    rank: int = 8,
    rehearse: str = "",
) -> None:
    """Train the codec, or the priors on its codes; the same command continues a run that was ended.

    The codec comes first, then `jukebox encode`, then the priors. Levels are trained one after another, coarsest first;
    they share nothing, so several processes may train different levels of one model side by side.

    what: vqvae (the codec) or prior
    data: the data folder that `jukebox prepare` made
    preset: sizes and recipe: demo, small or test, or of a published codec: vqvae, small_vqvae; one preset a model
    level: train this level only, 0 (finest) to 2 (coarsest); -1: see --levels
    levels: levels to train, such as 2,1; empty: all
    out: the model folder; empty: `model` beside DATA
    steps: steps in all, in place of the recipe's; 0: the recipe's
    batch: crops or windows a step; 0: the recipe's
    lr: highest learning rate; 0: the recipe's
    max_minutes: limit on the training of each level in minutes; 0: the recipe's, none where --steps is given
    precision: auto (the recipe's), bf16 or float32
    schedule: how the learning rate ends: auto (the recipe's), constant, linear, cosine or published (annealed to 0)
    ema: decay of the average of the weights that is saved, such as 0.999; 0: the last weights; -1: the recipe's
    recompute: gradient checkpointing: less memory for a prior's activations, about a third more time
    seed: seed of first weights, order and noise
    threads: CPU threads; 0: all cores (1 is best where several processes share the cores)
    device: cpu, cuda, cuda:1, ..; auto: cuda where there is one
    wandb: project to log to, with Weights & Biases installed; empty: log.jsonl only
    from_model: fine-tuning: a model folder whose priors go on in --out, which begins as its copy; DATA may have new names
    tune: what learns: all weights; lora: low-rank adapters, merged at the end; labels: new artists and genres alone;
        lyrics: all, with the preset's lyrics added to a prior without
    rank: rank of the adapters of --tune lora
    rehearse: a data folder of old songs, of which half of every batch is drawn, so that they are not forgotten
    """
    import torch

    from jukebox.presets import find
    from launch.finetune import TunedPrior, copied, tuned
    from launch.loop import fit
    from launch.tasks import PriorTask, VQVAETask, open_model

    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder, chosen = Path(data), find(preset)
    target = Path(out) if out else folder.parent / "model"
    if what == "prior" and not chosen.priors:
        raise UserError(
            f"the preset {preset} is a codec alone; train its priors with the preset of a prior, such as small"
        )
    wanted = chosen_levels(str(level) if level >= 0 else levels, range(chosen.codec.levels))
    if from_model and what == "vqvae":
        raise UserError("--from_model is for priors: codes of another codec mean nothing to them; the codec is copied")
    if not from_model and (tune != "all" or rehearse):
        raise UserError("--tune and --rehearse go on with a trained model; name it with --from_model")
    model = (
        copied(from_model, target, folder, Path(rehearse or data))
        if from_model
        else open_model(target, folder, chosen, what)
    )
    given: dict[str, Any] = {"steps": steps, "batch": batch, "lr": lr, "max_minutes": max_minutes}
    changes = {name: value for name, value in given.items() if value}
    if precision != "auto":
        changes["bf16"] = precision == "bf16"
    if schedule != "auto":
        changes["schedule"] = schedule
    if ema >= 1:
        raise UserError(
            f"--ema got {ema:g}, expected a decay below 1, such as 0.999, 0 for none or -1 for the recipe's"
        )
    if ema >= 0:
        changes["ema"] = ema
    if recompute:
        changes["recompute"] = True
    if recompute and what == "vqvae":
        raise UserError("--recompute is for priors; a codec needs less memory with a smaller --batch")
    for each in wanted:
        recipe = (chosen.codec_recipes if what == "vqvae" else chosen.prior_recipes)[each]
        if from_model and tune != "lyrics":
            recipe = tuned(recipe, tune)
        # A recipe's limit on the time belongs to its own steps: who says how many wants so many.
        recipe = replace(recipe, **({"max_minutes": 0.0} if steps else {}) | changes)
        if what == "vqvae":
            task: Task = VQVAETask(model, each, folder, recipe, seed, device)
        else:
            labels = model.labels
            config = chosen.prior(each, len(labels.artists), len(labels.genres), model.vocabulary.size)
            if from_model:
                task = TunedPrior(model, from_model, config, folder, recipe, seed, device, tune, rank, rehearse)
            else:
                task = PriorTask(model, config, folder, recipe, seed, device)
        ended = fit(task, recipe, target / "training" / task.name, seed=seed, device=device, wandb=wandb)
        if ended.ended == "stopped":
            raise SystemExit(130)
