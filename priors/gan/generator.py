"""Generator of patches: from coordinates, style and conditions of each frame to latents.

Each stage doubles the number of frames, from 4 frames to a whole patch.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from priors.gan.config import FIRST, GanConfig

HALF = math.sqrt(0.5)


class StyleScale(nn.Module):
    """Adds noise, divides each channel by its deviation in time, and scales it by a linear map of the frame's inputs.

    The mean is not subtracted. The deviation is computed in float32, because that of a constant channel is near 0.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.scale, self.noise = nn.Conv1d(inputs, width, 1), nn.Parameter(torch.zeros(width, 1))
        nn.init.normal_(self.scale.weight, std=0.5 / math.sqrt(inputs))
        nn.init.ones_(self.scale.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c t"], inputs: Float[Tensor, "b f t"], noise: Float[Tensor, "b t"]) -> Tensor:
        x = x.float() + self.noise.float() * noise[:, None]
        with torch.autocast(x.device.type, enabled=False):
            scaled = x * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
        return F.silu(scaled.to(inputs) * self.scale(inputs))


class Doubling(nn.Module):
    """Doubles the number of frames by a transposed convolution and a convolution. A skip path converts channels to frames."""

    def __init__(self, inputs: int, before: int, width: int) -> None:
        super().__init__()
        self.up, self.conv = nn.ConvTranspose1d(before, width, 4, 2, 1), nn.Conv1d(width, width, 3, padding=1)
        self.beside = nn.Conv1d(before, 2 * width, 1)
        self.first, self.second = StyleScale(inputs, width), StyleScale(inputs, width)

    def forward(self, x: Float[Tensor, "b c t"], inputs: Tensor, noise: Float[Tensor, "b n"]) -> Float[Tensor, "b d u"]:
        first, second = noise.chunk(2, dim=1)
        hidden = self.second(self.conv(self.first(self.up(x), inputs, first) * HALF), inputs, second)
        wide = self.beside(x).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)  # (B, 2D, T) -> (B, D, 2T)
        return (hidden + wide) * HALF


class Generator(nn.Module):
    """Generates each patch independently. Training makes neighbouring patches continuous."""

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        first, inputs = config.widths[0], config.inputs
        self.dense = nn.Linear(2 * inputs, FIRST * first)
        self.norm = StyleScale(inputs, first)
        self.doublings = nn.ModuleList(Doubling(inputs, a, b) for a, b in pairwise(config.widths))
        self.outlet = nn.Conv1d(config.widths[-1], config.latent, 1)

    def forward(self, inputs: Float[Tensor, "b t f"], noise: Float[Tensor, "b n"]) -> Float[Tensor, "b t e"]:
        """Return latents in (-1, 1) of patches, given the inputs of their frames and the noise of the layers."""
        pyramid = [inputs.to(self.dense.weight.dtype).transpose(1, 2)]
        while pyramid[-1].shape[-1] > 2:
            pyramid.append(F.avg_pool1d(pyramid[-1], 2))
        x = self.dense(pyramid.pop().flatten(1)).unflatten(1, (-1, FIRST))
        x, used = self.norm(x, pyramid.pop(), noise[:, :FIRST]), FIRST
        for double in self.doublings:
            size = 4 * x.shape[-1]  # two noise values for each frame of the output, which has twice as many frames
            x, used = double(x, pyramid.pop(), noise[:, used : used + size]), used + size
        return torch.tanh(self.outlet(x).float()).transpose(1, 2)
