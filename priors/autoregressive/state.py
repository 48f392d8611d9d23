"""Decoding state of an autoregressive prior: conditioning inputs, caches, position; and what a decoding step needs."""

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
    """What a decoding step uses of a prior: codes of one position, (b,) or (b, books), go in.

    The answer is (b, k): logits over the rows of `table`, or, without a table, the output of the trunk with what is added again.
    """

    compiled: bool  # whether steps are to be compiled

    @property
    def config(self) -> HasTrunkConfig: ...
    @property
    def trunk(self) -> Transformer: ...
    @property
    def table(self) -> nn.Module | None:
        """An embedding, or a linear layer without bias, whose rows predict codes; None: the trunk's output is the answer."""
        ...

    def inputs(self, conditioning: ConditioningInputs, code: Tensor, position: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the trunk takes for the codes at a position (b 1 w), and what is added again to its output, if anything."""
        ...

    def step(self, conditioning: ConditioningInputs, caches: Caches, code: Tensor, position: Tensor) -> Tensor:
        """The answer to the codes at a position: a function of tensors alone, in fixed shapes."""
        ...


@dataclass
class ConditioningInputs:
    """Conditions as the trunk takes them: the start (b 1 w), what is added to every input (b t w), and the lyrics.

    Lyrics are encoded (b n w) with their distances in seconds (b t n), or letters (b n) in front of the codes.
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

    The output (logits of the next code, or the trunk's output, see `SteppedPrior`) is None while `code`, the last one sampled, has
    not been an input yet. A prior that samples several books per position has codes (b books) and numbers (b t books).
    """

    conditioning: ConditioningInputs
    caches: list[Any]  # key-value caches, or ring buffers; `kept` are the names of their tensors that a saved state has
    position: int  # steps in the caches
    output: Float[Tensor, "b k"] | None
    params: P
    numbers: Float[Tensor, "b t *books"]  # uniform ones, of each code that is to be sampled
    prompt: int = 0  # known frames of the window
    done: int = 0  # codes sampled
    code: Tensor | None = None
    guided: bool = False
    step: Step | None = None  # takes a code as input; made when the first one comes

    def state_dict(self) -> dict[str, Tensor]:
        """What distinguishes this state, after a code was sampled, from that which `start` returns; on the CPU."""
        assert self.code is not None
        buffers = {name: buffer.cpu() for name, buffer in self._buffers()}
        return {
            **buffers,
            "code": self.code.cpu(),
            "position": torch.tensor([self.position], device="cpu"),
            "done": torch.tensor([self.done], device="cpu"),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Bring a state of the same start to where `tensors` were taken.

        ValueError where they are of another shape, and nothing is changed.
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
