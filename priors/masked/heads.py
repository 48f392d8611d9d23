"""Heads of the masked prior (`priors/masked/model.py`): from columns to the codes of one level, at the level's rate.

A column is a bottleneck for 21 codes. With logits directly after the trunk and separate weights per slot, every slot has to
learn what is the same for all 16 slots of a level. So the trunk's output for a column is unfolded to its codes. Dilated
convolutions, shared by all slots, follow; their inputs are the unfolded vectors, the known codes around them and those of the
levels above and below. The receptive field is limited. So codes are sampled in blocks, and blocks without unknown codes are
skipped.

If the levels are the books of one stream, each has one code per column. The head of a book reads the codes of all books of a
frame and of its neighbours. Earlier books are known when it is sampled, later books only if the frame is known.
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
    """A window with masked codes: columns after the trunk (b t w), and vectors of the codes by level."""

    columns: Tensor
    vectors: dict[str, Tensor]


def joined(vectors: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t _"]:
    """Concatenate vectors of the same frames; a single one is not copied."""
    return torch.cat(list(vectors), dim=2) if len(vectors) > 1 else vectors[0]


def first_places(asked: Bool[Tensor, "b n"], count: int) -> Int[Tensor, " m"]:
    """Indices in (b * n) of the first `count` true entries, in order.

    A `count` known on the host avoids waiting for the device.
    """
    return asked.flatten().logical_not().byte().argsort(stable=True)[:count]


class LevelHead(nn.Module):
    """Head of one level: from columns to a vector (b, t * ratio, fine) per code, and logits."""

    def __init__(self, config: MaskedConfig, level: int):
        super().__init__()
        width, init = config.head_width, config.trunk.init
        ratios = list(config.ratios.values())
        self.ratio = ratios[level]
        self.own_levels = config.levels if config.books > 1 else (config.levels[level],)
        self.above_level, self.below_level = [*config.levels, ""][level + 1], config.levels[level - 1]
        # initially the codes around a mask have more weight than the untrained trunk
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
        """Yield, block by block, the indices in (b * n) of the `count` requested codes and their vectors, equal to those of the
        whole.

        A block is computed with its receptive field on both sides; blocks without requested codes are skipped. On a GPU there
        is one block, and nothing is copied to the host.
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
