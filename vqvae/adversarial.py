"""Adversarial training: the losses of a generator and its discriminators, R1, and a balancer of several losses.

A discriminator returns scores, and hidden features for feature matching. Each loss is a mean over the batch. So the mean of the
losses of equal parts of a batch is the loss of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.ranks import mean_over_ranks


def hinge_discriminator(true: Sequence[Tensor], made: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over discriminators of relu(1 - D(true)) + relu(1 + D(made)) (Lim and Ye 2017)."""
    return torch.stack([F.relu(1 - t).mean() + F.relu(1 + m).mean() for t, m in zip(true, made, strict=True)]).mean()


def hinge_generator(made: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean over discriminators of -D(made)."""
    return -torch.stack([m.mean() for m in made]).mean()


def discriminator_terms(discriminator: nn.Module, true: Tensor, made: Tensor) -> dict[str, Tensor]:
    """The hinge loss of discriminators under "loss", and the shares of patches that are judged right."""
    found, fake = discriminator(true)[0], discriminator(made.detach())[0]
    right = [torch.stack([(sign * x > 0).float().mean() for x in some]).mean() for sign, some in ((1, found), (-1, fake))]
    return {"loss": hinge_discriminator(found, fake), "true_right": right[0], "made_right": right[1]}


def feature_matching(true: Sequence[Sequence[Tensor]], made: Sequence[Sequence[Tensor]]) -> Float[Tensor, ""]:
    """L1 distance of hidden features (b, ..), over the mean absolute true feature, averaged over layers and discriminators."""
    pairs = [(t.detach(), m) for ts, ms in zip(true, made, strict=True) for t, m in zip(ts, ms, strict=True)]
    sizes = mean_over_ranks(torch.stack([t.abs().mean() for t, _ in pairs])).clamp(min=1e-6)
    return torch.stack([(t - m).abs().mean() / size for (t, m), size in zip(pairs, sizes, strict=True)]).mean()


def r1_penalty(scores: Float[Tensor, "b ..."], inputs: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Half the mean over rows of the squared gradient of the scores with respect to the true inputs (Mescheder et al. 2018).

    `inputs` require gradients; the result is differentiable.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


class Balancer(nn.Module):
    """Losses of one output, each with a fixed share of the gradient, independent of the scale of the loss (EnCodec,
    arXiv:2210.13438, section 3.4).

    The gradient of each loss with respect to the output is divided by a moving average of its norm and multiplied by its
    weight's share. The norm is that of a row's gradient, averaged over the rows of all ranks. So the result does not depend on
    the number of ranks or the batch size. `weights` maps each loss to its weight. `total` is the sum of the balanced norms of a
    row's gradients; with 0 the first loss keeps its scale.
    """

    norms: Tensor
    seen: Tensor

    def __init__(self, weights: Mapping[str, float], total: float = 0.0, decay: float = 0.99) -> None:
        super().__init__()
        self.weights, self.total, self.decay = dict(weights), total, decay
        self.register_buffer("norms", torch.zeros(len(weights)))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, losses: Mapping[str, Tensor], output: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Return a loss whose value is the weighted sum, and whose gradient with respect to `output` is balanced."""
        rows = len(output)
        gradients = [torch.autograd.grad(losses[name], output, retain_graph=True)[0].float() * rows for name in self.weights]
        found = torch.stack([g.flatten(1).norm(dim=1).mean() for g in gradients])
        found = mean_over_ranks(found)
        if self.training:
            self.seen.copy_(self.decay * self.seen + 1)
            self.norms.copy_(self.decay * self.norms + found)
        usual = self.norms / self.seen.clamp(min=1e-12)
        first = next(iter(self.weights.values()))
        share = self.total / sum(self.weights.values()) if self.total else usual[0] / first
        scales = [share * weight / norm.clamp(min=1e-12) for weight, norm in zip(self.weights.values(), usual, strict=True)]
        balanced = torch.stack([scale * g for scale, g in zip(scales, gradients, strict=True)]).sum(0) / rows
        surrogate = (output * balanced.detach()).sum()
        value = torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum().detach()
        return value + surrogate - surrogate.detach()
