"""`jukebox train`: a preset, a data folder and a model folder become tasks for the one loop (`launch/training/loop.py`).

`MODEL/training/<task>/` keeps the log and the last checkpoints of every part; at its end the weights are written into MODEL.
Started as several ranks (torchrun, deepspeed, mpirun, srun, `jukebox launch`) they train each part together.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError
from jukebox.device import choose_device
from launch.cli.parse import choose_by_level
from launch.cluster.heartbeat import beat

if TYPE_CHECKING:
    from launch.training.loop import Task


def train(
    what: str,
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

    what: vqvae (the codec), prior (one per level), masked (one of all levels, which inpaints; on songs with codes of all), or another
        kind of codec or prior that the preset has
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
    from launch.engines.deepspeed_config import CARDS, ParallelConfig
    from launch.training.finetune import TunedPrior, check_tuning, copied, tuned
    from launch.training.loop import fit
    from launch.training.registry import ALIASES, TASKS
    from launch.training.tasks import TaskSetup, open_model
    from vqvae.registry import CODEC_CONFIGS

    kind = ALIASES.get(what, what)
    if kind not in TASKS.kinds():
        words = [*ALIASES, *(each for each in TASKS.kinds() if each not in ALIASES.values())]
        raise UserError(f"there is nothing to train called {what!r}; choose one of {', '.join(words)}")
    is_codec, task_class = kind in CODEC_CONFIGS.kinds(), TASKS.load(kind)
    suits = CARDS[int(card)] if card != "any" else {}
    stage = suits.get("zero", -1) if zero == "auto" else int(zero)
    parallel = ParallelConfig(stage, offload or suits.get("offload", False), accumulate, adam, deepspeed)
    recompute = recompute or (not is_codec and suits.get("recompute", False))
    if accumulate < 1 or keep < 1:
        raise UserError(f"--accumulate {accumulate} --keep {keep}: expected numbers from 1")
    if accumulate > 1 and is_codec:
        raise UserError(
            "--accumulate is for priors: a codebook moves once a batch, by all of it; give a smaller --batch, or more ranks"
        )
    if examples_every and getattr(task_class, "examples", None) is None:
        raise UserError("--examples_every is for codecs and priors of one level; leave it away")
    if from_audio and (is_codec or from_model):
        raise UserError(
            "--from_audio is for priors from the beginning: a codec has no codes, and --from_model wants them encoded"
        )
    if threads:
        torch.set_num_threads(threads)
    beat("meeting the others", 0)
    device = join(choose_device(device))
    folder, chosen = Path(data), find(preset)
    target = Path(out) if out else folder.parent / "model"
    recipes = chosen.parts(kind)
    if not recipes:
        raise UserError(f"the preset {preset} has no {what}; train it with one that has, such as small")
    levels = str(level) if level >= 0 else levels
    if levels and not is_codec and any(len(chosen.priors[name].spec.writes) > 1 for name in recipes):
        raise UserError("a masked prior is of all levels at once; leave --level and --levels away")
    known = list(recipes)
    if from_model or tune != "all" or rehearse:
        known = check_tuning(task_class, from_model, known, folder, Path(rehearse or data))
    wanted = choose_by_level(levels, {chosen.level_of(part): part for part in known})
    model = copied(from_model, target) if from_model else open_model(target, folder, chosen, is_codec)
    given: dict[str, Any] = {"steps": steps, "batch": batch, "lr": lr, "max_minutes": max_minutes}
    changes = {name: value for name, value in given.items() if value}
    if precision != "auto":
        changes |= {"bf16": precision == "bf16", "fp16": precision == "fp16"}
    if schedule != "auto":
        changes["schedule"] = schedule
    if ema >= 1:
        raise UserError(f"--ema got {ema:g}, expected a decay below 1, such as 0.999, 0 for none or -1 for the recipe's")
    if ema >= 0:
        changes["ema"] = ema
    if recompute:
        changes["recompute"] = True
    if recompute and is_codec:
        raise UserError("--recompute is for priors; a codec needs less memory with a smaller --batch")
    for each in wanted:
        recipe = recipes[each]
        if from_model and tune != "lyrics":
            recipe = tuned(recipe, tune)
        # A recipe's limit on the time belongs to its own steps: with --steps the user wants so many.
        recipe = replace(recipe, **({"max_minutes": 0.0} if steps else {}) | changes)
        sizes = len(model.labels.artists), len(model.labels.genres), model.vocabulary.size
        config = None if is_codec else chosen.priors[each].for_corpus(*sizes)
        setup = TaskSetup(model, each, folder, recipe, seed, device, config, from_audio)
        task: Task = TunedPrior(setup, from_model, tune, rank, rehearse) if from_model else task_class(setup)
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
