"""A toy prior in one file: latents from those known around them, whichever these are, and from the artist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.conditioning.config import LabelConfig, LyricConfig
from priors.conditioning.labels import LabelEmbedding
from priors.prior import Batch, Mask, Prior, Sequences
from priors.spec import DecodingCost, DecodingJob, ParameterCount, PriorConfig, PriorSpec, SamplingParams

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
        matrices = 3 * WIDTH * self.hidden + self.hidden * WIDTH
        labels = self.labels.rows * self.hidden if self.labels else 0
        return ParameterCount(matrices, self.hidden + WIDTH, 0, self.hidden + WIDTH + labels, 0)

    def decoding_cost(self, job: DecodingJob) -> DecodingCost:
        weights = 4 * self.parameters().all
        activations = 4 * job.rows * self.window * (self.hidden + 3 * WIDTH)
        parts = {"weights": weights, "cache": 0, "conditions": 0, "activations": activations}
        products = 2 * self.parameters().matrices * self.window * len(job.windows) * job.samples
        return DecodingCost(job.rows, parts, job.batches * len(job.windows), 0, 0, products)


@dataclass
class ToyState:
    """A window that has not begun: what is known of it, and the generators of its rows."""

    cond: Conditions
    prompt: Tensor
    rngs: Sequence[torch.Generator]
    nbytes: int = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is saved in the middle of a window."""


class ToyPrior(Prior):
    """Each unknown latent from its two neighbours, where these are known, and the artist."""

    def __init__(self, config: ToyPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.labels = LabelEmbedding(config.labels, config.hidden, 0.1) if config.labels else None
        self.inlet, self.out = nn.Linear(3 * WIDTH, config.hidden), nn.Linear(config.hidden, WIDTH)

    def forward(self, latents: Tensor, known: Tensor, cond: Conditions) -> Tensor:
        x = latents * known[..., None]
        beside = torch.cat([nn.functional.pad(x, (0, 0, 1, 0))[:, :-1], x, nn.functional.pad(x, (0, 0, 0, 1))[:, 1:]], dim=2)
        h = self.inlet(beside)
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

    def start(self, cond: Conditions, prompt: Sequences, rngs: Sequence[torch.Generator], params: SamplingParams) -> ToyState:
        return ToyState(cond, prompt[STREAM], rngs)

    @torch.no_grad()
    def sample(self, state: ToyState, length: int) -> Iterator[Sequences]:
        made = state.prompt
        for _ in range(length):
            known = torch.ones(made.shape[:2], dtype=torch.bool)
            step = self(torch.cat([made, made[:, :1] * 0], 1), torch.cat([known, ~known[:, :1]], 1), state.cond)[:, -1:]
            noise = torch.stack([torch.randn(1, WIDTH, generator=rng) for rng in state.rngs])
            made = torch.cat([made, step + 0.1 * noise], dim=1)
            yield {STREAM: made[:, -1:]}
