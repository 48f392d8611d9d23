"""Embeddings of artist, genres and timing (Jukebox, section 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.conditioning.config import LabelConfig


class LabelEmbedding(nn.Module):
    """The embedding of the artist plus the sum of the embeddings of the genres, (B, 1, W). This vector starts a sequence."""

    def __init__(self, config: LabelConfig, width: int, std: float):
        super().__init__()
        self.config = config
        self.artist = nn.Embedding(config.artists, width)
        self.genre = nn.Embedding(config.genres, width)
        nn.init.normal_(self.artist.weight, std=std)
        nn.init.normal_(self.genre.weight, std=std)

    def forward(self, artist: Tensor | None, genres: Tensor | None, batch: int) -> Float[Tensor, "b 1 w"]:
        device = self.artist.weight.device
        if artist is None:
            artist = torch.zeros(batch, dtype=torch.long, device=device)
        if genres is None:
            genres = torch.zeros(batch, 1, dtype=torch.long, device=device)
        named = (genres >= 0).unsqueeze(-1)  # (B, G, 1)
        bag = (self.genre(genres.clamp(min=0)) * named).sum(dim=1, keepdim=True)
        return self.artist(artist)[:, None] + bag


def timing_bins(timing: Int[Tensor, "b 3"], config: LabelConfig, n_ctx: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bins of the total length (b 1), of the absolute position (b n_ctx) and of the relative position (b n_ctx).

    The bins are computed in float32, as published.
    """
    total, offset, length = (timing[:, i : i + 1].float() for i in range(3))
    rate, n = config.sample_rate, config.timing_bins
    low, high = config.min_seconds * rate, config.max_seconds * rate

    def to_bin(position: Tensor, low: float, high: float) -> Tensor:
        return torch.floor(n * ((position - low) / (high - low))).long().clamp(0, n - 1)

    def along(start: Tensor, end: Tensor) -> Tensor:
        return start + (end - start) * (torch.arange(n_ctx, device=timing.device).float() / n_ctx)

    whole = total.clamp(min=1.0)
    absolute = to_bin(along(offset, offset + length), 0.0, high)
    relative = to_bin(along(offset / whole, ((offset + length) / whole).clamp(0.0, 1.0)), 0.0, 1.0)
    return to_bin(total, low, high), absolute, relative


class TimingEmbedding(nn.Module):
    """Embed the position of each frame in the song: the sum of embeddings of total length, absolute and relative position."""

    def __init__(self, config: LabelConfig, n_ctx: int, width: int, std: float):
        super().__init__()
        self.config, self.n_ctx = config, n_ctx
        self.total, self.absolute, self.relative = (nn.Embedding(config.timing_bins, width) for _ in range(3))
        for table in (self.total, self.absolute, self.relative):
            nn.init.normal_(table.weight, std=std)

    def forward(self, timing: Int[Tensor, "b 3"]) -> Float[Tensor, "b t w"]:
        total, absolute, relative = timing_bins(timing, self.config, self.n_ctx)
        given = (timing[:, :1, None] > 0).to(self.total.weight.dtype)
        return (self.total(total) + self.absolute(absolute) + self.relative(relative)) * given
