"""`jukebox train`: a preset, a data folder and a model folder become tasks for the one trainer (`launch/training/trainer.py`).

`MODEL/training/<task>/` keeps the log and the last checkpoints of every part; at its end the weights are written into MODEL.
Started as several ranks (torchrun, deepspeed, mpirun, srun, `jukebox launch`) they train each part together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError
from data_prep.manifest import reading
from jukebox.device import available_memory
from launch.cli.parse import choose_by_level
from launch.cli.usage import shared_flags
from launch.cluster.heartbeat import beat
from launch.training.params import EngineParams, FinetuneParams, PartParams, RecipeParams, TrainRunParams

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from jukebox.model.presets import Preset
    from jukebox.model.recipe import Recipe
    from launch.training.tasks.task import Task, TaskSetup


BYTES_OF_CROPS = 24  # per number of a crop, float32: of the batch, its blend and its reconstruction, and of the batches ahead


def kind_of(what: str, preset: Preset) -> str:
    """The kind of codec or prior that a word of the command line stands for, or a prior's name; UserError names the words there are."""
    from launch.training.tasks.registry import ALIASES, TASKS

    if what in preset.priors:
        return preset.priors[what].kind
    kind = ALIASES.get(what, what)
    if kind not in TASKS.kinds():
        words = [*ALIASES, *(each for each in TASKS.kinds() if each not in ALIASES.values())]
        raise UserError(f"there is nothing to train called {what!r}; choose one of {', '.join(words)}")
    return kind


def check_flags(is_codec: bool, run: TrainRunParams, tuning: FinetuneParams, engine: EngineParams, keep: int) -> None:
    """UserError where flags do not go together; nothing was written yet."""
    if engine.accumulate < 1 or keep < 1:
        raise UserError(f"--accumulate {engine.accumulate} --keep {keep}: expected numbers from 1")
    if engine.accumulate > 1 and is_codec:
        raise UserError(
            "--accumulate is for priors: a codebook moves once a batch, by all of it; give a smaller --batch, or more ranks"
        )
    if run.from_audio and (is_codec or tuning.from_model):
        raise UserError(
            "--from_audio is for priors from the beginning: a codec has no codes, and --from_model wants them encoded"
        )


def choose_parts(what: str, preset: Preset, parts: PartParams, tuning: FinetuneParams, folder: Path) -> list[str]:
    """The streams or priors to train, coarsest first; UserError where the preset or the old model does not have them."""
    from launch.training.tasks.finetune import check_tuning
    from launch.training.tasks.registry import TASKS

    kind, levels = kind_of(what, preset), parts.chosen_levels
    known = [what] if what in preset.priors else list(preset.parts(kind))
    if not known:
        raise UserError(f"the preset {parts.preset} has no {what}; train it with one that has, such as small")
    if levels and any(len(preset.priors[name].spec.writes) > 1 for name in known if name in preset.priors):
        raise UserError("a masked prior is of all levels at once; leave --level and --levels away")
    if tuning.from_model or tuning.tune != "all" or tuning.rehearse:
        known = check_tuning(TASKS.load(kind), tuning.from_model, known, folder, Path(tuning.rehearse or folder))
    return choose_by_level(levels, {preset.level_of(part): part for part in known})


def open_model(folder: Path, data: Path, preset: Preset, codec: bool) -> ModelFolder:
    """The model folder to train into; made for a codec where there is none, its labels those of the data.

    Once a prior is trained the labels stay: its tables are numbered by them.
    """
    from filelock import FileLock

    from data_prep.labels import Labels
    from jukebox.model.folder import ModelFolder
    from priors.conditioning.vocabulary import Characters

    if not codec and not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model; train its codec first (`jukebox train vqvae {data}`), or give --out")
    if not data.is_dir():
        raise UserError(f"there is no data folder {data}; make it with `jukebox prepare MUSIC --out {data}`")
    model = [ModelFolder.create(folder, config, Characters(preset.symbols), preset.routes) for config in preset.codecs][-1]
    with FileLock(folder / ".lock"):  # two levels may begin at the same time
        if not model.info.priors and (data / "labels.json").is_file():
            model.save_labels(Labels.load(data / "labels.json"))
    return model


def make_task(
    kind: str, preset: Preset, setup: TaskSetup, changes: Mapping[str, Any], tuning: FinetuneParams
) -> tuple[Task, Recipe]:
    """The task of a part, and the recipe it is trained by: that of the setup with the changes."""
    from launch.training.tasks.finetune import TunedPrior, tuned
    from launch.training.tasks.registry import TASKS

    recipe, config, model = setup.recipe, preset.priors.get(setup.part), setup.model
    if tuning.from_model and tuning.tune != "lyrics":
        recipe = tuned(recipe, tuning.tune)
    recipe = replace(recipe, **changes)
    if config:
        config = config.for_corpus(len(model.labels.artists), len(model.labels.genres), model.vocabulary.size)
    setup = replace(setup, recipe=recipe, config=config)
    if tuning.from_model:
        return TunedPrior(setup, tuning.from_model, tuning.tune, tuning.rank, tuning.rehearse), recipe
    return TASKS.load(kind)(setup), recipe


