"""Prior: conditions and the streams it reads, to the streams it writes. The interface that every prior has."""

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
Mask = dict[str, Bool[Tensor, "b _"]]  # stream -> which of its frames are known


@dataclass(frozen=True)
class Batch:
    """What a prior is trained on: the streams that it writes and its conditions.

    A prior that inpaints also needs `known`, the frames that it is given, and `asked`, those that the loss counts
    (default: all that are not known). `counts` are the frames of each stream by which sums are divided, where this is a
    part of a larger batch. A prior that masks the codes of a frame one by one may take these by names of its own, one for
    each code of a frame.
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
        """On a device; a GPU copies what lies in pinned memory while it computes."""
        on_gpu = torch.device(device).type == "cuda"
        return self.map(lambda x: x.to(device, non_blocking=on_gpu))

    def pin_memory(self) -> Batch:
        return self.map(lambda x: x.pin_memory())


class Window(NamedTuple):
    """Frames [start, start + length) of a song of `total` frames, counted in frames of the coarsest stream that the prior writes."""

    start: int
    length: int
    total: int


class Known(NamedTuple):
    """A window's sequences, whole, and which of their frames are known; the values of others do not matter.

    There is an entry for each stream that the prior writes; the stream above comes with the conditions.
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
    """The known frames (b, t, ..) of a window, which come first in every row; ValueError for other masks, or where none is unknown."""
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
    """Final values (b, n, ..) of frames [start, start + n) of a window, in frames of the stream; n may be 0 to report progress.

    The updates of a stream come in order of time; frames between them were known.
    """

    stream: str
    start: int
    values: Tensor


class Noise(Protocol):
    """Random numbers of a window, for each row independent of the batch it is in."""

    def sequential(self) -> Sequence[torch.Generator]:
        """One generator per row, at its beginning."""
        ...

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        """Standard normal numbers of the absolute frames [first, first + n) of a stream, equal in all windows that hold them."""
        ...


class State(Protocol):
    """A window in progress: what is saved so that a killed process goes on in its middle.

    The name "frames" in `state_dict` is the sampler's. `load_state_dict` gets the tensors of a state of the same start; ValueError
    where they do not fit.
    """

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None: ...
    @property
    def nbytes(self) -> int: ...


class Prior(nn.Module, ABC):
    """A model of the streams `spec.writes`, given conditions and the streams `spec.reads`.

    It is made from its configuration alone, on torch's meta device, and then filled from its file: buffers must be persistent.
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
        """Names of the log to values; "loss" is what training lowers, "bits" the bits per frame."""

    @abstractmethod
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        """Bits of each frame of the streams written, (b, t), nan where it is known; None without a likelihood."""

    @abstractmethod
    def start(self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]) -> State:
        """State of a window that is to be sampled; `params` are the sampling parameters of each stream to be written.

        With prompt "prefix" the mask of `known` is equal in all rows, and known frames come first. ValueError for others.
        """

    @abstractmethod
    def sample(self, state: Any) -> Iterator[Update]:
        """What is not known yet, in blocks; the state may be saved whenever one is yielded, and then is after it."""

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
class HasSteps(Protocol):
    """Sequential steps that can be compiled (CPU) or captured (GPU)."""

    compiled: bool


@runtime_checkable
class HasTrunk(HasSteps, Protocol):
    """One autoregressive trunk: LoRA and int8 weights."""

    trunk: nn.Module
    block: int  # codes of an update

    def quantise(self) -> None: ...


@runtime_checkable
class SupportsMuon(Protocol):
    """Matrices of hidden layers (no embeddings, no output heads), which Muon may train."""

    def muon_parameters(self) -> Iterable[nn.Parameter]: ...


@runtime_checkable
class DrawsMasks(Protocol):
    """Training on windows of which some frames are known: per window, one generator draws the masks of both."""

    def draw_masks(self, rngs: Sequence[np.random.Generator]) -> tuple[Mask, Mask]: ...  # known; what the loss counts


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError where a saved state lacks a tensor, or has one of another shape or dtype than expected."""
    for name, like in expected.items():
        if name not in tensors or (tensors[name].shape, tensors[name].dtype) != (like.shape, like.dtype):
            raise ValueError(f"{name} of a saved state is not {like.dtype} of shape {tuple(like.shape)}")


def sample_window(
    prior: Prior, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]
) -> Sequences:
    """The streams that `params` names, whole: known frames as they are, all others sampled."""
    made = {stream: known.sequences[stream].clone() for stream in params}
    for stream, start, values in prior.sample(prior.start(window, known, cond, noise, params)):
        made[stream][:, start : start + values.shape[1]] = values
    return made
