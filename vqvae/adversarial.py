"""Adversarial training: losses of a generator and its discriminators, the R1 penalty, and a balancer of several losses.

A discriminator returns scores, and hidden features for feature matching. Each loss is a mean over the batch. So the loss of a
batch equals the mean of the losses of its equal parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.ranks import mean_over_ranks


def hinge_discriminator(true: Sequence[Tensor], made: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Hinge loss (Lim and Ye 2017): relu(1 - D(true)) + relu(1 + D(made)), averaged over discriminators.

    `true` and `made` are the scores of true and of generated audio.
    """
    return torch.stack([F.relu(1 - t).mean() + F.relu(1 + m).mean() for t, m in zip(true, made, strict=True)]).mean()


def hinge_generator(made: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Hinge loss of a generator: the mean of -D(made) over discriminators."""
    return -torch.stack([m.mean() for m in made]).mean()


def discriminator_terms(discriminator: nn.Module, true: Tensor, made: Tensor) -> dict[str, Tensor]:
    """Return the hinge loss as "loss", and the accuracies "true_right" and "made_right".

    An accuracy is the share of patches of true or of generated (`made`) audio that are classified correctly.
    """
    found, fake = discriminator(true)[0], discriminator(made.detach())[0]
    right = [torch.stack([(sign * x > 0).float().mean() for x in some]).mean() for sign, some in ((1, found), (-1, fake))]
    return {"loss": hinge_discriminator(found, fake), "true_right": right[0], "made_right": right[1]}


def feature_matching(true: Sequence[Sequence[Tensor]], made: Sequence[Sequence[Tensor]]) -> Float[Tensor, ""]:
    """Mean L1 distance of the hidden features (b, ..) of true and generated audio, over all layers of all discriminators.

    The distance in each layer is divided by the mean absolute feature of true audio.
    """
    pairs = [(t.detach(), m) for ts, ms in zip(true, made, strict=True) for t, m in zip(ts, ms, strict=True)]
    sizes = mean_over_ranks(torch.stack([t.abs().mean() for t, _ in pairs])).clamp(min=1e-6)
    return torch.stack([(t - m).abs().mean() / size for (t, m), size in zip(pairs, sizes, strict=True)]).mean()


def r1_penalty(scores: Float[Tensor, "b ..."], inputs: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """R1 penalty (Mescheder et al. 2018): half the squared norm of the gradient of the scores with respect to true inputs.

    The penalty is averaged over batch rows. `inputs` must require gradients. The result is differentiable.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2


class Balancer(nn.Module):
    """Gives each loss of one output a fixed share of the gradient (EnCodec, arXiv:2210.13438, section 3.4).

    The shares do not depend on the scales of the losses. The gradient of each loss with respect to the output is divided by a
    moving average of the gradient norm and multiplied by the loss's share of the weights. The norm is computed per batch row
    and averaged over the rows of all ranks. So the result does not depend on the number of ranks or the batch size. `weights`
    maps each loss to its weight. `total` is the sum of the balanced norms per batch row. If `total` is 0, the gradient of the
    first loss keeps its scale.
    """

    norms: Tensor
    seen: Tensor

    def __init__(self, weights: Mapping[str, float], total: float = 0.0, decay: float = 0.99) -> None:
        super().__init__()
        self.weights, self.total, self.decay = dict(weights), total, decay
        self.register_buffer("norms", torch.zeros(len(weights)))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, losses: Mapping[str, Tensor], output: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses. The gradient of the returned loss with respect to `output` is balanced."""
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
