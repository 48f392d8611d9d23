"""`jukebox train`: a preset, a data folder and a model folder become tasks for the one loop (`launch/training/loop.py`).

`MODEL/training/<task>/` keeps the log and the last checkpoints of every part; at its end the weights are written into MODEL.
Started as several ranks (torchrun, deepspeed, mpirun, srun, `jukebox launch`) they train each part together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from launch.cluster.heartbeat import beat

if TYPE_CHECKING:
    from launch.training.loop import Task


def chosen_levels(levels: str, known: Collection[int]) -> list[int]:
    """Levels written as "2,1,0" (empty: all of `known`), coarsest first."""
    try:
        chosen = {int(part) for part in levels.split(",")} if levels.strip() else set(known)
    except ValueError:
        raise UserError(f"--levels got {levels!r}, expected numbers with commas between them, such as 2,1,0") from None
    if wrong := sorted(chosen - set(known)):
        raise UserError(f"there is no level {wrong[0]}; choose among {', '.join(map(str, sorted(known)))}")
    return sorted(chosen, reverse=True)


def train(
    what: Literal["vqvae", "prior", "masked"],
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
    precision: Literal["auto", "bf16", "fp16", "float32"] = "auto",
    schedule: Literal["auto", "constant", "linear", "cosine", "published"] = "auto",
    ema: float = -1.0,
    recompute: bool = False,
    seed: int = 0,
    threads: int = 0,
    device: str = "auto",
    wandb: str = "",
    examples_every: int = 0,
    from_audio: bool = False,
    from_model: str = "",
    tune: Literal["all", "lora", "labels", "lyrics"] = "all",
    rank: int = 8,
    rehearse: str = "",
    zero: Literal["auto", "0", "1", "2", "3"] = "auto",
    offload: bool = False,
    accumulate: int = 1,
    adam: Literal["torch", "deepspeed"] = "torch",
    deepspeed: str = "",
    card: Literal["any", "8", "16", "24", "40", "80"] = "any",
    keep: int = 2,
) -> None:
    """Train the codec, or priors on its codes; the same command continues a run that was ended.

    The codec comes first, then `jukebox encode`, then the priors, and the masked prior where one is wanted. Levels are
    trained one after another, coarsest first; they share nothing, so several processes may train different levels of one
    model side by side. Started by torchrun, deepspeed, mpirun, srun or `jukebox launch`, the ranks train each level
    together: a batch is shared out among them.

    what: vqvae (the codec), prior (one a level), or masked (one of all levels, which fills holes; on songs with codes of all)
    data: the data folder that `jukebox prepare` made
    preset: sizes and recipe: demo, small or test, or of a published codec: vqvae, small_vqvae; one preset a model
    level: train this level only, 0 (finest) to 2 (coarsest); -1: see --levels
    levels: levels to train, such as 2,1; empty: all
    out: the model folder; empty: `model` beside DATA
    steps: steps in all, in place of the recipe's; 0: the recipe's
    batch: crops or windows a step, of all ranks together; 0: the recipe's
    lr: highest learning rate; 0: the recipe's
    max_minutes: limit on the training of each level in minutes; 0: the recipe's, none where --steps is given
    precision: auto (the recipe's), bf16, float32, or fp16 with scaled losses for a GPU without bf16
    schedule: how the learning rate ends: auto (the recipe's), constant, linear, cosine or published (annealed to 0)
    ema: decay of the average of the weights that is saved, such as 0.999; 0: the last weights; -1: the recipe's
    recompute: gradient checkpointing: less memory for a prior's activations, about a third more time
    seed: seed of first weights, order and noise
    threads: CPU threads; 0: all cores (1 is best where several processes share the cores)
    device: cpu, cuda, cuda:1, ..; auto: cuda where there is one
    wandb: project to log to, with Weights & Biases installed; empty: log.jsonl only
    examples_every: steps after which sound and pictures are left in MODEL/training/PART/examples; 0: never
    from_audio: encode each window when it is trained on, instead of reading what `jukebox encode` wrote: slower, nothing is stored
    from_model: fine-tuning: a model folder whose priors go on in --out, which begins as its copy; DATA may have new names
    tune: what learns: all weights; lora: low-rank adapters, merged at the end; labels: new artists and genres alone;
        lyrics: all, with the preset's lyrics added to a prior without
    rank: rank of the adapters of --tune lora
    rehearse: a data folder of old songs, of which half of every batch is drawn, so that they are not forgotten
    zero: what DeepSpeed shares out among ranks: 1 moments, 2 gradients too, 3 weights too, 0 nothing; auto: 1 for several ranks
    offload: keep the optimiser in the host's memory, for priors larger than the card
    accumulate: parts in which a rank takes its share of a batch, one after another; priors only
    adam: torch (fused), or deepspeed: DeepSpeed's own kernels, which their first use compiles
    deepspeed: a json file with settings of DeepSpeed's to add to ours
    card: memory of each GPU in GB: settings of zero, offload and recompute that suit it; --zero comes before its
    keep: checkpoints of each level that stay
    """
    import torch

    from jukebox.model.presets import find
    from launch.cluster.group import join, part
    from launch.training.deepspeed_config import CARDS, ParallelConfig
    from launch.training.finetune import TunedPrior, check_tuning, copied, tuned
    from launch.training.loop import fit
    from launch.training.tasks import MaskedTask, PriorTask, VQVAETask, open_model

    suits = CARDS[int(card)] if card != "any" else {}
    stage = suits.get("zero", -1) if zero == "auto" else int(zero)
    parallel = ParallelConfig(stage, offload or suits.get("offload", False), accumulate, adam, deepspeed)
    recompute = recompute or (what != "vqvae" and suits.get("recompute", False))
    if accumulate < 1 or keep < 1:
        raise UserError(f"--accumulate {accumulate} --keep {keep}: expected numbers from 1")
    if accumulate > 1 and what == "vqvae":
        raise UserError(
            "--accumulate is for priors: a codebook moves once a batch, by all of it; give a smaller --batch, or more ranks"
        )
    if examples_every and what == "masked":
        raise UserError("--examples_every is for codecs and priors of one level; leave it away")
    if from_audio and (what == "vqvae" or from_model):
        raise UserError(
            "--from_audio is for priors from the beginning: a codec has no codes, and --from_model wants them encoded"
        )
    if threads:
        torch.set_num_threads(threads)
    beat("meeting the others", 0)
    device = join(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    folder, chosen = Path(data), find(preset)
    target = Path(out) if out else folder.parent / "model"
    if not chosen.recipes(what):
        raise UserError(f"the preset {preset} has no {what}; train it with one that has, such as small")
    if what == "masked" and (level >= 0 or levels):
        raise UserError("a masked prior is of all levels at once; leave --level and --levels away")
    known = chosen.recipes(what)
    if from_model or tune != "all" or rehearse:
        known = check_tuning(what, from_model, known, folder, Path(rehearse or data))
    wanted = chosen_levels(str(level) if level >= 0 else levels, known)
    model = copied(from_model, target) if from_model else open_model(target, folder, chosen, what)
    given: dict[str, Any] = {"steps": steps, "batch": batch, "lr": lr, "max_minutes": max_minutes}
    changes = {name: value for name, value in given.items() if value}
    if precision != "auto":
        changes |= {"bf16": precision == "bf16", "fp16": precision == "fp16"}
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
        recipe = chosen.recipes(what)[each]
        if from_model and tune != "lyrics":
            recipe = tuned(recipe, tune)
        # A recipe's limit on the time belongs to its own steps: who says how many wants so many.
        recipe = replace(recipe, **({"max_minutes": 0.0} if steps else {}) | changes)
        sizes = len(model.labels.artists), len(model.labels.genres), model.vocabulary.size
        if what == "vqvae":
            task: Task = VQVAETask(model, each, folder, recipe, seed, device)
        elif what == "masked":
            task = MaskedTask(model, chosen.masked_prior(*sizes), folder, recipe, seed, device, from_audio)
        else:
            config = chosen.prior(each, *sizes)
            if from_model:
                task = TunedPrior(model, from_model, config, folder, recipe, seed, device, tune, rank, rehearse)
            else:
                task = PriorTask(model, config, folder, recipe, seed, device, from_audio=from_audio)
        where = target / "training" / task.name
        ended = fit(
            task,
            recipe,
            where,
            seed=seed,
            device=device,
            wandb=wandb,
            parallel=parallel,
            keep=keep,
            examples_every=examples_every,
        )
        if ended.ended == "stopped":
            part()
            raise SystemExit(130)
    part()
