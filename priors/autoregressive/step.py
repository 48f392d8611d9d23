"""One step of decoding, three ways to the same answer: codes go in, the logits of the next, or the trunk's output, come out.

    Plain      the operations of the prior one by one, as everywhere else
    Captured   the same, recorded once as a CUDA graph: a step is one launch instead of a thousand
    Native     (`native.py`) compiled C++ on a CPU

All stand on the same caches, and hold nothing else but the position, so that one may go on where another stopped. The
position is a tensor on the device: nothing waits for the device between one code and the next.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from priors.autoregressive.state import ConditioningInputs, Step, SteppedPrior
from priors.transformer.cache import Caches


class Plain:
    def __init__(self, prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int):
        self.prior, self.conditioning, self.caches = prior, conditioning, caches
        self.position = torch.tensor([position], device=conditioning.start.device)

    def __call__(self, code: Int[Tensor, "b *books"]) -> Float[Tensor, "b k"]:
        output = self.prior.step(self.conditioning, self.caches, code, self.position)
        self.position += 1
        return output


class Captured:
    def __init__(self, prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int):
        self.plain = Plain(prior, conditioning, caches, position)
        self.graph: torch.cuda.CUDAGraph | None = None

    def capture(self, code: Int[Tensor, "b *books"]) -> torch.cuda.CUDAGraph:
        """Record a step for codes of this shape."""
        plain, self.code = self.plain, code.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels are loaded and room is made; what it writes, the first step overwrites
            plain.prior.step(plain.conditioning, plain.caches, self.code, plain.position)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = plain(self.code)
        return graph

    def __call__(self, code: Int[Tensor, "b *books"]) -> Float[Tensor, "b k"]:
        if self.graph is None:  # the first codes show the shape
            self.graph = self.capture(code)
        self.code.copy_(code)
        self.graph.replay()
        return self.output.clone()  # the graph writes the next one over this


def stepper(prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int, compiled: bool) -> Step:
    """The steps of a window: plain, or where that is wanted captured (GPU) or native (CPU)."""
    if not compiled:
        return Plain(prior, conditioning, caches, position)
    if conditioning.start.is_cuda:
        return Captured(prior, conditioning, caches, position)
    from priors.autoregressive.native import Native

    return Native(prior, conditioning, caches, position)
