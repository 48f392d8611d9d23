"""From columns back to the codes of one level, at its own rate: the last part of the masked prior (`priors/masked/model.py`).

A column is too narrow a door for 21 codes: with logits right behind the trunk, from weights of each slot, every slot has to
learn alone what is the same for all 16 of a level. So what the trunk says of a column is unfolded to its codes, and dilated
convolutions go over these, the codes known around them and those of the levels above and below, alike for every slot. A
convolution hears only so far: codes are drawn piece by piece, and pieces in which all is known are not computed.

Where the levels are the books of one stream, each has one code in a column. The head of a book then takes the codes of all
books of a frame and of its neighbours: those before it are known when it is sampled, those after it where the frame is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.masked.config import CHUNK, MaskedConfig
from priors.transformer.linear import LayerNorm, Linear
from vqvae.jukebox.blocks import ResidualStack


@dataclass
class EncodedColumns:
    """What a window looks like with its holes: columns after the trunk (b t w), and vectors of the codes by level."""

    columns: Tensor
    vectors: dict[str, Tensor]


def joined(vectors: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t _"]:
    """Vectors of the same frames as one; a single one without a copy."""
    return torch.cat(list(vectors), dim=2) if len(vectors) > 1 else vectors[0]


def first_places(asked: Bool[Tensor, "b n"], count: int) -> Int[Tensor, " m"]:
    """The places in (b * n) of the first `count` entries that are true, in order; a count of the host spares a wait for the device."""
    return asked.flatten().logical_not().byte().argsort(stable=True)[:count]


class LevelHead(nn.Module):
    """From columns back to the codes of one level: a vector (b, t * ratio, fine) for each, and logits."""

    def __init__(self, config: MaskedConfig, level: int):
        super().__init__()
        width, init = config.head_width, config.trunk.init
        ratios = list(config.ratios.values())
        self.ratio = ratios[level]
        self.own_levels = config.levels if config.books > 1 else (config.levels[level],)
        self.above_level, self.below_level = [*config.levels, ""][level + 1], config.levels[level - 1]
        # at first the codes around a hole speak louder than the trunk, which has yet to learn
        self.unfold = Linear(config.trunk.width, self.ratio * width, init.linear / 4)
        self.own = nn.Conv1d(config.books * config.vector, width, 3, padding=1)
        step = self.ratio // ratios[level + 1] if config.books == 1 and level + 1 < len(ratios) else 0
        self.above = nn.ConvTranspose1d(config.vector, width, 2 * step, step, step // 2) if step else None
        step = ratios[level - 1] // self.ratio if config.books == 1 and level else 0
        self.below = nn.Conv1d(config.vector, width, 2 * step, step, step // 2) if step else None
        self.stack = ResidualStack(width, config.local, growth=3, zero_out=True)
        self.ln = LayerNorm(width)
        self.out = Linear(width, config.bins, init.linear)

    def forward(self, columns: Float[Tensor, "b t w"], vectors: Mapping[str, Tensor]) -> Float[Tensor, "b n f"]:
        x = self.unfold(columns).unflatten(2, (self.ratio, -1))  # (B, T, R * F) -> (B, T, R, F)
        x = x.flatten(1, 2).transpose(1, 2)  # -> (B, F, T * R)
        x = x + self.own(joined([vectors[level] for level in self.own_levels]).transpose(1, 2))
        for level, convolution in ((self.above_level, self.above), (self.below_level, self.below)):
            if convolution is not None:
                x = x + convolution(vectors[level].transpose(1, 2))
        return self.ln(self.stack(x).transpose(1, 2))

    def around(
        self, seen: EncodedColumns, asked: Bool[Tensor, "b n"], count: int
    ) -> Iterator[tuple[Int[Tensor, " m"], Float[Tensor, "m f"]]]:
        """Piece by piece the places in (b * n) of the `count` codes that are asked for, and their vectors, as of the whole at once.

        A piece is computed with its receptive field on either side; pieces of which nothing is asked are left out. On a GPU there is
        one piece, and nothing is read from its memory.
        """
        if seen.columns.device.type != "cpu":
            places = first_places(asked, count)
            yield places, self(seen.columns, seen.vectors).flatten(0, 1)[places]
            return
        columns = seen.columns.shape[1]
        far = 1 + -(-self.stack.reach // self.ratio)  # columns
        size = max(1, CHUNK // (self.out.w.shape[0] * self.ratio))
        for first in range(0, columns, size):
            last = min(first + size, columns)
            here = slice(first * self.ratio, last * self.ratio)
            if not asked[:, here].any():
                continue
            begin, end = max(0, first - far), min(columns, last + far)
            rates = {stream: x.shape[1] // columns for stream, x in seen.vectors.items()}
            vectors = {stream: x[:, begin * rates[stream] : end * rates[stream]] for stream, x in seen.vectors.items()}
            made = self(seen.columns[:, begin:end], vectors)[:, (first - begin) * self.ratio :][:, : here.stop - here.start]
            rows, at = asked[:, here].nonzero(as_tuple=True)
            yield rows * asked.shape[1] + here.start + at, made[rows, at]
