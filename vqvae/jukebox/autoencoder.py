"""One level of the VQ-VAE: encoder, codebook and decoder."""

from __future__ import annotations

from torch import nn

from vqvae.jukebox.argmax import ArgmaxBottleneck
from vqvae.jukebox.blocks import Decoder, Encoder
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.quantize import Codebook


class Autoencoder(nn.Module):
    """The modules of one level: `encoder` (audio to latents), `codebook` (latents to codes and back), `decoder` (to audio)."""

    def __init__(self, config: VQVAEConfig, level: int) -> None:
        super().__init__()
        rates = (config.downs_t[: level + 1], config.strides_t[: level + 1])
        shape = (config.channels, config.emb_width, config.level_widths(level), *rates, config.level_depth(level))
        stack = {"m_conv": config.m_conv, "growth": config.dilation_growth_rate, "cycle": config.dilation_cycle}
        self.hop = config.hops[level]
        self.encoder = Encoder(*shape, **stack)
        self.decoder = Decoder(*shape, **stack, reverse=config.reverse_decoder_dilation, flat=config.flat_upsampling)
        self.codebook = (
            ArgmaxBottleneck(config.bins, config.emb_width)
            if config.bottleneck == "argmax"
            else Codebook(
                config.bins, config.emb_width, mu=config.mu, threshold=config.threshold, reset_restarted=config.reset_restarted
            )
        )
