"""The dual-path network of MeLoDy (arXiv:2305.15719, section 4.3.2): velocities of latents, given angles (one per frame) and
tokens.

    latents + angles -> segments -> blocks -> overlapping segments joined -> velocities
    block    coarse path: columns of a segment merged, a RoFormer along the segments, with attention to the tokens
             fine path: a bidirectional SRU along the frames of a segment. Each frame is scaled and shifted by its angle, its
             token and the labels (FiLM)

Rotary positions are times in units of one token, for segments and for tokens. For classifier-free guidance a batch row may have
no tokens. Its queries then attend to its own segments instead of the tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.diffusion.config import DiffusionConfig
from priors.diffusion.segments import from_segments, segment_starts, to_segments
from priors.diffusion.sru import BidirectionalSRU
from priors.transformer.attention import fused_attention
from priors.transformer.rotary import rotate

BASE = 300.0  # base of the rotary frequencies, because a window has some hundred tokens


class Norm(nn.Module):
    """x divided by its root mean square and multiplied by a weight (RMS norm), computed in float32 or wider."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... w"]) -> Float[Tensor, "... w"]:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight).to(x.dtype)


def rotary_rows(positions: Float[Tensor, " t"], width: int) -> Float[Tensor, "t 2 d/2"]:
    """Return the cosines and sines of rotary positions. The positions need not be integers."""
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=positions.dtype) / width
    angles = positions[:, None] / BASE**exponents
    return torch.stack([angles.cos(), angles.sin()], dim=1)


