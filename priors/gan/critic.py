"""Critic of windows of two patches. A frozen random matrix first mixes the channels of the latents, as in Musika.

Without the mixing a critic first learns the marginal distribution of each channel. The mixing exposes the dependence of
channels, for example of the two stereo sides. The R1 penalty needs a critic without batch norm and spectral norm.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from priors.gan.config import GanConfig

SLOPE = 0.2  # negative slope of the leaky ReLUs


class Judged(NamedTuple):
    """The critic's scores of windows, and the feature map of its last layer."""

    scores: Float[Tensor, " b"]
    hidden: Float[Tensor, "b c n"]


class Halving(nn.Module):
    """Halves the number of frames by two convolutions and a skip path of average pooling."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(before, before, 3, padding=1), nn.Conv1d(before, width, 4, 2, 1)
        self.beside = nn.Conv1d(before, width, 1, bias=False)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:
        hidden = self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))
        return (hidden + self.beside(F.avg_pool1d(x, 2))) * math.sqrt(0.5)


class Critic(nn.Module):
    """Scores windows of latents, given the conditions of their frames. A second head reconstructs windows from features."""

    mixing: Tensor

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        latent, widths = config.latent, config.critic_widths
        self.register_buffer("mixing", torch.randn(2 * latent, latent, 1) / math.sqrt(latent))
        self.inlet = nn.Conv1d(2 * latent + config.conditions, widths[0], 4, 2, 1)
        self.halvings = nn.ModuleList(Halving(a, b) for a, b in pairwise(widths))
        self.score = nn.Linear((2 * config.patch >> len(widths)) * widths[-1], 1)
        rising = (*reversed(widths), latent)
        self.reconstruction = nn.ModuleList(nn.ConvTranspose1d(a, b, 4, 2, 1) for a, b in pairwise(rising))

    def forward(self, latents: Float[Tensor, "b t e"], conditions: Float[Tensor, "b t c"]) -> Judged:
        mixed = F.conv1d(latents.transpose(1, 2), self.mixing)
        x = self.inlet(torch.cat([mixed, conditions.transpose(1, 2)], dim=1))
        for halve in self.halvings:
            x = halve(x)
        hidden = F.leaky_relu(x, SLOPE)
        return Judged(self.score(hidden.flatten(1))[:, 0], hidden)

    def reconstruct(self, hidden: Float[Tensor, "b c n"]) -> Float[Tensor, "b t e"]:
        """Reconstruct a window from its features, for an auxiliary loss (FastGAN)."""
        for i, rise in enumerate(self.reconstruction):
            hidden = rise(hidden if i == 0 else F.leaky_relu(hidden, SLOPE))
        return torch.tanh(hidden.float()).transpose(1, 2)
