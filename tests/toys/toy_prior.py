"""A toy prior in one file: latents from any known ones around them and from the artist, refined in a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig, LyricConfig
from priors.conditioning.labels import LabelEmbedding
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, check_shapes
from priors.spec import DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec

STREAM, WIDTH = "toy.latents", 8


@dataclass(frozen=True)
class ToyPriorConfig(PriorConfig):
    """Windows of `window` latents, and the tables of the labels."""

    kind = "toy-prior"
    hop: int = 128
    sample_rate: int = 8000
    window: int = 16
    hidden: int = 16
    labels: LabelConfig | None = field(default_factory=lambda: LabelConfig(1, 1, sample_rate=8000))
    lyrics: LyricConfig | None = None

    @property
    def spec(self) -> PriorSpec:
        return PriorSpec((), (STREAM,), self.window, "any")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ToyPriorConfig:
        return cls(**{**data, "labels": data["labels"] and LabelConfig(**data["labels"])})

    def parameters(self) -> ParameterCount:
        matrices = 2 * WIDTH * self.hidden + self.hidden * WIDTH
        labels = self.labels.rows * self.hidden if self.labels else 0
        return ParameterCount(matrices, self.hidden + WIDTH, 0, self.hidden + WIDTH + labels, 0)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        weights = 4 * self.parameters().all
        activations = 4 * job.rows * self.window * (self.hidden + 4 * WIDTH)
        parts = {"weights": weights, "cache": 0, "conditions": 0, "activations": activations}
        steps = job.params.get("steps", 4) * len(job.windows)
        products = 2 * self.parameters().matrices * self.window * steps * job.samples
        return DecodingCost(job.rows, parts, job.batches * steps, 0, 0, products)


@dataclass(frozen=True)
class ToyParams:
    """Sampling parameters.

    steps: refinement steps of a window
    spread: standard deviation of the noise in the first of them
    """

    steps: int = 4
    spread: float = 0.1


@dataclass
class ToyState:
    """A window in progress: its latents, and how many steps and blocks are done."""

    cond: Conditions
    params: ToyParams
    noise: Tensor
    known: Tensor
    values: Tensor
    step: int = 0
    block: int = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.values.cpu(), "progress": torch.tensor([self.step, self.block])}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Bring a state of the same start to where `tensors` were taken; ValueError where they are of another shape."""
        check_shapes(tensors, self.state_dict())
        self.values = tensors["values"].to(self.values.device, copy=True)
        self.step, self.block = tensors["progress"].tolist()

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.state_dict().values())


class ToyPrior(Prior):
    """Each unknown latent from its two neighbours, where these are known, and the artist."""

    def __init__(self, config: ToyPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.labels = LabelEmbedding(config.labels, config.hidden, 0.1) if config.labels else None
        self.inlet, self.out = nn.Linear(2 * WIDTH, config.hidden), nn.Linear(config.hidden, WIDTH)

    def forward(self, latents: Tensor, known: Tensor, cond: Conditions) -> Tensor:
        x = latents * known[..., None]
        neighbours = torch.cat([nn.functional.pad(x, (0, 0, 1, 0))[:, :-1], nn.functional.pad(x, (0, 0, 0, 1))[:, 1:]], dim=2)
        h = self.inlet(neighbours)
        if self.labels is not None:
            h = h + self.labels(cond.artist, cond.genres, len(latents))
        return self.out(h.relu())

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        latents = batch.sequences[STREAM]
        known = torch.rand(latents.shape[:2], device=latents.device) < 0.5 if batch.known is None else batch.known[STREAM]
        error = (self(latents, known, batch.cond) - latents).square().mean(2)
        return {"loss": (error * ~known).sum() / (~known).sum().clamp(min=1)}

    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        return None

    def start(self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, ToyParams]) -> ToyState:
        values, mask = known.sequences[STREAM], known.mask[STREAM]
        if values.shape[1] != window.length:
            raise ValueError(f"{values.shape[1]} latents in a window of {window.length}; expected as many")
        numbers = noise.at(STREAM, window.start, window.length, WIDTH).to(values)
        return ToyState(cond, params[STREAM], numbers, mask, values * mask[..., None])

    @torch.no_grad()
    def sample(self, state: ToyState) -> Iterator[Update]:
        """Refine the whole window step by step, from the known latents alone at first; then yield it in two blocks."""
        steps, length = state.params.steps, state.values.shape[1]
        while state.step < steps:
            given = state.known if state.step == 0 else torch.ones_like(state.known)
            noise = state.params.spread * (1 - state.step / steps) * state.noise
            made = self(state.values, given, state.cond) + noise
            state.values, state.step = torch.where(state.known[..., None], state.values, made), state.step + 1
            yield Update(STREAM, 0, state.values[:, :0])
        while state.block < 2:
            start, end = (length * i // 2 for i in (state.block, state.block + 1))
            state.block += 1
            yield Update(STREAM, start, state.values[:, start:end])
