"""Decoding state of an autoregressive prior: conditioning inputs, caches and position. Also the interface of decoding steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.prior import check_shapes
from priors.spec import TokenParams
from priors.transformer.cache import Caches
from priors.transformer.config import TrunkConfig
from priors.transformer.trunk import Transformer

P = TypeVar("P", bound=TokenParams)
Step = Callable[[Int[Tensor, "b *books"]], Float[Tensor, "b k"]]


class HasTrunkConfig(Protocol):
    """A configuration of a prior with one trunk."""

    @property
    def trunk(self) -> TrunkConfig: ...


class SteppedPrior(Protocol):
    """The parts of a prior that a decoding step uses. The input of a step is the codes of one position, (b,) or (b, books).

    The result is (b, k). With a `table` it has the logits over the rows of the table. Without a table it is the trunk's output
    plus the conditions.
    """

    compiled: bool  # whether steps are to be compiled

    @property
    def config(self) -> HasTrunkConfig: ...
    @property
    def trunk(self) -> Transformer: ...
    @property
    def table(self) -> nn.Module | None:
        """An embedding, or a linear layer without bias, whose rows predict codes. None: a step returns the trunk's output."""
        ...

    def inputs(self, conditioning: ConditioningInputs, code: Tensor, position: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the trunk's input (b 1 w) for the codes at a position, and the vector to add to its output, or None."""
        ...

    def step(self, conditioning: ConditioningInputs, caches: Caches, code: Tensor, position: Tensor) -> Tensor:
        """Return the result for the codes at a position. This is a pure function of tensors with fixed shapes."""
        ...


@dataclass
class ConditioningInputs:
    """Conditions as inputs of the trunk: the start vector (b 1 w), the vectors that are added to the inputs (b t w), and
    lyrics.

    Lyrics are either encoded (b n w), with their distances in seconds (b t n), or token ids (b n) that precede the codes.
    """

    start: Tensor
    steps: Tensor | None
    encoded: Tensor | None
    distance: Tensor | None
    lyric_ids: Tensor | None

    def at(self, position: Int[Tensor, " 1"]) -> Float[Tensor, "b 1 w"] | None:
        return None if self.steps is None else self.steps.index_select(1, position)


@dataclass
class DecodeState(Generic[P]):
    """A window in progress: conditioning inputs, caches, and the output of the last step.

    The output has the logits of the next code, or the trunk's output (see `SteppedPrior`). It is None if `code`, the last
    sampled code, has not been an input yet. For a prior with several books per position, `code` is (b books) and `numbers` is
    (b t books).
    """

    conditioning: ConditioningInputs
    caches: list[Any]  # key-value caches, or ring buffers; their attribute `kept` names the tensors of a saved state
    position: int  # number of steps in the caches
    output: Float[Tensor, "b k"] | None
    params: P
    numbers: Float[Tensor, "b t *books"]  # uniform random numbers, one per code to sample
    prompt: int = 0  # number of known frames of the window
    done: int = 0  # number of frames sampled so far
    code: Tensor | None = None
    guided: bool = False
    step: Step | None = None  # the decoding step, created when the first code is an input

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that changed since `start`, on the CPU. At least one code must have been sampled."""
        assert self.code is not None
        buffers = {name: buffer.cpu() for name, buffer in self._buffers()}
        return {
            **buffers,
            "code": self.code.cpu(),
            "position": torch.tensor([self.position], device="cpu"),
            "done": torch.tensor([self.done], device="cpu"),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore `tensors` of `state_dict` into a state that began with the same call of `start`.

        Raise ValueError if a shape or dtype differs. Then the state does not change.
        """
        one = torch.zeros(1, dtype=torch.long, device="cpu")
        check_shapes(tensors, {**dict(self._buffers()), "code": self.numbers[:, 0].long(), "position": one, "done": one})
        for name, buffer in self._buffers():
            buffer.copy_(tensors[name])
        self.code, self.output = tensors["code"].to(self.conditioning.start.device), None
        self.position, self.done, self.step = int(tensors["position"]), int(tensors["done"]), None

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for _, buffer in self._buffers())

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for i, cache in enumerate(self.caches):
            yield from ((f"{name}_{i}", getattr(cache, name)) for name in cache.kept)


def join_batches(a: ConditioningInputs, b: ConditioningInputs) -> ConditioningInputs:
    def join(x: Tensor | None, y: Tensor | None) -> Any:
        if x is None:
            return None if y is None else torch.cat([torch.zeros_like(y), y])
        return torch.cat([x, torch.zeros_like(x) if y is None else y])

    return ConditioningInputs(*(join(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))
