"""Prior: conditions to sequences. The interface that every prior of this house has, whatever it is inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions

Sequences = dict[int, Tensor]  # level -> codes (b, t) int64, or latents (b, t, d)


@dataclass(frozen=True)
class PriorSpec:
    """What a prior hears and makes: levels read and written, steps of a window, codebook size (None: latents of `width`)."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    n_ctx: int
    bins: int | None
    width: int | None = None


@dataclass(frozen=True)
class SamplingParams:
    """Choices of sampling; temperature 0 takes the likeliest code, top_k 0 and top_p 0 keep all, guidance 1 is none."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    guidance: float = 1.0
    passes: int = 0  # rounds of a prior that fills many codes at once; 0: as many as it takes by itself
    noise: float = 4.5  # of such a prior: how far chance, rather than the model, says which codes stand first
    published: bool = False  # reproduce the published code where ours is deliberately different


class Prior(nn.Module, ABC):
    """A model of sequences given conditions."""

    spec: PriorSpec

    @abstractmethod
    def loss(self, sequences: Sequences, cond: Conditions, keep: dict[int, Tensor] | None = None) -> dict[str, Tensor]:
        """Log names to values; "loss" is what training lowers, "bits" the bits per code; `keep` marks codes known."""

    @abstractmethod
    def start(self, cond: Conditions, prime: Sequences, rngs: Sequence[torch.Generator], params: SamplingParams) -> Any:
        """State of sampling after the codes of `prime` (b, t) have been heard; one generator a sample."""

    @abstractmethod
    def sample(self, state: Any, length: int) -> Iterator[Sequences]:
        """The next `length` codes, handed out as they come."""
