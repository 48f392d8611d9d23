"""Encoder and decoder of the spectral codec: residual blocks of convolutions over the frames of a spectrogram.

    encoder    bins -> width, block | `stride` frames joined | blocks | norm, width -> latent, tanh
    decoder    latent -> width, blocks | `stride` frames unfolded | block | norm; a linear head per kind of output
    stacked    an encoder and a decoder between latents and latents of a lower rate (Musika's second autoencoder)

A strided layer maps each group of `stride` neighbouring frames by one matrix, as patches in a vision transformer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.spectral.config import SpectralConfig


class FrameBlock(nn.Module):
    """x + W2 gelu(W1 [norm(x) at t - d, t, t + d]) with dilation d and zero padding. The block starts as the identity."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.ln = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(3 * width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        d, t, normed = self.dilation, x.shape[1], self.ln(x)
        padded = F.pad(normed, (0, 0, d, d))
        around = torch.cat([padded[:, :t], normed, padded[:, 2 * d :]], dim=-1)  # (B, T, W) -> (B, T, 3 * W)
        return x + self.outer(F.gelu(self.inner(around)))


def _blocks(width: int, dilations: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*(FrameBlock(width, dilation) for dilation in dilations))


class SpectralEncoder(nn.Module):
    """Encodes features of a spectrogram to latents in (-1, 1), one latent per `stride` frames."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        width, self.stride = config.width, config.stride
        self.inlet = nn.Linear(config.channels * config.frequencies, width)
        self.frame_blocks = _blocks(width, (1,) * config.fine_blocks)
        self.join = nn.Linear(config.stride * width, width)
        self.coarse = _blocks(width, (1,) * config.encoder_blocks)
        self.ln = nn.LayerNorm(width)
        self.outlet = nn.Linear(width, config.latent)

    def forward(self, features: Float[Tensor, "b n f"]) -> Float[Tensor, "b t e"]:
        x = self.frame_blocks(self.inlet(features))
        x = self.join(x.unflatten(1, (-1, self.stride)).flatten(2))  # (B, N, W) -> (B, T, stride * W) -> (B, T, W)
        return torch.tanh(self.outlet(self.ln(self.coarse(x))).float())


class SpectralDecoder(nn.Module):
    """Decodes latents to the features of magnitudes, and to the derivatives of the phase by time and by frequency.

    A derivative is a vector (cosine, sine). `gain` is a factor per bin for the magnitudes, or None.
    """

    gain: Tensor | None

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        width, self.stride, self.frequencies = config.width, config.stride, config.frequencies
        self.inlet = nn.Linear(config.latent, width)
        self.coarse = _blocks(width, config.decoder_dilations)
        self.unfold = nn.Linear(width, config.stride * width)
        self.frame_blocks = _blocks(width, (1,) * config.fine_blocks)
        self.ln = nn.LayerNorm(width)
        self.magnitude = nn.Linear(width, config.channels * config.frequencies)
        self.slope = nn.Linear(width, 4 * config.frequencies)
        self.register_buffer("gain", torch.ones(config.channels, config.frequencies) if config.gain else None)

    def hidden(self, latents: Float[Tensor, "b t e"]) -> Float[Tensor, "b n w"]:
        x = self.unfold(self.coarse(self.inlet(latents)))
        return self.ln(self.frame_blocks(x.unflatten(2, (self.stride, -1)).flatten(1, 2)))  # (B, T, stride * W) -> (B, N, W)

    def features(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n f"]:
        return self.magnitude(hidden).float()

    def slopes(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n 2 2 f"]:
        """Derivatives of the phase as (cosine, sine), by time and by frequency. Uncertain predictions are shorter than 1."""
        return self.slope(hidden).float().unflatten(-1, (2, 2, self.frequencies))


class StackedEncoder(nn.Module):
    """Encodes latents to latents of a lower rate in (-1, 1), one per `stacked` frames."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        width, self.stride = config.stacked_width, config.stacked
        self.inlet = nn.Linear(config.latent, width)
        self.frame_blocks, self.coarse = (_blocks(width, (1,) * config.stacked_blocks) for _ in range(2))
        self.join = nn.Linear(self.stride * width, width)
        self.ln = nn.LayerNorm(width)
        self.outlet = nn.Linear(width, config.stacked_latent)

    def forward(self, latents: Float[Tensor, "b n e"]) -> Float[Tensor, "b t d"]:
        x = self.frame_blocks(self.inlet(latents))
        x = self.join(x.unflatten(1, (-1, self.stride)).flatten(2))  # (B, N, W) -> (B, T, stride * W) -> (B, T, W)
        return torch.tanh(self.outlet(self.ln(self.coarse(x))).float())


class StackedDecoder(nn.Module):
    """Approximate inverse of `StackedEncoder`."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        width, self.stride = config.stacked_width, config.stacked
        self.inlet = nn.Linear(config.stacked_latent, width)
        self.coarse, self.frame_blocks = (_blocks(width, (1,) * config.stacked_blocks) for _ in range(2))
        self.unfold = nn.Linear(width, self.stride * width)
        self.ln = nn.LayerNorm(width)
        self.outlet = nn.Linear(width, config.latent)

    def forward(self, latents: Float[Tensor, "b t d"]) -> Float[Tensor, "b n e"]:
        x = self.unfold(self.coarse(self.inlet(latents)))
        x = self.frame_blocks(x.unflatten(2, (self.stride, -1)).flatten(1, 2))  # (B, T, stride * W) -> (B, N, W)
        return torch.tanh(self.outlet(self.ln(x)).float())


class StackedAutoencoder(nn.Module):
    """The encoder and the decoder of the second autoencoder."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = StackedEncoder(config), StackedDecoder(config)
