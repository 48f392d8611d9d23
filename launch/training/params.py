"""Parameters of `jukebox train`, grouped by subject. The command line shows each field as a flag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_prep.errors import UserError

if TYPE_CHECKING:
    from launch.engines.deepspeed_config import ParallelConfig


@dataclass(frozen=True)
class PartParams:
    """The parts to train, and the model folder.

    preset: sizes and recipe: demo, recordings, small, spectral or test, or of a published codec: vqvae, small_vqvae; empty:
        the preset of the model folder, else the largest preset for this machine (launch/training/defaults.py)
    level: train this level only, 0 (finest) to 2 (coarsest); -1: see --levels
    levels: levels to train, such as 2,1; empty: all
    bottleneck: quantiser of the codec vqvae: codebook, or argmax; empty: that of the model folder, else codebook
    out: the model folder; empty: `model` beside DATA
    """

    preset: str = ""
    level: int = -1
    levels: str = ""
    bottleneck: Literal["", "codebook", "argmax"] = ""
    out: str = ""

    @property
    def chosen_levels(self) -> str:
        """The value of --level if given, else the value of --levels. Empty: all levels."""
        return str(self.level) if self.level >= 0 else self.levels


@dataclass(frozen=True)
class RecipeParams:
    """Changes of the preset's recipe.

    steps: total number of steps; 0: the recipe's
    batch: crops or windows per step, of all ranks together; 0: the recipe's
    lr: highest learning rate; 0: the recipe's
    muon: train the matrices of a prior's hidden layers by Muon with this highest learning rate, such as 0.002, and the other
        weights by AdamW with --lr; 0: AdamW for all; -1: the recipe's
    max_minutes: limit on the training of each level in minutes; 0: the recipe's, or none if --steps is given
    precision: auto (the recipe's), bf16, bf16_stream (bf16 also between the blocks of a prior: less memory, less exact sums),
        float32, or fp16 with scaled losses for a GPU without bf16
    schedule: schedule of the learning rate: auto (the recipe's), constant, linear, cosine or published (annealed to 0)
    ema: decay of the averaged weights (EMA) that are saved, such as 0.999; 0: save the last weights; -1: the recipe's
    recompute: gradient checkpointing of priors: less memory for activations, about a third more time
    compile: compile the blocks of a prior by torch.compile, which takes some minutes once; not with ZeRO 3
    """

    steps: int = 0
    batch: int = 0
    lr: float = 0.0
    muon: float = -1.0
    max_minutes: float = 0.0
    precision: Literal["auto", "bf16", "bf16_stream", "fp16", "float32"] = "auto"
    schedule: Literal["auto", "constant", "linear", "cosine", "published"] = "auto"
    ema: float = -1.0
    recompute: bool = False
    compile: bool = False

    def changes(self, is_codec: bool, recompute: bool) -> dict[str, Any]:
        """Return the changed fields of the recipe by name. Raises UserError for invalid values.

        The argument `recompute` is True if --card needs gradient checkpointing.
        """
        given = {"steps": self.steps, "batch": self.batch, "lr": self.lr, "max_minutes": self.max_minutes}
        if wrong := [f"--{name} {value:g}" for name, value in given.items() if value < 0]:
            raise UserError(f"{', '.join(wrong)}: expected numbers above 0, or 0 for the recipe's")
        # the time limit of a recipe is for the steps of the recipe, so with --steps there is no limit
        changes: dict[str, Any] = {"max_minutes": 0.0} if self.steps else {}
        changes |= {name: value for name, value in given.items() if value}
        if self.precision != "auto":
            stream = self.precision == "bf16_stream"
            changes |= {"bf16": stream or self.precision == "bf16", "bf16_stream": stream, "fp16": self.precision == "fp16"}
        if self.schedule != "auto":
            changes["schedule"] = self.schedule
        if self.ema >= 1:
            raise UserError(
                f"--ema got {self.ema:g}, expected a decay below 1, such as 0.999, 0 for none or -1 for the recipe's"
            )
        changes |= {name: value for name, value in (("ema", self.ema), ("muon", self.muon)) if value >= 0}
        if self.recompute and is_codec:
            raise UserError("--recompute is for priors; a codec needs less memory with a smaller --batch")
        if is_codec and (self.compile or self.precision == "bf16_stream"):
            raise UserError(
                "--compile and --precision bf16_stream are for the blocks of priors, and a codec has none; leave them away"
            )
        changes |= {"compile": True} if self.compile else {}
        if self.recompute or (recompute and not is_codec):
            changes["recompute"] = True
        return changes


@dataclass(frozen=True)
class TrainRunParams:
    """Device, data sources and records of the run.

    seed: seed of initial weights, order and noise
    threads: CPU threads; 0: all cores (1 is best if several processes share the cores)
    device: cpu, cuda, cuda:1, ..; auto: cuda if there is one
    wandb: project to log to, with Weights & Biases installed; empty: log.jsonl only
    examples_every: steps between examples (audio and pictures) in MODEL/training/PART/examples; 0: never
    from_audio: encode each window on the fly, instead of reading the codes of `jukebox encode`: slower, nothing is stored
    cache: folder for decoded audio, and with the codes of `jukebox encode --cache`, if DATA is not writable; empty: DATA itself
    """

    seed: int = 0
    threads: int = 0
    device: str = "auto"
    wandb: str = ""
    examples_every: int = 0
    from_audio: bool = False
    cache: str = ""


@dataclass(frozen=True)
class FinetuneParams:
    """Settings of fine-tuning: the old model, and the weights to train (`launch/training/tasks/finetune.py`).

    from_model: model folder to fine-tune; --out starts as a copy of it, and its priors are trained further; DATA may have new
        names
    tune: weights to train: all; lora: low-rank adapters, merged at the end; labels: only new artists and genres; lyrics: all
        weights, and lyrics of the preset are added to a prior without lyrics
    rank: rank of the adapters of --tune lora
    rehearse: data folder with old songs for half of every batch, against catastrophic forgetting
    """

    from_model: str = ""
    tune: Literal["all", "lora", "labels", "lyrics"] = "all"
    rank: int = 8
    rehearse: str = ""


@dataclass(frozen=True)
class EngineParams:
    """Distribution of the training over ranks and memory.

    zero: ZeRO stage of DeepSpeed, sharding over ranks: 1 moments, 2 also gradients, 3 also weights, 0 none; auto: 1 for several
        ranks
    offload: keep the optimiser in the memory of the host, for priors larger than the GPU
    accumulate: number of sequential parts of each rank's batch (gradient accumulation); priors only
    adam: torch (fused), or deepspeed: DeepSpeed's kernels, which are compiled at first use
    deepspeed: a json file with additional DeepSpeed settings
    card: memory of each GPU in GB: chooses zero, offload and recompute; --zero overrides it
    """

    zero: Literal["auto", "0", "1", "2", "3"] = "auto"
    offload: bool = False
    accumulate: int = 1
    adam: Literal["torch", "deepspeed"] = "torch"
    deepspeed: str = ""
    card: Literal["any", "8", "16", "24", "40", "80"] = "any"

    def for_card(self) -> tuple[ParallelConfig, bool]:
        """Return the configuration with the settings of --card, and whether the card needs gradient checkpointing."""
        from launch.engines.deepspeed_config import CARDS, ParallelConfig

        suits = CARDS[int(self.card)] if self.card != "any" else {}
        stage = suits.get("zero", -1) if self.zero == "auto" else int(self.zero)
        offload = self.offload or suits.get("offload", False)
        return ParallelConfig(stage, offload, self.accumulate, self.adam, self.deepspeed), suits.get("recompute", False)
