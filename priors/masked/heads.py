"""From columns back to the codes of one level, at its own rate: the last part of the masked prior (`priors/masked/model.py`).

A column is too narrow a door for 21 codes: with logits right behind the trunk, from weights of each slot, every slot has to
learn alone what is the same for all 16 of a level. So what the trunk says of a column is unfolded to its codes, and dilated
convolutions go over these, the codes known around them and those of the levels above and below, alike for every slot. A
convolution hears only so far: codes are drawn piece by piece, and pieces in which all is known are not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from priors.masked.config import CHUNK, MaskedConfig
from priors.transformer.linear import LayerNorm, Linear
from vqvae.jukebox.blocks import ResidualStack


@dataclass
class EncodedColumns:
    """What a window looks like with its holes: columns after the trunk (b t w), and vectors of the codes by level."""

    columns: Tensor
    vectors: dict[str, Tensor]


class LevelHead(nn.Module):
    """From columns back to the codes of one level: a vector (b, t * ratio, fine) for each, and logits."""

    def __init__(self, config: MaskedConfig, level: int):
        super().__init__()
        width, init = config.head_width, config.trunk.init
        ratios = list(config.ratios.values())
        self.ratio = ratios[level]
        self.own_stream = config.streams[level]
        self.above_stream, self.below_stream = [*config.streams, ""][level + 1], config.streams[level - 1]
        # at first the codes around a hole speak louder than the trunk, which has yet to learn
        self.unfold = Linear(config.trunk.width, self.ratio * width, init.linear / 4)
        self.own = nn.Conv1d(config.vector, width, 3, padding=1)
        step = self.ratio // ratios[level + 1] if level + 1 < len(ratios) else 0
        self.above = nn.ConvTranspose1d(config.vector, width, 2 * step, step, step // 2) if step else None
        step = ratios[level - 1] // self.ratio if level else 0
        self.below = nn.Conv1d(config.vector, width, 2 * step, step, step // 2) if step else None
        self.stack = ResidualStack(width, config.local, growth=3, zero_out=True)
        self.ln = LayerNorm(width)
        self.out = Linear(width, config.bins, init.linear)

    def forward(self, columns: Float[Tensor, "b t w"], vectors: Mapping[str, Tensor]) -> Float[Tensor, "b n f"]:
        x = self.unfold(columns).unflatten(2, (self.ratio, -1))  # (B, T, R * F) -> (B, T, R, F)
        x = x.flatten(1, 2).transpose(1, 2)  # -> (B, F, T * R)
        inputs = ((self.own_stream, self.own), (self.above_stream, self.above), (self.below_stream, self.below))
        for stream, convolution in inputs:
            if convolution is not None:
                x = x + convolution(vectors[stream].transpose(1, 2))
        return self.ln(self.stack(x).transpose(1, 2))

    def around(
        self, seen: EncodedColumns, asked: Bool[Tensor, "b n"]
    ) -> Iterator[tuple[slice, Float[Tensor, "n f"], Bool[Tensor, "b _"]]]:
        """Piece by piece the vectors of the codes that are asked for, with where they are: the same as of the whole at once.

        A piece is computed with as many columns on either side as it hears; pieces of which nothing is asked are left out.
        """
        columns = seen.columns.shape[1]
        far = 1 + -(-self.stack.reach // self.ratio)  # columns
        size = max(1, CHUNK // (self.out.w.shape[0] * self.ratio)) if seen.columns.device.type == "cpu" else columns
        for first in range(0, columns, size):
            last = min(first + size, columns)
            here = slice(first * self.ratio, last * self.ratio)
            if not asked[:, here].any():
                continue
            begin, end = max(0, first - far), min(columns, last + far)
            rates = {stream: x.shape[1] // columns for stream, x in seen.vectors.items()}
            vectors = {stream: x[:, begin * rates[stream] : end * rates[stream]] for stream, x in seen.vectors.items()}
            made = self(seen.columns[:, begin:end], vectors)[:, (first - begin) * self.ratio :][:, : here.stop - here.start]
            yield here, made[asked[:, here]], asked[:, here]