class AngleEncoder(nn.Module):
    """Encodes each angle as a vector: cos(angle) times a learned vector plus sin(angle) times another, then an MLP.

    Equation 11 of the paper has the sine in both terms, so that the two vectors would act as one.
    """

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.randn(2, inner))
        self.mlp = nn.Sequential(nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))
        self.ln = Norm(width)

    def forward(self, angle: Float[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        return self.ln(self.mlp(angle.cos()[..., None] * self.ends[0] + angle.sin()[..., None] * self.ends[1]))


class TokenEncoder(nn.Module):
    """Encodes each token as a vector: embedding tables and projected codebook vectors of the codec, then an MLP."""

    vectors: Float[Tensor, "books k e"]

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        width, self.bins = config.width, config.read_bins
        self.register_buffer("vectors", torch.zeros(config.read_books, config.read_bins, config.read_vector))
        self.table = nn.Embedding(config.read_books * config.read_bins, width)
        nn.init.normal_(self.table.weight, std=0.3)
        self.proj = nn.Linear(config.read_vector, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.ln = Norm(width)

    def forward(self, tokens: Int[Tensor, "b n books"]) -> Float[Tensor, "b n w"]:
        books = tokens.shape[-1]
        latents = torch.stack([self.vectors[i][tokens[..., i]] for i in range(books)]).sum(0)
        shift = torch.arange(books, device=tokens.device) * self.bins
        x = self.table(tokens + shift).sum(-2) + self.proj(latents)
        return self.ln(x + self.mlp(x))


class Places:
    """Positions of the frames, segments and tokens of a window.

    Those of columns and tokens are in units of one token. The window begins `offset` frames after the start of its first token.
    """

    def __init__(self, config: DiffusionConfig, frames: int, tokens: int, offset: int, device: torch.device) -> None:
        self.size, self.ratio = config.segment, config.read_ratio
        self.frames = torch.arange(frames, device=device) + offset
        self.starts = segment_starts(frames, config.segment, device) + offset
        self.of_tokens = torch.arange(tokens, device=device) + 0.5

    def columns(self, merged: int) -> Float[Tensor, "k s"]:
        """Return the middle of each merged column of each segment, (merged, segments)."""
        wide = self.size // merged
        middle = (torch.arange(merged, device=self.starts.device) + 0.5) * wide
        return (self.starts + middle[:, None]) / self.ratio

    def tokens_of_frames(self) -> Int[Tensor, " t"]:
        """Return the index of the token of each frame. Frames after the last token belong to it."""
        return (self.frames.div(self.ratio, rounding_mode="floor")).clamp(max=len(self.of_tokens) - 1)


class RoFormer(nn.Module):
    """Attention along the segments (per column), attention of all columns to the tokens, and an MLP.

    A norm precedes each of the three. The output of each is added to its input.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.ln_0, self.ln_1, self.ln_2 = (Norm(width) for _ in range(3))
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge_cross = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def split(self, x: Float[Tensor, "b t w"]) -> Float[Tensor, "b h t d"]:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def turned(self, x: Float[Tensor, "b t w"], positions: Float[Tensor, " t"]) -> Float[Tensor, "b h t d"]:
        """Split x into heads and rotate them by their positions."""
        return rotate(
            self.split(x), rotary_rows(positions.to(torch.promote_types(x.dtype, torch.float32)), self.width // self.heads)
        )

    def forward(
        self, x: Float[Tensor, "b k s w"], encoded: Float[Tensor, "b n w"], places: Places, alone: Bool[Tensor, " b"] | None
    ) -> Float[Tensor, "b k s w"]:
        rows, columns = x.shape[:2]
        at = places.columns(columns)
        q, k, v = self.qkv(self.ln_0(x).flatten(0, 1)).chunk(3, dim=-1)  # (B, K, S, W) -> (B * K, S, W)
        seen = fused_attention(self.turned(q, at[0]), self.turned(k, at[0]), self.split(v))
        x = x + self.merge(seen.transpose(1, 2).flatten(2)).unflatten(0, (rows, columns))
        x = x + self.cross(self.ln_1(x), encoded, places, alone)
        return x + self.mlp(self.ln_2(x))

    def cross(
        self, x: Float[Tensor, "b k s w"], encoded: Float[Tensor, "b n w"], places: Places, alone: Bool[Tensor, " b"] | None
    ) -> Float[Tensor, "b k s w"]:
        """Compute the attention to the tokens. Rows that are `alone` attend to the means of their own segments instead."""
        columns, segments = x.shape[1:3]
        q = self.turned(self.query(x).flatten(1, 2), places.columns(columns).flatten())
        sequence, at, bias = encoded, places.of_tokens, None
        if alone is not None:
            sequence = torch.cat([encoded, x.mean(1)], dim=1)
            at = torch.cat([at, places.columns(1)[0]])
            token = torch.arange(sequence.shape[1], device=x.device) < encoded.shape[1]
            hidden = token == alone[:, None]
            bias = torch.zeros(hidden.shape, dtype=q.dtype, device=x.device).masked_fill(hidden, -torch.inf)[:, None, None]
        k, v = self.key_value(sequence).chunk(2, dim=-1)
        seen = fused_attention(q, self.turned(k, at), self.split(v), bias)
        return self.merge_cross(seen.transpose(1, 2).flatten(2)).unflatten(1, (columns, segments))


class DualPathBlock(nn.Module):
    """A block of the network: the coarse path and the fine path, over all segments of a window."""

    def __init__(self, config: DiffusionConfig, layer: int) -> None:
        super().__init__()
        self.merged, width = config.merged(layer), config.width
        self.coarse, self.sru = RoFormer(width, config.heads), BidirectionalSRU(width)
        self.film = nn.Linear(width, 2 * width)
        self.ln_0, self.ln_1 = Norm(width), Norm(width)

    def forward(
        self, x: Float[Tensor, "b s k w"], conditions: Float[Tensor, "b t w"], encoded: Float[Tensor, "b n w"], places: Places,
        alone: Bool[Tensor, " b"] | None,
    ) -> Float[Tensor, "b s k w"]:  # fmt: skip
        wide = x.shape[2] // self.merged
        columns = x.unflatten(2, (self.merged, wide)).mean(3).transpose(1, 2)  # (B, S, K, W) -> (B, K', S, W)
        coarse = self.coarse(columns, encoded, places, alone).transpose(1, 2).repeat_interleave(wide, dim=2)
        y = self.ln_0(x + coarse)
        fine = self.sru(y.flatten(0, 1)).view(y.shape)
        # padding repeats the outermost frames, because an angle of 0 would mean that the padded frames are clean
        scale, shift = to_segments(self.film(conditions), x.shape[2], edge=True).chunk(2, dim=-1)
        return self.ln_1(y + fine * (1 + scale) + shift)


class DualPathNetwork(nn.Module):
    """Predicts the velocities (b t e) of noisy latents."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.angles = AngleEncoder(config.angle_width, width)
        self.tokens = TokenEncoder(config)
        self.into, self.out = nn.Linear(config.latent, width), nn.Linear(width, config.latent)
        nn.init.normal_(self.into.weight)  # latents are added to the vector of the angle, which has deviation 1
        self.ln_0, self.ln_1 = Norm(width), Norm(width)
        self.blocks = nn.ModuleList(DualPathBlock(config, layer) for layer in range(config.layers))

    def forward(
        self, z: Float[Tensor, "b t e"], angle: Float[Tensor, "b t"], tokens: Int[Tensor, "b n books"],
        labels: Float[Tensor, "b 1 w"] | float = 0.0, offset: int = 0, alone: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t e"]:  # fmt: skip
        config, dtype = self.config, self.into.weight.dtype
        frames, size = z.shape[1], config.segment
        places = Places(config, frames, tokens.shape[1], offset, z.device)
        angles, encoded = self.angles(angle.to(dtype)), self.tokens(tokens)
        x = to_segments(self.ln_0(self.into(z.to(dtype)) + angles), size)
        of_frames = encoded[:, places.tokens_of_frames()]  # (B, N, W) -> (B, T, W)
        if alone is not None:
            of_frames = of_frames.masked_fill(alone[:, None, None], 0.0)
        conditions = angles + of_frames + labels
        for block in self.blocks:
            x = block(x, conditions, encoded, places, alone)
        return self.out(self.ln_1(from_segments(x, frames))).to(z.dtype)
