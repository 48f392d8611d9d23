"""Discriminators of spectrograms at several resolutions (UnivNet, arXiv:2106.07889), each with a few strided 2-D convolutions.

A short window resolves attacks, and a long window resolves partials. So blur in time and blur in frequency are both detected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vqvae.stft import magnitudes

SLOPE = 0.1  # slope of the leaky rectifiers


class SpectrogramDiscriminator(nn.Module):
    """Returns the scores (b, ..) of patches of a log spectrogram with windows of `n_fft` samples, and the hidden features."""

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, width, (3, 5), stride, padding=(1, 2)))  # time, frequency
            for inputs, stride in ((1, (1, 2)), (width, (1, 2)), (width, (2, 2)), (width, (2, 2)))
        )
        self.score = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, audio: Float[Tensor, "b c t"]) -> tuple[Tensor, list[Tensor]]:
        m = magnitudes(audio.flatten(0, 1), self.n_fft, self.n_fft // 4)  # (B * C, F, N)
        x, hidden = (m.transpose(1, 2) + 1e-2).log()[:, None], []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            hidden.append(x)
        return self.score(x), hidden


class MultiResolutionDiscriminator(nn.Module):
    """One discriminator for each of the `windows` (samples)."""

    def __init__(self, windows: Sequence[int] = (256, 512, 1024), width: int = 8) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(SpectrogramDiscriminator(n_fft, width) for n_fft in windows)

    def forward(self, audio: Float[Tensor, "b c t"]) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return the scores and the hidden features of each discriminator."""
        with torch.autocast(audio.device.type, enabled=False):
            judged = [each(audio.float()) for each in self.discriminators]
        return [scores for scores, _ in judged], [hidden for _, hidden in judged]
