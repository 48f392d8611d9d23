"""Prior: conditions and the streams it reads, to the streams it writes. The interface that every prior has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.spec import PriorSpec, SamplingParams

Sequences = dict[str, Tensor]  # stream -> codes (b, t) or (b, t, books) int64, or latents (b, t, width)
Mask = dict[str, Bool[Tensor, "b _"]]  # stream -> which of its frames are known


@dataclass(frozen=True)
class Batch:
    """What a prior is trained on: the streams that it writes and its conditions.

    A prior that inpaints also needs `known`, the frames that it is given, and `asked`, those that the loss counts
    (default: all that are not known). `counts` are the frames of each stream by which sums are divided, where this is a
    part of a larger batch.
    """

    sequences: Sequences
    cond: Conditions
    known: Mask | None = None
    asked: Mask | None = None
    counts: Mapping[str, float] | None = None

    def to(self, device: torch.device | str) -> Batch:
        known, asked = (each and {k: x.to(device) for k, x in each.items()} for each in (self.known, self.asked))
        sequences = {k: x.to(device) for k, x in self.sequences.items()}
        return Batch(sequences, self.cond.to(device), known, asked, self.counts)


class State(Protocol):
    """A window in progress: what is saved so that a killed process goes on in its middle."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None: ...
    @property
    def nbytes(self) -> int: ...


class Prior(nn.Module, ABC):
    """A model of the streams `spec.writes`, given conditions and the streams `spec.reads`."""

    config: Any  # a PriorConfig

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def spec(self) -> PriorSpec:
        return self.config.spec

    @abstractmethod
    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        """Names of the log to values; "loss" is what training lowers, "bits" the bits per frame."""

    @abstractmethod
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        """Bits of each frame of the streams written, (b, t), nan where it is known; None without a likelihood."""

    @abstractmethod
    def start(self, cond: Conditions, prompt: Sequences, rngs: Sequence[torch.Generator], params: SamplingParams) -> State:
        """State of a window after the frames of `prompt`; one generator per sample."""

    @abstractmethod
    def sample(self, state: Any, length: int) -> Iterator[Sequences]:
        """The next `length` frames, in blocks."""

    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Start the tables of the streams named from one vector per code; by default they stay random."""
        return


# ---- what only some priors can do; verbs that need it report in one line where a prior cannot


@runtime_checkable
class HasHiddenStates(Protocol):
    """Hidden states for features."""

    def hidden_states(
        self, sequences: Sequences, cond: Conditions, layer: int
    ) -> Float[Tensor, "b t w"]: ...  # after `layer` layers


@runtime_checkable
class ScoresLyrics(Protocol):
    """How well lyric tokens fit codes, for alignment and its figures."""

    def lyric_layers(self) -> list[int]: ...
    def lyric_attention(self, codes: Int[Tensor, "b t"], cond: Conditions, layer: int) -> Float[Tensor, "b h t n"]: ...
    def nll_at_distance(
        self, codes: Int[Tensor, "b t"], cond: Conditions, distance: Float[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]: ...


@runtime_checkable
class HasTrunk(Protocol):
    """One autoregressive trunk: LoRA, int8 weights and compiled steps."""

    trunk: nn.Module
    compiled: bool

    def quantise(self) -> None: ...


@runtime_checkable
class Inpaints(Protocol):
    """Masked parallel decoding around known frames."""

    def fill(
        self, sequences: Sequences, known: Mask, cond: Conditions, rngs: Sequence[torch.Generator],
        params: Mapping[str, SamplingParams],
    ) -> Sequences: ...  # fmt: skip
