"""LogMagnitudes: normalised log magnitudes of a spectrogram, input of the spectral encoder and output of the decoder."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.spectral.config import SpectralConfig


class LogMagnitudes(nn.Module):
    """log(magnitude + floor), normalised per bin by mean and standard deviation over training songs."""

    mean: Tensor
    std: Tensor
    fitted: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.floor = config.floor
        shape = (config.channels, config.frequencies)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, magnitudes: Float[Tensor, "b n c f"]) -> None:
        logs = (magnitudes + self.floor).log().flatten(0, 1)
        self.mean.copy_(logs.mean(0))
        self.std.copy_(logs.std(0) + 0.05)
        self.fitted.fill_(True)

    def forward(self, magnitudes: Float[Tensor, "b n c f"]) -> Float[Tensor, "b n cf"]:
        return (((magnitudes + self.floor).log() - self.mean) / self.std).flatten(2)

    def logs(self, features: Float[Tensor, "b n cf"]) -> Float[Tensor, "b n c f"]:
        """Return log(magnitude + floor), without the normalisation."""
        return features.unflatten(2, self.mean.shape) * self.std + self.mean

    def magnitudes(self, features: Float[Tensor, "b n cf"]) -> Float[Tensor, "b n c f"]:
        """Inverse of `forward`. The returned magnitudes are at least a tenth of the floor."""
        return (self.logs(features).exp() - self.floor).clamp(min=self.floor / 10)
