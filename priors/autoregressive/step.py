"""One decoding step in three implementations with equal results. A step takes codes and returns logits or the trunk's output.

    Plain      the operations of the prior in torch
    Captured   the same operations, captured once as a CUDA graph: a step is one launch instead of a thousand
    Native     (`native.py`) compiled C++ on a CPU

All implementations use the same caches. Their only other state is the position. So one implementation can continue after
another. The position is a tensor on the device, so that the host does not wait for the device between codes.
"""

from __future__ import annotations

import functools
import sys

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


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the CUDA stream for captures on a device.

    Each device has its own stream, because torch's default capture stream belongs to the device of the first capture.
    """
    return torch.cuda.Stream(device)


class Captured:
    """Decoding steps captured as a CUDA graph.

    If the capture fails, for example for lack of memory, a line is printed and the steps are plain.

    A graph stores addresses, not tensors. Therefore this object keeps all tensors that the graph reads and writes. These are
    the tensors of the plain step (prior, conditioning inputs, caches, position), the code and the output.
    """

    def __init__(self, prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int):
        self.plain, self.graph, self.tried = Plain(prior, conditioning, caches, position), None, False

    def capture(self, code: Int[Tensor, "b *books"]) -> torch.cuda.CUDAGraph | None:
        """Capture a step for codes of this shape on the current device. Return None if the capture fails."""
        plain, graph, self.code, self.tried = self.plain, torch.cuda.CUDAGraph(), code.clone(), True
        stream = capture_stream(code.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # restores the current stream; torch.cuda.graph does not do this after an error
            # warm-up: loads kernels and allocates memory; the first replay overwrites the results
            plain.prior.step(plain.conditioning, plain.caches, self.code, plain.position)
            try:  # with "thread_local", CUDA calls of other threads (such as another model) do not abort the capture
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self.output = plain(self.code)
            except RuntimeError as error:
                graph, plain.prior.compiled = None, False  # later windows do not retry
                reason = str(error).strip().split("\n")[0]
                print(f"a decoding step could not be captured ({reason}); the next ones are not compiled", file=sys.stderr)
        torch.cuda.current_stream().wait_stream(stream)
        return graph

    def __call__(self, code: Int[Tensor, "b *books"]) -> Float[Tensor, "b k"]:
        with torch.cuda.device(code.device):
            if not self.tried:  # captured at the first call, because the graph needs the shape of the codes
                self.graph = self.capture(code)
            if self.graph is None:
                return self.plain(code)
            self.code.copy_(code)
            self.graph.replay()
            return self.output.clone()  # the graph overwrites this tensor in the next step


def stepper(prior: SteppedPrior, conditioning: ConditioningInputs, caches: Caches, position: int, compiled: bool) -> Step:
    """Return the decoding steps of a window. If `compiled`, they are captured (GPU) or native (CPU), otherwise plain."""
    device = conditioning.start.device.type
    if compiled and device == "cuda":
        return Captured(prior, conditioning, caches, position)
    if compiled and device == "cpu":
        from priors.autoregressive.native import Native

        return Native(prior, conditioning, caches, position)
    return Plain(prior, conditioning, caches, position)
