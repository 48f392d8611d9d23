"""What a prior hears beside codes: artist, genres, timing, lyrics and the codes of the level above (paper, section 4).

Everything is optional. Id 0 of artist and genre is "unknown", which is also what a dropped condition becomes; -1 pads
the bag of genres; a timing row with total length 0 is "not given"; lyric id 0 is padding; a lyric time of nan is "not
known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Lyrics(NamedTuple):
    """A window of lyrics: ids, and the second (from the window's start) at which each is sung, nan where unknown."""

    ids: Int[Tensor, "b n"]
    seconds: Float[Tensor, "b n"]


@dataclass(frozen=True)
class Conditions:
    """Named conditions of a batch; a field that is None is not given to any of its items."""

    artist: Int[Tensor, " b"] | None = None
    genres: Int[Tensor, "b g"] | None = None
    timing: Int[Tensor, "b 3"] | None = None  # in samples: length of the song, offset and length of the window
    lyrics: Lyrics | None = None
    above: Int[Tensor, "b s"] | None = None  # codes of the coarser level under this window
    controls: dict[str, Tensor] = field(default_factory=dict)

    def map(self, function) -> Conditions:
        """The same conditions with `function` applied to every tensor."""

        def apply(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, dict):
                return {name: function(x) for name, x in value.items()}
            return Lyrics(*map(function, value)) if isinstance(value, Lyrics) else function(value)

        return Conditions(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> Conditions:
        return self.map(lambda x: x.to(device))

    def rows(self, index: slice | Tensor) -> Conditions:
        """The conditions of some items of the batch."""
        return self.map(lambda x: x[index])

    def without(self, *names: str) -> Conditions:
        """The same conditions with the named ones absent."""
        return replace(self, **{name: None for name in names})


def stack(items: Sequence[Conditions]) -> Conditions:
    """Conditions of one item each (batch axis 1) joined into a batch; all must give the same fields."""
    joined = {}
    for f in fields(Conditions):
        values = [getattr(item, f.name) for item in items]
        if all(value is None for value in values):
            joined[f.name] = None
        elif any(value is None for value in values):
            raise ValueError(f"condition {f.name} is given for some items of the batch only; give it to all or to none")
        elif f.name == "controls":
            joined[f.name] = {name: torch.cat([value[name] for value in values]) for name in values[0]}
        elif f.name == "lyrics":
            joined[f.name] = Lyrics(*(torch.cat(parts) for parts in zip(*values, strict=True)))
        else:
            joined[f.name] = torch.cat(values)
    return Conditions(**joined)


@dataclass(frozen=True)
class LabelConfig:
    """Sizes of the label tables and the ranges of timing in seconds; genres of a song are summed as a bag."""

    artists: int
    genres: int
    max_genres: int = 5
    timing_bins: int = 0  # 0: no timing, as in the published upsamplers
    min_seconds: float = 0.0
    max_seconds: float = 600.0
    sample_rate: int = 44100
    everywhere: bool = False  # add artist and genre to every step, not to the first alone


class LabelEmbedding(nn.Module):
    """Artist plus the sum over the bag of genres: the vector that starts a sequence, (B, 1, W)."""

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
    """Bins of total length (b 1), of absolute and of relative position (b n_ctx), in float32 as published."""
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
    """Where the window lies in its song, step by step: three binned embeddings, summed, (B, T, W)."""

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
