"""Recipe: training hyper-parameters of a part of a model, with changes for the phases of adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class PhaseRecipe:
    """Changes of a recipe for one training phase; a field of None keeps the recipe's value.

    every: the phase is trained in each `every`-th step
    start: share of the run at which the phase begins
    lr: factor on the recipe's learning rate
    """

    every: int = 1
    start: float = 0.0
    lr: float = 1.0
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    warmup: int | None = None
    clip: float | None = None
    ema: float | None = None
    skip_above: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.start < 1:
            raise ValueError(f"every {self.every}, start {self.start}: expected 1 or more, and a share of the run below 1")


@dataclass(frozen=True)
class Recipe:
    """Training hyper-parameters of a part.

    `steps`, `warmup` and `.._every` are in steps, and `crop` is in samples. A share is a share of the whole run.
    """

    steps: int
    batch: int
    lr: float
    muon: float = 0.0  # learning rate of Muon for the matrices of hidden layers; 0: AdamW for all weights
    crop: int = 0  # codecs only; a prior's window is its n_ctx
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 50
    schedule: str = "cosine"  # or "linear", "constant", "published"
    decay_from: float = 0.0  # share of the run at which linear decay starts
    gamma: float = 1.0  # "published" only: factor on the learning rate after every `gamma_every` steps
    gamma_every: int = 0  # 0: never
    final_lr: float = 0.05  # share of lr at the last step
    clip: float = 1.0  # gradients are clipped to this norm; 0: no clipping
    ema: float = 0.0  # decay of the averaged weights that are saved; 0: the last weights are saved
    skip_above: float = 20.0  # an update is skipped if its gradient norm exceeds the usual norm by this factor; 0: never
    bf16: bool = False  # bfloat16 autocast, if the machine has bfloat16 units
    bf16_stream: bool = False  # priors only: with bf16, the residual stream is in bfloat16 too
    fp16: bool = False  # float16 autocast with loss scaling, for GPUs without bfloat16
    recompute: bool = False  # gradient checkpointing, priors only: less memory for a third more time
    compile: bool = False  # priors only: torch.compile compiles the blocks, except in ZeRO 3
    gain_db: float = 0.0  # codecs only: largest attenuation of a crop in dB; one crop in SILENT_CROPS is silent; 0: off
    delay_quantiser: float = 0.0  # share trained before quantisation begins; without this delay few codebook rows are used
    song_starts: float = 0.0  # share of a prior's training windows that begin at the start of a song
    drop_labels: float = 0.0  # probability that a window's artist and genres are unknown
    drop_lyrics: float = 0.0  # probability that a window has no lyrics
    drop_times: float = 0.0  # probability that a window's lyrics have no times
    jitter_seconds: float = 0.0  # standard deviation of the noise on lyric times
    log_every: int = 20
    save_every: int = 500
    max_minutes: float = 0.0  # limit on the training time, summed over resumed runs; 0: none
    phases: Mapping[str, PhaseRecipe] = field(default_factory=dict)  # phase name -> changes, if modules are trained alternately

    def of_phase(self, name: str) -> Recipe:
        """Return the recipe of a phase: the general recipe with the changes of that phase."""
        if name not in self.phases:
            return self
        differs = asdict(phase := self.phases[name])
        changes: dict[str, Any] = {key: differs[key] for key in differs if key not in ("every", "start", "lr")}
        return replace(self, lr=self.lr * phase.lr, **{key: value for key, value in changes.items() if value is not None})
