"""Prior: the interface of all priors. A prior maps conditions and the streams it reads to the streams it writes."""

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
    """A training batch of a prior: the streams that the prior writes, and the conditions.

    A prior that inpaints also needs `known`, the mask of the given frames. `asked` is the mask of the frames in the loss. By
    default these are all unknown frames. `counts` maps each stream to the divisor of its sum over frames. It is given if this
    batch is a part of a larger batch. A prior that masks each code of a frame separately may have one mask per code, each with
    its own name.
    """

    sequences: Sequences
    cond: Conditions
    known: Mask | None = None
    asked: Mask | None = None
    counts: Mapping[str, float] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return a copy of the batch with `function` applied to every tensor."""
        known, asked = (each and {k: function(x) for k, x in each.items()} for each in (self.known, self.asked))
        sequences = {k: function(x) for k, x in self.sequences.items()}
        return Batch(sequences, self.cond.map(function), known, asked, self.counts)

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device. Copies from pinned memory to a GPU are asynchronous."""
        on_gpu = torch.device(device).type == "cuda"
        return self.map(lambda x: x.to(device, non_blocking=on_gpu))

    def pin_memory(self) -> Batch:
        return self.map(lambda x: x.pin_memory())


class Window(NamedTuple):
    """Frames [start, start + length) of a song of `total` frames, counted in frames of the coarsest stream that the prior
    writes.
    """

    start: int
    length: int
    total: int


class Known(NamedTuple):
    """The sequences of a window, and the mask of the known frames. Values of unknown frames are ignored.

    There is an entry for each stream that the prior writes. The stream above is not here; it is one of the conditions.
    """

    sequences: Sequences
    mask: Mask

    @staticmethod
    def prefix(stream: str, prompt: Tensor, length: int) -> Known:
        """Return a window of `length` frames of one stream.

        Its first frames are `prompt` (b, t, ..), and only these are known.
        """
        given = prompt.shape[1]
        if given > length:
            raise ValueError(f"a prompt of {given} frames in a window of {length}; expected at most as many")
        values = torch.cat([prompt, prompt.new_zeros(len(prompt), length - given, *prompt.shape[2:])], dim=1)
        mask = torch.arange(length, device=prompt.device).expand(len(prompt), -1) < given
        return Known({stream: values}, {stream: mask})


def known_prefix(stream: str, window: Window, known: Known, n_ctx: int) -> Tensor:
    """Return the known first frames (b, t, ..) of a window.

    Raise ValueError if the mask is not a prefix of equal length in all rows, or if no frame is unknown.
    """
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
    """Final values (b, n, ..) of the frames [start, start + n) of a window, counted in frames of the stream.

    An update with n = 0 reports progress only. The updates of a stream are in order of time. Frames that no update contains
    were known.
    """

    stream: str
    start: int
    values: Tensor


class Noise(Protocol):
    """Random numbers of a window. The numbers of a row do not depend on the other rows of the batch."""

    def sequential(self) -> Sequence[torch.Generator]:
        """Return one generator per row, in its initial state."""
        ...

    def at(self, stream: str, first: int, n: int, width: int = 1) -> Float[Tensor, "b n w"]:
        """Return standard normal numbers for the absolute frames [first, first + n) of a stream, equal in all windows."""
        ...


class State(Protocol):
    """State of a window in progress. The sampler saves it, so that a killed process can resume inside the window.

    The key "frames" in `state_dict` is reserved for the sampler. `load_state_dict` takes the tensors of a state that began with
    the same call of `start`. Raise ValueError if names, shapes or dtypes differ.
    """

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None: ...
    @property
    def nbytes(self) -> int: ...


class Prior(nn.Module, ABC):
    """A model of the streams `spec.writes`, given conditions and the streams `spec.reads`.

    The loader builds a prior from its configuration on torch's meta device, and then loads the weights from a file. Therefore
    all buffers must be persistent.
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
        """Return values for the log by name. "loss" is the training loss, and "bits" is the number of bits per frame."""

    @abstractmethod
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences | None:
        """Return the bits of each frame (b, t) of the written streams (known frames: nan), or None if the prior has no
        likelihood.
        """

    @abstractmethod
    def start(self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]) -> State:
        """Start a window. `params` maps each stream to write to its sampling parameters.

        With prompt "prefix" the known frames must come first, and the mask of `known` must be equal in all rows. ValueError
        otherwise.
        """

    @abstractmethod
    def sample(self, state: Any) -> Iterator[Update]:
        """Sample the unknown frames in blocks. After each yield the state includes that block and can be saved."""

    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Initialise the embedding tables of the named streams from one vector per code. By default this is a no-op."""
        return


# ---- optional protocols; if a prior lacks a protocol that a verb needs, the verb reports this in one line


@runtime_checkable
class HasHiddenStates(Protocol):
    """A prior that returns hidden states, which are used as features."""

    def hidden_states(
        self, sequences: Sequences, cond: Conditions, layer: int
    ) -> Float[Tensor, "b t w"]: ...  # the states after `layer` layers


@runtime_checkable
class ScoresLyrics(Protocol):
    """A prior that scores lyric tokens against codes. Alignment and its metrics use the scores."""

    def lyric_layers(self) -> list[int]: ...
    def lyric_attention(self, codes: Int[Tensor, "b t"], cond: Conditions, layer: int) -> Float[Tensor, "b h t n"]: ...
    def nll_at_distance(
        self, codes: Int[Tensor, "b t"], cond: Conditions, distance: Float[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]: ...


@runtime_checkable
class HasSteps(Protocol):
    """A prior with sequential decoding steps, which can be compiled (CPU) or captured as a CUDA graph (GPU)."""

    compiled: bool


@runtime_checkable
class HasTrunk(HasSteps, Protocol):
    """A prior with one autoregressive trunk, which supports LoRA and int8 weights."""

    trunk: nn.Module
    block: int  # codes per update

    def quantise(self) -> None: ...


@runtime_checkable
class SupportsMuon(Protocol):
    """A prior with weight matrices that Muon may train: those of hidden layers, without embeddings and output heads."""

    def muon_parameters(self) -> Iterable[nn.Parameter]: ...


@runtime_checkable
class DrawsMasks(Protocol):
    """A prior that is trained on partly known windows. One generator per window samples the masks."""

    # returns the mask of the known frames, and the mask of the frames in the loss
    def draw_masks(self, rngs: Sequence[np.random.Generator]) -> tuple[Mask, Mask]: ...


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a saved state lacks an expected tensor, or if a tensor has another shape or dtype."""
    for name, like in expected.items():
        if name not in tensors or (tensors[name].shape, tensors[name].dtype) != (like.shape, like.dtype):
            raise ValueError(f"{name} of a saved state is not {like.dtype} of shape {tuple(like.shape)}")


def sample_window(
    prior: Prior, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, Any]
) -> Sequences:
    """Sample the unknown frames of the streams that `params` names. Return these streams with known and sampled frames."""
    made = {stream: known.sequences[stream].clone() for stream in params}
    for stream, start, values in prior.sample(prior.start(window, known, cond, noise, params)):
        made[stream][:, start : start + values.shape[1]] = values
    return made