def check_batch(setup: TaskSetup, accumulate: int, ranks: int) -> None:
    """UserError where the rows that a CPU holds at once need more memory than is left; of a codec only its audio is counted."""
    from jukebox.planning.training import Training, memory

    recipe = setup.recipe
    rows, there = -(-recipe.batch // (accumulate * ranks)), available_memory()
    if setup.config is None:
        needed = float(rows * recipe.crop * setup.model.info.channels * BYTES_OF_CROPS)
    elif setup.config.training_cost(recipe.bf16, recipe.recompute, True) is None:
        needed = float(8 * rows * setup.config.n_ctx)
    else:
        parts = memory(setup.config, Training(rows, bf16=recipe.bf16, recompute=recipe.recompute), 1, "cpu")
        needed = parts["activations"] + (sum(parts.values()) - parts["activations"]) * (ranks == 1)
    if setup.device == "cpu" and needed > there:
        raise UserError(
            f"{setup.part}: a step of {rows:,} rows takes {needed / 1e9:.3g} GB of memory, of which {there / 1e9:.1f} GB are available; "
            "give a smaller --batch, or share it out with --accumulate or more ranks"
        )


@shared_flags
def train(
    what: str, data: str, *, parts: PartParams, recipe: RecipeParams, run: TrainRunParams, tuning: FinetuneParams,
    engine: EngineParams, keep: int = 2,
) -> None:  # fmt: skip
    """Train the codec, or priors on its codes; the same command continues a run that was ended.

    The codec comes first, then `jukebox encode`, then the priors, and the masked prior where one is wanted. Levels are
    trained one after another, coarsest first; they share nothing, so several processes may train different levels of one
    model side by side. Started by torchrun, deepspeed, mpirun, srun or `jukebox launch`, the ranks train each level
    together: a batch is shared out among them.

    what: vqvae (the codec), prior (one per level), masked (one of all levels, which inpaints; on songs with codes of all), decoder
        (of a trained spectral codec, against discriminators; codes stay valid), or another kind of codec or prior that the preset has, or
        the name of one prior, such as masked_tokens
    data: the data folder that `jukebox prepare` made
    keep: checkpoints of each level that stay
    """
    import torch

    from jukebox.model.presets import find
    from launch.cluster.group import join, part, who
    from launch.training.tasks.finetune import copied
    from launch.training.tasks.task import TaskSetup
    from launch.training.trainer import fit
    from vqvae.registry import CODEC_CONFIGS

    folder, preset = Path(data), find(parts.preset)
    kind = kind_of(what, preset)
    is_codec = kind in CODEC_CONFIGS.kinds() or kind in preset.more_recipes
    parallel, recompute = engine.for_card()
    check_flags(is_codec, run, tuning, engine, keep)
    if run.threads:
        torch.set_num_threads(run.threads)
    beat("meeting the others", 0)
    device = join(run.device)
    target = Path(parts.out) if parts.out else folder.parent / "model"
    wanted = choose_parts(what, preset, parts, tuning, folder)
    creates = kind in CODEC_CONFIGS.kinds()
    model = copied(tuning.from_model, target) if tuning.from_model else open_model(target, folder, preset, creates)
    changes, cache = recipe.changes(is_codec, recompute), Path(run.cache) if run.cache else None
    with contextlib.ExitStack() as locks:
        for place in {folder, Path(tuning.rehearse or folder)}:
            locks.enter_context(reading(place))
        for name in wanted:
            setup = TaskSetup(
                model, name, folder, preset.parts(kind)[name], run.seed, device, from_audio=run.from_audio,
                hollow=parallel.stage == 3 and who()[0] > 0, cache=cache,
            )  # fmt: skip
            planned = replace(setup, recipe=replace(setup.recipe, **changes), config=preset.priors.get(name))
            check_batch(planned, parallel.accumulate, who()[1])
            task, changed = make_task(kind, preset, setup, changes, tuning)
            ended = fit(
                task, changed, target / "training" / task.name, seed=run.seed, device=device, wandb=run.wandb, parallel=parallel,
                keep=keep, examples_every=run.examples_every,
            )  # fmt: skip
            if ended.ended == "stopped":
                part()
                raise SystemExit(130)
    part()
