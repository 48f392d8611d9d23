"""ArgmaxBottleneck: codes without a codebook to learn from distances (argmax autoencoder, Dieleman et al. 2018, arXiv:1806.10474).

The encoder's output is projected to one number per code; ReLU, then division by their sum (not a softmax); the largest is the code. The
decoder gets the row of a table that belongs to it, and the gradient goes straight through to the normalised vector. A diversity
loss pushes towards equal use of the codes. To what follows it, it is a codebook: `encode`, `decode` and the rows `k`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.jukebox.quantize import Quantised
from vqvae.ranks import sum_over_ranks, world

EPS = 1e-8  # what is added to a sum that is 0 where all numbers are negative
AWAKE = 0.1  # bias at the start: numbers that are all negative have no gradient


class ArgmaxBottleneck(nn.Module):
    """`bins` codes, each with a row of `width` numbers; all weights are learned by gradients."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.bins = bins
        self.score = nn.Linear(width, bins)
        nn.init.constant_(self.score.bias, AWAKE)
        self.k = nn.Parameter(torch.randn(bins, width) * 0.1)

    def shares(self, latents: Float[Tensor, "b e t"]) -> Float[Tensor, "b t k"]:
        """One number per code, 0 or more, that add up to 1 (to 0 where no score is positive)."""
        positive = F.relu(self.score(latents.float().transpose(1, 2)))  # (B, E, T) -> (B, T, K)
        return positive / (positive.sum(dim=-1, keepdim=True) + EPS)

    def encode(self, latents: Float[Tensor, "b e t"]) -> Int[Tensor, "b t"]:
        """The code of every latent; ValueError if one is not finite."""
        if not torch.isfinite(latents).all():
            raise ValueError("the encoder's output is not finite: the audio holds nan or inf; give samples in [-1, 1]")
        return self.shares(latents).argmax(dim=-1)

    def decode(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b e t"]:
        """The rows of `codes`."""
        return self.k.float()[codes].transpose(1, 2)

    def forward(self, latents: Float[Tensor, "b e t"], generator: torch.Generator | None = None) -> Quantised:
        """Rows of the codes with the gradient of the shares; its `commit` is the diversity loss."""
        if not torch.isfinite(latents).all():
            raise FloatingPointError("the encoder's output is not finite")
        with torch.autocast(latents.device.type, enabled=False):
            shares = self.shares(latents)
            codes = shares.argmax(dim=-1)
            through = F.one_hot(codes, self.bins) + (shares - shares.detach())
            (counts,) = sum_over_ranks(torch.bincount(codes.flatten(), minlength=self.bins).float())
            p = counts / counts.sum()
            metrics = {"entropy": -(p * (p + 1e-8).log()).sum(), "used_curr": (counts > 0).sum().float()}
            return Quantised((through @ self.k).transpose(1, 2), codes, self.diversity(shares), metrics)

    def diversity(self, shares: Float[Tensor, "b t k"]) -> Float[Tensor, ""]:
        """sum_k (K q_k - 1)^2 with q the mean of the shares over the global batch; 0 where all codes have an equal share."""
        own = shares.mean(dim=(0, 1))
        (total,) = sum_over_ranks(own.detach().clone())
        q = total / world() + (own - own.detach())  # gradients are averaged over ranks
        return (self.bins * q - 1).square().sum()
