"""GatedStack: dilated causal convolutions with gates and skips. It runs over a whole window, or step by step from ring buffers.

    gates     g = taps(x) W + c            taps: the inputs of x at t - (kernel - 1) d .. t - d, t;  c: conditions, and the bias
    unit      z = tanh(g_1) sigmoid(g_2)
    residual  x + z R                      without a bias: that of the next layer's gates has the same effect
    skips     sum over layers of z S, as one product

The weights of all layers are one tensor. Therefore a step can gather the earlier taps of all layers and multiply them in one
batched product. Only the computations that depend on the previous layer run layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.wavenet.config import StackConfig


class RingBuffers:
    """The inputs of every layer that later steps need, (slot, b, c). A layer that reads n steps back has n + 1 slots.

    Step t writes slot t % (n + 1) of a layer, and reads the other slots only. So a step can be repeated without a change of the
    result. The capture of a CUDA graph repeats a step.
    """

    kept = ("values",)

    def __init__(self, config: StackConfig, batch: int, like: Tensor) -> None:
        reach = torch.tensor([(config.kernel - 1) * d for d in config.dilations], device=like.device)
        self.lengths = reach + 1
        self.first = self.lengths.cumsum(0) - self.lengths
        back = torch.arange(config.kernel - 1, 0, -1, device=like.device)  # taps before the current one, oldest first
        self.back = back * torch.tensor(config.dilations, device=like.device)[:, None]  # (L, kernel - 1)
        self.values = torch.zeros(config.slots, batch, config.channels, dtype=like.dtype, device=like.device)

    def fill(self, inputs: Sequence[Float[Tensor, "b t c"]]) -> None:
        """Store the inputs of the steps 0 .. t - 1 of every layer, as far as later steps need them."""
        for first, length, x in zip(self.first.tolist(), self.lengths.tolist(), inputs, strict=True):
            steps = torch.arange(max(0, x.shape[1] - length), x.shape[1], device=x.device)
            self.values[first + steps % length] = x[:, steps].transpose(0, 1)

    def taps(self, position: Int[Tensor, " 1"]) -> Float[Tensor, "l b kc"]:
        """Return the earlier inputs of all layers that the step at `position` depends on."""
        slots = self.first[:, None] + (position - self.back) % self.lengths[:, None]
        found = self.values[slots]  # (L, kernel - 1, B, C)
        return found.transpose(1, 2).flatten(2)

    def write(self, position: Int[Tensor, " 1"], inputs: Float[Tensor, "l b c"]) -> None:
        self.values.index_copy_(0, self.first + position % self.lengths, inputs)


class GatedStack(nn.Module):
    """The gated layers. Their input `gates` has the conditions of each layer plus the bias, one frame per `frame` steps."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config, taps = config, config.kernel * config.channels
        self.gates = nn.Parameter(torch.randn(config.depth, taps, 2 * config.gate) * taps**-0.5)
        self.residual = nn.Parameter(torch.randn(config.depth - 1, config.gate, config.channels) * config.gate**-0.5)
        wide = config.depth * config.gate
        self.skip = nn.Parameter(torch.randn(wide, config.skip) * config.gate**-0.5)
        self.skip_bias = nn.Parameter(torch.zeros(config.skip))

    def unit(self, g: Float[Tensor, "... g2"]) -> Float[Tensor, "... g"]:
        n = self.config.gate
        return torch.tanh(g[..., :n]) * torch.sigmoid(g[..., n:])

    def skips(self, units: Sequence[Float[Tensor, "... g"]]) -> Float[Tensor, "... s"]:
        return torch.cat(list(units), dim=-1) @ self.skip + self.skip_bias

    def forward(
        self, x: Float[Tensor, "b t c"], gates: Float[Tensor, "b s lg"], frame: int, buffers: RingBuffers | None = None
    ) -> Float[Tensor, "b t s"]:
        """Return the sum of the skips at every step. `buffers` store the inputs that later steps need."""
        kernel, t = self.config.kernel, x.shape[1]
        by_layer = gates.unflatten(-1, (self.config.depth, -1))[:, : -(-t // frame)].unbind(2)  # L times (B, S, 2 G)
        residual = [*self.residual.unbind(0), None]
        inputs, units = [], []
        for dilation, w, back, condition in zip(self.config.dilations, self.gates.unbind(0), residual, by_layer, strict=True):
            inputs.append(x)
            padded = F.pad(x, (0, 0, (kernel - 1) * dilation, 0))
            taps = torch.cat([padded[:, i * dilation : i * dilation + t] for i in range(kernel)], dim=-1)
            units.append(self.unit(taps @ w + condition.repeat_interleave(frame, dim=1)[:, :t]))
            x = x if back is None else x + units[-1] @ back
        if buffers:
            buffers.fill(inputs)
        return self.skips(units)

    def step(
        self, x: Float[Tensor, "b c"], gates: Float[Tensor, "b lg"], buffers: RingBuffers, position: Int[Tensor, " 1"]
    ) -> Float[Tensor, "b s"]:
        """Return the sum of the skips for one step, and update the buffers in place. All shapes are fixed."""
        earlier = self.gates.shape[1] - self.config.channels
        conditions = gates.unflatten(-1, (self.config.depth, -1)).transpose(0, 1)  # (L, B, 2 G)
        ready = torch.baddbmm(conditions, buffers.taps(position), self.gates[:, :earlier])
        inputs, units = [], []
        for layer in range(self.config.depth):
            inputs.append(x)
            units.append(self.unit(torch.addmm(ready[layer], x, self.gates[layer, earlier:])))
            if layer < self.config.depth - 1:
                x = torch.addmm(x, units[-1], self.residual[layer])
        buffers.write(position, torch.stack(inputs))
        return self.skips(units)
