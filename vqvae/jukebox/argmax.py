"""ArgmaxBottleneck: codes as the index of the largest of `bins` scores (argmax autoencoder, Dieleman et al. 2018,
arXiv:1806.10474).

A linear layer projects the encoder's output to one score per code. The scores pass a ReLU and are divided by their sum, not by
a softmax. The code is the index of the largest score. The decoder gets the row of the code in a learned table. The gradient
passes straight through to the normalised scores. A diversity loss encourages equal use of the codes. The bottleneck has the
interface of a codebook: `encode`, `decode` and the rows `k`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.jukebox.quantize import Quantised
from vqvae.ranks import sum_over_ranks, world

EPS = 1e-8  # added to the sum, which is 0 if all scores are negative
AWAKE = 0.1  # initial bias of the scores; it is positive, because a latent with only negative scores has no gradient


class ArgmaxBottleneck(nn.Module):
    """A bottleneck of `bins` codes. Each code has a row of `width` numbers. All weights are learned by gradients."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.bins = bins
        self.score = nn.Linear(width, bins)
        nn.init.constant_(self.score.bias, AWAKE)
        self.k = nn.Parameter(torch.randn(bins, width) * 0.1)

    def shares(self, latents: Float[Tensor, "b e t"]) -> Float[Tensor, "b t k"]:
        """Return one share >= 0 per code. The shares of a latent add up to 1, or to 0 if no score is positive."""
        positive = F.relu(self.score(latents.float().transpose(1, 2)))  # (B, E, T) -> (B, T, K)
        return positive / (positive.sum(dim=-1, keepdim=True) + EPS)

    def encode(self, latents: Float[Tensor, "b e t"]) -> Int[Tensor, "b t"]:
        """Return the code of each latent; ValueError if a latent is not finite."""
        if not torch.isfinite(latents).all():
            raise ValueError("the encoder's output is not finite: the audio holds nan or inf; give samples in [-1, 1]")
        return self.shares(latents).argmax(dim=-1)

    def decode(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b e t"]:
        """Return the rows of `codes`."""
        return self.k.float()[codes].transpose(1, 2)

    def forward(self, latents: Float[Tensor, "b e t"], generator: torch.Generator | None = None) -> Quantised:
        """Quantise latents to rows of the table, with a straight-through gradient to the shares.

        `commit` of the result is the diversity loss. Raises FloatingPointError if a latent is not finite.
        """
        if not torch.isfinite(latents).all():
            raise FloatingPointError("the encoder's output is not finite: the training has diverged; lower the learning rate")
        with torch.autocast(latents.device.type, enabled=False):
            shares = self.shares(latents)
            codes = shares.argmax(dim=-1)
            through = F.one_hot(codes, self.bins) + (shares - shares.detach())
            (counts,) = sum_over_ranks(torch.bincount(codes.flatten(), minlength=self.bins).float())
            p = counts / counts.sum()
            metrics = {"entropy": -(p * (p + 1e-8).log()).sum(), "used_curr": (counts > 0).sum().float()}
            return Quantised((through @ self.k).transpose(1, 2), codes, self.diversity(shares), metrics)

    def diversity(self, shares: Float[Tensor, "b t k"]) -> Float[Tensor, ""]:
        """Diversity loss: the sum over codes k of (K q_k - 1)^2. The loss is 0 if all K codes have equal shares.

        q is the mean of the shares over the global batch.
        """
        own = shares.mean(dim=(0, 1))
        (total,) = sum_over_ranks(own.detach().clone())
        q = total / world() + (own - own.detach())  # the engine averages gradients over ranks
        return (self.bins * q - 1).square().sum()
