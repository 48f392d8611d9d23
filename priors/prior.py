"""Prior: the interface of all priors, which map conditions and the streams they read to the streams they write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.spec import PriorSpec

Sequences = dict[str, Tensor]  # stream -> codes (b, t) or (b, t, books) int64, or latents (b, t, width)
Mask = dict[str, Bool[Tensor, "b _"]]  # stream -> mask of its known frames


@dataclass(frozen=True)
class Batch:
    """A training batch of a prior: the streams that it writes and its conditions.

    A prior that inpaints also needs `known`, the mask of given frames, and `asked`, the mask of frames in the loss (default:
    all unknown ones). `counts` are the divisors of sums over the frames of each stream, for a part of a larger batch. A prior
    that masks each code of a frame separately may use one name per code in these masks.
    """

    sequences: Sequences
    cond: Conditions
    known: Mask | None = None
    asked: Mask | None = None
    counts: Mapping[str, float] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` applied to every tensor."""
        known, asked = (each and {k: function(x) for k, x in each.items()} for each in (self.known, self.asked))
        sequences = {k: function(x) for k, x in self.sequences.items()}
        return Batch(sequences, self.cond.map(function), known, asked, self.counts)

    def to(self, device: torch.device | str) -> Batch:
        """Move the batch to a device; a GPU copies pinned memory while it computes."""
        on_gpu = torch.device(device).type == "cuda"
        return self.map(lambda x: x.to(device, non_blocking=on_gpu))

    def pin_memory(self) -> Batch:
        return self.map(lambda x: x.pin_memory())


class Window(NamedTuple):
    """Frames [start, start + length) of a song of `total` frames, in units of the coarsest stream that the prior writes."""

    start: int
    length: int
    total: int


class Known(NamedTuple):
    """The sequences of a window with a mask of their known frames; values of unknown frames are ignored.

    There is an entry for each stream that the prior writes. The stream above is one of the conditions.
    """

    sequences: Sequences
    mask: Mask

    @staticmethod
    def prefix(stream: str, prompt: Tensor, length: int) -> Known:
        """A window of `length` frames of one stream that begins with `prompt` (b, t, ..)."""
        given = prompt.shape[1]
        if given > length:
            raise ValueError(f"a prompt of {given} frames in a window of {length}; expected at most as many")
        values = torch.cat([prompt, prompt.new_zeros(len(prompt), length - given, *prompt.shape[2:])], dim=1)
        mask = torch.arange(length, device=prompt.device).expand(len(prompt), -1) < given
        return Known({stream: values}, {stream: mask})


def known_prefix(stream: str, window: Window, known: Known, n_ctx: int) -> Tensor:
    """The known first frames (b, t, ..) of a window; ValueError for other masks, or if no frame is unknown."""
    mask = known.mask[stream]
    if mask.shape[1] != window.length or window.length > n_ctx:
        raise ValueError(f"{mask.shape[1]} codes in a window of {window.length}; expected as many, and at most {n_ctx}")
    prompt = int(mask[0].sum())
    if not (mask == (torch.arange(window.length, device=mask.device) < prompt)).all():
        raise ValueError(f"the known codes of {stream} must be the first ones, as many in every row")
    if prompt == window.length:
        raise ValueError(f"a prompt of {prompt} codes fills the window of {window.length}; leave room for new ones")
    return known.sequences[stream][:, :prompt]


class Update(NamedTuple):
    """Final values (b, n, ..) of frames [start, start + n) of a window, in frames of the stream; n is 0 in a report of
    progress.

    The updates of a stream are in order of time; frames between them were known.
    """

    stream: str
    start: int
    values: Tensor


class Noise(Protocol):
    """Random numbers of a window; those of a row do not depend on the batch."""

    def sequential(self) -> Sequence[torch.Generator]:
        """One generator per row, in its initial state."""
        ...

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        """Standard normal numbers of the absolute frames [first, first + n) of a stream, the same in all windows."""
        ...


class State(Protocol):
    """State of a window in progress, which is saved so that a killed process can resume within the window.

    The name "frames" in `state_dict` is reserved for the sampler. `load_state_dict` gets the tensors of a state of the same
    start; ValueError if they do not match.
    """

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None: ...
    @property
    def nbytes(self) -> int: ...


class Prior(nn.Module, ABC):
    """A model of the streams `spec.writes`, given conditions and the streams `spec.reads`.

    It is built from its configuration on torch's meta device, then its file is loaded. So buffers must be persistent.
    """

    config: Any  # a PriorConfig

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def spec(self) -> PriorSpec:
        return self.config.spec

    @abstractmethod
    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        """Values for the log by name; "loss" is the training loss, "bits" the bits per frame."""

    @abstractmethod
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        """Bits of each frame of the written streams, (b, t), nan for known frames; None if the prior has no likelihood."""

    @abstractmethod
    def start(self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]) -> State:
        """Start a window; `params` are the sampling parameters of each stream to write.

        With prompt "prefix" the mask of `known` is equal in all rows, and known frames come first. ValueError for other masks.
        """

    @abstractmethod
    def sample(self, state: Any) -> Iterator[Update]:
        """Sample the unknown frames in blocks; after each yield the state can be saved and includes that block."""

    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Initialise the tables of the named streams from one vector per code; by default they stay random."""
        return


# ---- optional protocols; a verb that needs one reports in one line if a prior lacks it


@runtime_checkable
class HasHiddenStates(Protocol):
    """Hidden states for features."""

    def hidden_states(
        self, sequences: Sequences, cond: Conditions, layer: int
    ) -> Float[Tensor, "b t w"]: ...  # after `layer` layers


@runtime_checkable
class ScoresLyrics(Protocol):
    """Scores of lyric tokens against codes, for alignment and its metrics."""

    def lyric_layers(self) -> list[int]: ...
    def lyric_attention(self, codes: Int[Tensor, "b t"], cond: Conditions, layer: int) -> Float[Tensor, "b h t n"]: ...
    def nll_at_distance(
        self, codes: Int[Tensor, "b t"], cond: Conditions, distance: Float[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]: ...


@runtime_checkable
class HasSteps(Protocol):
    """Sequential decoding steps that can be compiled (CPU) or captured (GPU)."""

    compiled: bool


@runtime_checkable
class HasTrunk(HasSteps, Protocol):
    """One autoregressive trunk: LoRA and int8 weights."""

    trunk: nn.Module
    block: int  # codes per update

    def quantise(self) -> None: ...


@runtime_checkable
class SupportsMuon(Protocol):
    """Weight matrices of hidden layers (no embeddings, no output heads), which Muon may train."""

    def muon_parameters(self) -> Iterable[nn.Parameter]: ...


@runtime_checkable
class DrawsMasks(Protocol):
    """Training on partly known windows: for each window one generator samples both masks."""

    # masks of known frames, and of frames in the loss
    def draw_masks(self, rngs: Sequence[np.random.Generator]) -> tuple[Mask, Mask]: ...


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a saved state lacks a tensor, or has one of another shape or dtype."""
    for name, like in expected.items():
        if name not in tensors or (tensors[name].shape, tensors[name].dtype) != (like.shape, like.dtype):
            raise ValueError(f"{name} of a saved state is not {like.dtype} of shape {tuple(like.shape)}")


def sample_window(
    prior: Prior, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]
) -> Sequences:
    """Sample the unknown frames of the streams that `params` names, and return the whole streams."""
    made = {stream: known.sequences[stream].clone() for stream in params}
    for stream, start, values in prior.sample(prior.start(window, known, cond, noise, params)):
        made[stream][:, start : start + values.shape[1]] = values
    return made
