"""`jukebox train`: creates training tasks from a preset, a data folder and a model folder, and runs the trainer
(`launch/training/trainer.py`).

`MODEL/training/<task>/` holds the log and the last checkpoints of each part. At the end the weights are written into MODEL.
Several ranks (torchrun, deepspeed, mpirun, srun, `jukebox launch`) train each part together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError
from data_prep.manifest import reading
from jukebox.device import available_memory
from jukebox.model.presets import find
from launch.cli.parse import choose_by_level
from launch.cli.usage import shared_flags
from launch.cluster.heartbeat import beat
from launch.training.params import EngineParams, FinetuneParams, PartParams, RecipeParams, TrainRunParams

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from jukebox.model.presets import Preset
    from jukebox.model.recipe import Recipe
    from launch.engines.deepspeed_config import ParallelConfig
    from launch.training.tasks.task import Task, TaskSetup


BYTES_OF_CROPS = 24  # bytes per sample of a crop: float32 values of batch, blend, reconstruction and prefetched batches


def check_flags(is_codec: bool, run: TrainRunParams, tuning: FinetuneParams, engine: EngineParams, keep: int) -> None:
    """Raise UserError for incompatible flags. The check runs before any file is written."""
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


def choose_parts(what: str, name: str, parts: PartParams, tuning: FinetuneParams, folder: Path) -> list[str]:
    """Return the streams or priors to train, the coarsest first.

    Raises UserError if the preset, or the model to fine-tune, does not have them.
    """
    from launch.training.defaults import kind_of
    from launch.training.tasks.finetune import check_tuning
    from launch.training.tasks.registry import TASKS

    preset = find(name)
    kind, levels = kind_of(what, preset), parts.chosen_levels
    known = [what] if what in preset.priors else list(preset.parts(kind))
    if not known:
        raise UserError(f"the preset {name} has no {what}; train it with one that has, such as small")
    if levels and any(len(preset.priors[name].spec.writes) > 1 for name in known if name in preset.priors):
        raise UserError("a masked prior has all levels; leave --level and --levels away")
    if tuning.from_model or tuning.tune != "all" or tuning.rehearse:
        known = check_tuning(TASKS.load(kind), tuning.from_model, known, folder, Path(tuning.rehearse or folder))
    return choose_by_level(levels, {preset.level_of(part): part for part in known})


def recipe_of(recipe: Recipe, changes: Mapping[str, Any], tuning: FinetuneParams, parallel: ParallelConfig) -> Recipe:
    """Return the recipe of a part: the recipe of the preset or of fine-tuning, with `changes`.

    Muon needs whole matrices. With DeepSpeed, AdamW replaces the Muon of a recipe, and a message is printed. If the user gives
    --muon with DeepSpeed, the engine raises an error later.
    """
    from launch.cluster.group import who
    from launch.training.tasks.finetune import tuned

    made = replace(tuned(recipe, tuning.tune) if tuning.from_model and tuning.tune != "lyrics" else recipe, **changes)
    if not made.muon or "muon" in changes or (who()[1] == 1 and not parallel.needs_deepspeed):
        return made
    if who()[0] == 0:
        print("this recipe uses Muon, which needs whole matrices; with DeepSpeed all weights are trained by AdamW", flush=True)
    return replace(made, muon=0.0)


def needs_codec(preset: Preset, parts: Sequence[str]) -> bool:
    """Whether a codec must be trained before `parts`: a part reads, writes or is a stream of a learned codec."""
    specs = {name: preset.priors[name].spec for name in parts if name in preset.priors}
    streams = {stream for name in parts for stream in ((*specs[name].reads, *specs[name].writes) if name in specs else (name,))}
    return any(codec.learned for codec in preset.codecs if streams & set(codec.spec.names))


def open_model(folder: Path, data: Path, preset: Preset, parts: Sequence[str]) -> ModelFolder:
    """Open or create the model folder, and store the labels of the data folder in it.

    After a prior is trained the labels do not change, because the embedding tables of the prior are indexed by labels. Raises
    Raise UserError if `parts` need a trained codec and the folder has none.
    """
    from filelock import FileLock

    from data_prep.labels import Labels
    from jukebox.model.folder import ModelFolder
    from priors.conditioning.vocabulary import Characters

    if needs_codec(preset, parts) and not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model; train its codec first (`jukebox train vqvae {data}`), or give --out")
    if not data.is_dir():
        raise UserError(f"there is no data folder {data}; make it with `jukebox prepare MUSIC --out {data}`")
    model = [ModelFolder.create(folder, config, Characters(preset.symbols), preset.routes) for config in preset.codecs][-1]
    with FileLock(folder / ".lock"):  # two levels may start at the same time
        if not model.info.priors and (data / "labels.json").is_file():
            model.save_labels(Labels.load(data / "labels.json"))
    return model


def make_task(kind: str, setup: TaskSetup, tuning: FinetuneParams) -> Task:
    """Create the training task of a part, or with --from_model the fine-tuning task."""
    from launch.training.tasks.finetune import TunedPrior
    from launch.training.tasks.registry import TASKS

    config, model = setup.config, setup.model
    if config:
        config = config.for_corpus(len(model.labels.artists), len(model.labels.genres), model.vocabulary.size)
    setup = replace(setup, config=config)
    if tuning.from_model:
        return TunedPrior(setup, tuning.from_model, tuning.tune, tuning.rank, tuning.rehearse)
    return TASKS.load(kind)(setup)


def check_batch(setup: TaskSetup, accumulate: int, ranks: int) -> None:
    """Raise UserError if a training step on a CPU needs more memory than is available.

    For a codec only the memory of the audio is counted.
    """
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


def fit_parts(
    kind: str, setups: Sequence[TaskSetup], training: Path, run: TrainRunParams, tuning: FinetuneParams,
    parallel: ParallelConfig, keep: int,
) -> str:  # fmt: skip
    """Train parts in order until the user stops one, and return how the last trained part ended (`Trained.ended`)."""
    from launch.training.trainer import fit

    ended = ""
    for setup in setups:
        task = make_task(kind, setup, tuning)
        ended = fit(
            task, setup.recipe, training / task.name, seed=run.seed, device=setup.device, wandb=run.wandb, parallel=parallel,
            keep=keep, examples_every=run.examples_every,
        ).ended  # fmt: skip
        if ended == "stopped":
            break
    return ended


@shared_flags
def train(
    what: str, data: str, *, parts: PartParams, recipe: RecipeParams, run: TrainRunParams, tuning: FinetuneParams,
    engine: EngineParams, keep: int = 2,
) -> None:  # fmt: skip
    """Train the codec, or priors on its codes; the same command resumes an interrupted run.

    First train the codec, then run `jukebox encode`, then train the priors. A masked prior is optional. Levels are trained in
    sequence, the coarsest first. Levels are independent, so several processes may train different levels of one model in
    parallel. Ranks of torchrun, deepspeed, mpirun, srun or `jukebox launch` train each level together and divide each batch.

    what: vqvae (the codec), prior (one per level), masked (all levels, inpaints), decoder (of a trained spectral codec,
        against discriminators), stacked (its second autoencoder), gan (of its latents), another kind of the preset, or the
        name of a prior
    data: the data folder that `jukebox prepare` made
    keep: number of checkpoints of each level to keep
    """
    import torch

    from jukebox.model.provenance import record_songs
    from launch.cluster.group import first, join, part, who
    from launch.training.defaults import choose_preset, kind_of, preset_for
    from launch.training.expected import print_expected
    from launch.training.tasks.finetune import copied
    from launch.training.tasks.task import TaskSetup, training_rows
    from vqvae.registry import CODEC_CONFIGS

    folder, (parallel, recompute) = Path(data), engine.for_card()
    if run.threads:
        torch.set_num_threads(run.threads)
    beat("meeting the others", 0)
    device = join(run.device)
    target, old = Path(parts.out or folder.parent / "model"), tuning.from_model
    chosen = first(lambda: choose_preset(parts.preset, what, target, old, device))
    preset = preset_for(chosen, target, parts.bottleneck)
    kind = kind_of(what, preset)
    creates = kind in CODEC_CONFIGS.kinds()
    is_codec = creates or kind in preset.more_recipes
    check_flags(is_codec, run, tuning, engine, keep)
    changes, cache = recipe.changes(is_codec, recompute), Path(run.cache) if run.cache else None
    wanted = choose_parts(what, chosen, parts, tuning, folder)
    model = copied(old, target) if old else open_model(target, folder, preset, () if creates else wanted)
    model.add_preset(chosen)
    with contextlib.ExitStack() as locks:
        for place in {folder, Path(tuning.rehearse or folder)}:
            locks.enter_context(reading(place))
            first(lambda place=place: record_songs(target, training_rows(place)))
        setups = [
            TaskSetup(
                model, name, folder, recipe_of(preset.parts(kind)[name], changes, tuning, parallel), run.seed, device,
                None if is_codec else preset.priors.get(name), run.from_audio, parallel.stage == 3 and who()[0] > 0, cache,
            )
            for name in wanted
        ]  # fmt: skip
        for setup in setups:
            check_batch(setup, parallel.accumulate, who()[1])
        print_expected([] if kind in preset.more_recipes else setups, target / "training", chosen)
        ended = fit_parts(kind, setups, target / "training", run, tuning, parallel, keep)
    part()
    if ended == "stopped":
        raise SystemExit(130)
