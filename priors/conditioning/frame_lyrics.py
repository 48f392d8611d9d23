"""Lyrics by frame, for priors without cross attention: a convolutional encoder of the characters sung in each frame."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from priors.conditioning.conditions import SungFrames
from priors.conditioning.config import FRAME_KERNEL, FrameLyricConfig
from priors.transformer.config import Init


class FrameLyricEncoder(nn.Module):
    """Encodes characters as one vector per frame, (B, T, W). Its convolutions are not causal: the next characters are known."""

    def __init__(self, config: FrameLyricConfig, width: int, init: Init) -> None:
        super().__init__()
        self.config = config
        self.x_emb = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.x_emb.weight, std=init.embedding)
        self.left = nn.Linear(1, config.width)
        self.near = nn.Conv1d(config.width, config.hidden, FRAME_KERNEL, padding=FRAME_KERNEL // 2)
        self.far = nn.Conv1d(config.hidden, config.hidden, FRAME_KERNEL, padding=FRAME_KERNEL - 1, dilation=2)
        self.proj = nn.Linear(config.per_frame * config.hidden, width)

    def forward(self, sung: SungFrames) -> Float[Tensor, "b t w"]:
        sounding = (sung.ids > 0)[..., None]
        x = self.x_emb(sung.ids) + self.left(sung.left[..., None].to(self.left.weight.dtype)) * sounding
        x = F.gelu(self.far(F.gelu(self.near(x.transpose(1, 2)))))  # (B, M, V) -> (B, H, M)
        x = x.transpose(1, 2).unflatten(1, (-1, self.config.per_frame)).flatten(2)  # (B, H, M) -> (B, T, per_frame * H)
        return self.proj(x)
