"""Lyrics as conditions: the lyric encoder for cross attention, and the distance in time between steps and tokens."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Lyrics
from priors.conditioning.config import LyricConfig
from priors.transformer.config import Init
from priors.transformer.linear import LayerNorm, Linear
from priors.transformer.trunk import Transformer


def no_lyrics(batch: int, n_tokens: int, device: torch.device) -> Lyrics:
    """Return a window of padding, as for a song without words."""
    ids = torch.zeros(batch, n_tokens, dtype=torch.long, device=device)
    return Lyrics(ids, torch.full(ids.shape, torch.nan, device=device))


def lyric_distance(lyrics: Lyrics, steps: int, seconds_each: float) -> Float[Tensor, "b t n"]:
    """Return the distance in seconds between the middle of each step and each token.

    A window has `steps` steps of `seconds_each` seconds. The distance is nan if the time of a token is unknown.
    """
    when = (torch.arange(steps, device=lyrics.ids.device) + 0.5) * seconds_each
    return (when[None, :, None] - lyrics.seconds[:, None, :].float()).abs()


class LyricEncoder(nn.Module):
    """Encodes lyric tokens as vectors of the prior's width (B, N, W). Cross attention attends to these vectors."""

    def __init__(self, config: LyricConfig, width: int, init: Init):
        super().__init__()
        self.config = config
        inner = config.trunk.init
        self.x_emb = nn.Embedding(config.vocabulary, config.trunk.width)
        self.pos_emb = nn.Parameter(torch.randn(config.n_tokens, config.trunk.width) * inner.position)
        nn.init.normal_(self.x_emb.weight, std=inner.embedding)
        self.trunk = Transformer(config.trunk)
        self.proj = Linear(config.trunk.width, width, init.linear)
        self.ln = LayerNorm(width)
        if config.causal:
            self.start_token = nn.Parameter(torch.randn(1, config.trunk.width) * inner.position)
            self.x_out = nn.Linear(width, config.vocabulary, bias=False)

    def embed(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        x = self.x_emb(ids)
        if self.config.causal:
            x = torch.cat([self.start_token.expand(len(x), 1, -1), x[:, :-1]], dim=1)
        return x + self.pos_emb

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n w"]:
        return self.ln(self.proj(self.trunk(self.embed(ids))))

    def loss(self, encoded: Float[Tensor, "b n w"], ids: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Return the cross entropy of the next token in bits. Only a causal encoder has this loss."""
        logits = self.x_out(encoded.float()).flatten(0, 1)
        return nn.functional.cross_entropy(logits, ids.flatten()) / np.log(2)
