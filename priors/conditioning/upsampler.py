"""Upsampler of the codes of the level above to the rate of this level: one vector per step (Jukebox, section 4.3).

It consists of an embedding, a decoder stage as in the codec, and a layer norm. The stage has transposed convolutions and
dilated residual blocks. So each step is conditioned on the coarser codes before and after it.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.conditioning.config import UpsamplerConfig
from priors.transformer.config import Init
from priors.transformer.linear import LayerNorm
from vqvae.jukebox.blocks import DecoderStage


class Upsampler(nn.Module):
    def __init__(self, config: UpsamplerConfig, width: int, init: Init):
        super().__init__()
        self.x_emb = nn.Embedding(config.bins, width)
        nn.init.normal_(self.x_emb.weight, std=init.embedding)
        self.stage = DecoderStage(
            width, width, config.width, config.ups, config.stride, config.depth,
            growth=config.growth, cycle=config.cycle, res_scale=config.res_scale, m_conv=config.m_conv,
        )  # fmt: skip
        self.ln = LayerNorm(width)

    def forward(self, above: Int[Tensor, "b s"]) -> Float[Tensor, "b t w"]:
        x = self.x_emb(above).transpose(1, 2)  # (B, S, W) -> (B, W, S)
        return self.ln(self.stage(x).transpose(1, 2))  # (B, W, S * ratio) -> (B, T, W)
