"""Decoding state of an autoregressive prior: conditioning inputs, caches, position; and what a decoding step needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.autoregressive.config import AutoregressiveConfig, AutoregressiveParams
from priors.prior import check_shapes
from priors.transformer.cache import Cache, Caches, CrossCache
from priors.transformer.trunk import Transformer

Step = Callable[[Int[Tensor, " b"]], Float[Tensor, "b k"]]


class SteppedPrior(Protocol):
    """What a decoding step uses of a prior."""

    config: AutoregressiveConfig
    trunk: Transformer
    x_emb: nn.Embedding
    x_out: Any  # a linear layer without bias, or None where the table of x_emb serves

    def inputs(self, conditioning: ConditioningInputs, code: Tensor, position: Tensor) -> tuple[Tensor, Tensor | None]: ...
    def step(self, conditioning: ConditioningInputs, caches: Caches, code: Tensor, position: Tensor) -> Tensor: ...


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
class DecodeState:
    """A window in progress: conditioning inputs, caches, and the logits of the next code.

    The logits are None while `code`, the last one sampled, has not been an input yet.
    """

    conditioning: ConditioningInputs
    caches: list[Cache | CrossCache]
    position: int  # steps in the caches
    logits: Tensor | None
    params: AutoregressiveParams
    numbers: Float[Tensor, "b t"]  # uniform ones, of each code that is to be sampled
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
            "position": torch.tensor([self.position]),
            "done": torch.tensor([self.done]),
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Bring a state of the same start to where `tensors` were taken.

        ValueError where they are of another shape, and nothing is changed.
        """
        one = torch.zeros(1, dtype=torch.long)
        check_shapes(tensors, {**dict(self._buffers()), "code": self.numbers[:, 0].long(), "position": one, "done": one})
        for name, buffer in self._buffers():
            buffer.copy_(tensors[name])
        self.code, self.logits = tensors["code"].to(self.conditioning.start.device), None
        self.position, self.done, self.step = int(tensors["position"]), int(tensors["done"]), None

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for _, buffer in self._buffers())

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for i, cache in enumerate(self.caches):
            if isinstance(cache, Cache):
                yield from ((f"{name}_{i}", getattr(cache, name)) for name in ("k", "v"))


def join_batches(a: ConditioningInputs, b: ConditioningInputs) -> ConditioningInputs:
    def join(x: Tensor | None, y: Tensor | None) -> Any:
        if x is None:
            return None if y is None else torch.cat([torch.zeros_like(y), y])
        return torch.cat([x, torch.zeros_like(x) if y is None else y])

    return ConditioningInputs(*(join(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))
