"""Discriminators of the latent codec: folded waveforms (HiFi-GAN, arXiv:2010.05646) and spectrograms (UnivNet).

A waveform folded by period p has samples at a distance of p next to each other. Spectrograms show partials. Folded waveforms
show the shape of the wave.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vqvae.latent.config import LatentConfig
from vqvae.spectral.discriminator import SLOPE, MultiResolutionDiscriminator


class PeriodDiscriminator(nn.Module):
    """Returns the scores (b, ..) of a waveform that is folded to rows of `period` samples, and the hidden features."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        shapes = ((1, width), (width, 2 * width), (2 * width, 4 * width))
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0))) for a, b in shapes)
        self.score = weight_norm(nn.Conv2d(4 * width, 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Float[Tensor, "b c t"]) -> tuple[Tensor, list[Tensor]]:
        flat = audio.flatten(0, 1)
        x, hidden = F.pad(flat, (0, -flat.shape[-1] % self.period)).unflatten(1, (-1, self.period))[:, None], []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            hidden.append(x)
        return self.score(x), hidden


class WaveformDiscriminators(nn.Module):
    """One discriminator for each period, and one for each resolution of the spectrogram."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        width = config.discriminator_width
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width) for period in config.periods)
        self.spectra = MultiResolutionDiscriminator(config.windows, width)

    def forward(self, audio: Float[Tensor, "b c t"]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return the scores and the hidden features of each discriminator."""
        with torch.autocast(audio.device.type, enabled=False):
            judged = [each(audio.float()) for each in self.periods]
        scores, hidden = self.spectra(audio)
        return [*(each for each, _ in judged), *scores], [*(each for _, each in judged), *hidden]
