"""Bidirectional simple recurrent units (Lei and others 2018, arXiv:1709.02755): a matrix product, then an element-wise scan."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def scan(values: Float[Tensor, "n t d"], keep: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
    """Return the states c_t = keep_t c_(t-1) + (1 - keep_t) values_t, with c_(-1) = 0.

    A Python loop is fast enough, because t is short. The tensors are unbound once: the gradient of each indexing would fill a
    tensor of the whole length with zeros.
    """
    state, *fresh = ((1 - keep) * values).unbind(dim=1)
    states = [state]
    for new, kept in zip(fresh, keep.unbind(dim=1)[1:], strict=True):
        state = torch.addcmul(new, kept, state)
        states.append(state)
    return torch.stack(states, dim=1)


class BidirectionalSRU(nn.Module):
    """A simple recurrent unit (SRU). Half of the channels run forwards in time, half backwards. A highway gate mixes states and inputs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 3 * width)

    def forward(self, x: Float[Tensor, "n t w"]) -> Float[Tensor, "n t w"]:
        values, keep, out = self.gates(x).chunk(3, dim=-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        keep, out = (keep.to(wide) + 1).sigmoid(), out.to(wide).sigmoid()
        forwards = [each.chunk(2, dim=-1) for each in (values.to(wide), keep)]
        both = [torch.cat([first, second.flip(1)], dim=-1) for first, second in forwards]
        first, second = scan(*both).chunk(2, dim=-1)
        states = torch.cat([first, second.flip(1)], dim=-1)
        return (out * states + (1 - out) * x).to(x.dtype)
