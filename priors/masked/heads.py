"""Heads of the masked prior (`priors/masked/model.py`): from columns to the codes of one level, at the rate of the level.

A column is a bottleneck for 21 codes. If logits directly followed the trunk, each of the 16 slots of a level would have
separate weights and would have to learn the same things. Therefore the trunk's output for a column is first unfolded to its
codes. Dilated convolutions follow, which all slots share. Their inputs are the unfolded vectors, the known codes nearby, and
the codes of the levels above and below. The receptive field is limited. So codes are sampled in blocks, and blocks without
unknown codes are skipped.

If the levels are the books of one stream, each level has one code per column. The head of a book reads the codes of all books,
of a frame and its neighbours. Earlier books are known when the book is sampled. Later books are known only if the whole frame
is known.
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
    """A window with masked codes: the trunk's output for the columns (b t w), and the vectors of the codes by level."""

    columns: Tensor
    vectors: dict[str, Tensor]


def joined(vectors: Sequence[Float[Tensor, "b t _"]]) -> Float[Tensor, "b t _"]:
    """Concatenate vectors of the same frames. A single one is not copied."""
    return torch.cat(list(vectors), dim=2) if len(vectors) > 1 else vectors[0]


def first_places(asked: Bool[Tensor, "b n"], count: int) -> Int[Tensor, " m"]:
    """Return the indices in (b * n) of the first `count` true entries, in order.

    The caller knows `count` on the host, so that the host need not wait for the device.
    """
    return asked.flatten().logical_not().byte().argsort(stable=True)[:count]


class LevelHead(nn.Module):
    """Head of one level. It maps columns to one vector per code, (b, t * ratio, head_width), and these to logits."""

    def __init__(self, config: MaskedConfig, level: int):
        super().__init__()
        width, init = config.head_width, config.trunk.init
        ratios = list(config.ratios.values())
        self.ratio = ratios[level]
        self.own_levels = config.levels if config.books > 1 else (config.levels[level],)
        self.above_level, self.below_level = [*config.levels, ""][level + 1], config.levels[level - 1]
        # the small scale gives the codes around a mask more weight than the untrained trunk at first
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
        """Yield for each block the indices in (b * n) of its requested codes, and their vectors.

        `count` is the number of requested codes. The vectors equal those of a pass over the whole window, because a block
        includes its receptive field on both sides. Blocks without requested codes are skipped. On a GPU there is one block, and
        nothing is copied to the host.
        """
        if seen.columns.device.type != "cpu":
            places = first_places(asked, count)
            yield places, self(seen.columns, seen.vectors).flatten(0, 1)[places]
            return
        columns = seen.columns.shape[1]
        far = 1 + -(-self.stack.reach // self.ratio)  # columns of the receptive field on each side
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
