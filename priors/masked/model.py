"""MaskedPrior: inpainting of the codes of all levels by masked parallel decoding (VampNet, arXiv:2307.04686).

    loss(batch)                                cross entropy of the masked codes, given the known codes
    start(window, known, cond, noise, params)  then sample(state): samples the streams that `params` names, coarsest first

Sequences are codes Int (b, t * ratio) of every level, where t is the number of columns (`priors/masked/columns.py`) and ratio
is 16, 4, 1 for level 0, 1, 2. Masks are Bool of the same shapes and mark the known codes. Known codes are returned unchanged.
The values of unknown codes are ignored. `params` maps each sampled stream to its `MaskedParams`.

    columns   the vectors of the codes, or MASK vectors, of all slots, concatenated   + position + labels + timing
    trunk     blocks that attend to all columns before and after; `cross` layers attend to the lyrics
    level     back to the rate of a level: the trunk's output for the column, the code itself and its neighbours, and the codes
              of the levels above and below; dilated convolutions over these, with the same weights for every slot
    logits    of the requested codes only

A level is a stream. But if the frames of a single stream have several codes, Int (b, t, books), a level is a book. The masks
(b, t) then mark known frames, and a pass masks each code separately. Book 0 is sampled first.

Levels are sampled in sequence, coarsest first. So codes compete within their level only. Otherwise fine codes, which are less
probable, would always be last. Each pass samples every unknown code, and then masks the codes of least confidence again. Their
number follows the cosine schedule, from the number of unknown codes in the row (MaskGIT, arXiv:2202.04200).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions
from priors.conditioning.labels import LabelEmbedding, TimingEmbedding
from priors.conditioning.lyrics import LyricEncoder, lyric_distance, no_lyrics
from priors.logits import draw_surely, uniforms
from priors.masked.columns import ColumnEmbedding, draw_masks, join_books, left_after, split_books
from priors.masked.config import CODES_AT_ONCE, ON_GPU, MaskedConfig, MaskedParams
from priors.masked.heads import EncodedColumns, LevelHead
from priors.masked.state import ColumnConditioning, MaskedState
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window
from priors.transformer.linear import LayerNorm, Linear
from priors.transformer.trunk import Transformer, block_matrices


class MaskedPrior(Prior):
    """A masked prior of the codes of all levels, given known codes and conditions. The loss is the mean bits per code."""

    config: MaskedConfig

    def __init__(self, config: MaskedConfig):
        super().__init__()
        trunk, init = config.trunk, config.trunk.init
        self.config = config
        self.embedding = ColumnEmbedding(config.bins, config.ratios, config.vector, init.embedding)
        self.inlet = Linear(config.slots * config.vector, trunk.width, init.linear)
        self.pos_emb = nn.Parameter(torch.randn(config.n_ctx, trunk.width) * init.position)
        if config.labels:
            self.labels = LabelEmbedding(config.labels, trunk.width, init.label)
            if config.labels.timing_bins:
                self.timing = TimingEmbedding(config.labels, config.n_ctx, trunk.width, init.label)
        if config.lyrics:
            self.lyric_encoder = LyricEncoder(config.lyrics, trunk.width, init)
        self.trunk = Transformer(trunk)
        self.ln = LayerNorm(trunk.width)
        self.heads = nn.ModuleList(LevelHead(config, level) for level in range(len(config.levels)))

    def head(self, level: str) -> LevelHead:
        return cast(LevelHead, self.heads[self.config.levels.index(level)])

    def split(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert codes or flags by stream to codes or flags by level. Those that are by level already do not change."""
        return split_books(x, self.config.streams[0], self.config.books)

    def join(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert values by level to values by stream."""
        return join_books(x, self.config.streams[0], self.config.books)

    @torch.no_grad()
    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Initialise the embeddings from the codec's vectors, scaled in every book to mean 0 and deviation `init.embedding`.

        A stream with several books has vectors (books, bins, e) or (books * bins, e). If `e` is not the width of the
        embeddings, a random matrix projects the vectors.
        """
        for stream, v in vectors.items():
            levels = self.config.levels_of(stream)[::-1]
            for level, book in zip(levels, v.reshape(len(levels), -1, v.shape[-1]), strict=True):
                self._initialise_level(level, book)

    def _initialise_level(self, level: str, v: Float[Tensor, "k e"]) -> None:
        table = self.embedding.x_emb[self.config.levels.index(level)].weight
        assert isinstance(table, Tensor)
        v = v.to(table)
        v = (v - v.mean(dim=0)) / v.std(dim=0).clamp(min=1e-6)
        if v.shape[1] != table.shape[1]:
            v = v @ torch.randn(v.shape[1], table.shape[1], device="cpu").to(table) * v.shape[1] ** -0.5
        table.copy_(v * self.config.trunk.init.embedding)

    # ---- conditions

    def encode_conditions(self, cond: Conditions, batch: int, columns: int) -> ColumnConditioning:
        config, added = self.config, self.pos_emb[:columns].expand(batch, -1, -1)
        if config.labels:
            added = added + self.labels(cond.artist, cond.genres, batch)
            if config.labels.timing_bins and cond.timing is not None:
                added = added + self.timing(cond.timing)[:, :columns]
        if not config.lyrics:
            return ColumnConditioning(added, None, None)
        lyrics = cond.lyrics or no_lyrics(batch, config.n_tokens, self.pos_emb.device)
        far = lyric_distance(lyrics, columns, config.hop / config.sample_rate) if config.trunk.time_bias else None
        return ColumnConditioning(added, self.lyric_encoder(lyrics.ids), far)

    # ---- from known codes to logits

    def encode_columns(self, codes: Sequences, keep: Mask, conditioning: ColumnConditioning) -> EncodedColumns:
        """Return the trunk's output for a window with masked codes, and the vectors of the codes."""
        vectors = self.embedding(codes, keep)
        x = self.inlet(self.embedding.concatenate(vectors))
        y = self.trunk(x.to(conditioning.columns) + conditioning.columns, conditioning.encoded, conditioning.distance)
        return EncodedColumns(self.ln(y), vectors)

    def logits(self, seen: EncodedColumns, level: str, asked: Bool[Tensor, "b _"]) -> Float[Tensor, "n k"]:
        """Return the logits of the requested codes of a level, in the order of `asked`."""
        head = self.head(level)
        return head.out(head(seen.columns, seen.vectors)[asked])  # (B, T * R, F) -> (n, F) -> (n, K)

    # ---- training

    def costs(
        self, sequences: Sequences, cond: Conditions, keep: Mask, asked: Mask | None = None, every: bool = False
    ) -> dict[str, Float[Tensor, " n"]]:
        """Return the bits of each requested code by level. By default all codes that are not kept are requested.

        Levels without requested codes are missing, or empty if `every` is true. The masks are by stream or by level.
        """
        sequences, keep = self.split(sequences), self.split(keep)
        asked = self.split(asked) if asked else {level: ~known for level, known in keep.items()}
        conditioning = self.encode_conditions(cond, *sequences[self.config.levels[-1]].shape)
        seen = self.encode_columns(sequences, keep, conditioning)
        return {
            level: F.cross_entropy(self.logits(seen, level, asked[level]).float(), codes[asked[level]], reduction="none")
            / math.log(2)
            for level, codes in sequences.items()
            if every or asked[level].any()
        }

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        """Return the bits per code, averaged over levels, as "loss", and the bits per frame as "bits".

        Without `known` the masks are sampled as in training, by torch's global generator. The sum of bits of a level is divided
        by `counts`, by default the number of its codes in the loss. If this batch is a part of a larger batch, `counts` are the
        means over all parts. Then the mean of the losses of the parts is the loss of the larger batch.
        """
        keep, asked, counts = batch.known, batch.asked, batch.counts
        if keep is None:
            rows, columns = batch.sequences[self.config.streams[-1]].shape[:2]
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
            keep, asked = join_masks([draw_masks(columns, self.config.ratios, rng) for _ in range(rows)])
            device = self.pos_emb.device
            keep, asked = ({stream: x.to(device) for stream, x in each.items()} for each in (keep, asked))
        costs = self.costs(batch.sequences, batch.cond, keep, asked, every=counts is not None)
        counts = counts or {stream: each.numel() for stream, each in costs.items()}
        # a level without requested codes adds 0, so that its weights have a gradient on every rank
        bits = [each.sum() / counts[stream] for stream, each in costs.items() if counts[stream]]
        if not bits:
            raise ValueError("all codes are kept; a loss needs some that are not")
        mean = torch.stack(bits).mean()
        return {"loss": mean, "bits": self.config.books * mean}

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weight matrices of the blocks, for Muon."""
        return block_matrices(self)

    @torch.no_grad()
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences:
        known = known or {stream: torch.zeros_like(x, dtype=torch.bool) for stream, x in sequences.items()}
        codes, keep = self.split(sequences), self.split(known)
        made = {level: torch.full(x.shape, torch.nan, device=x.device) for level, x in codes.items()}
        for level, bits in self.costs(codes, cond, keep).items():
            made[level][~keep[level]] = bits
        return {stream: x.sum(dim=2) if x.dim() == 3 else x for stream, x in self.join(made).items()}

    # ---- sampling

    @torch.no_grad()
    def draw_masks(self, rngs: Sequence[np.random.Generator]) -> tuple[Mask, Mask]:
        """Sample two masks for each window: the known codes, and the codes in the loss."""
        return join_masks([draw_masks(self.config.n_ctx, self.config.ratios, rng) for rng in rngs])

    def start(
        self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, MaskedParams]
    ) -> MaskedState:
        """Start a window. Streams that `params` does not name keep their known codes, and their unknown codes are 0."""
        self._check(window, known)
        given, mask, levels = self.split(known.sequences), self.split(known.mask), self.config.levels
        codes = {level: given[level].masked_fill(~mask[level], 0) for level in levels}
        conditioning = self.encode_conditions(cond, *codes[levels[-1]].shape)
        lacking = {level: (~mask[level]).sum(dim=1).tolist() for level in levels}
        by_level = {
            level: replace(each, passes=passes)
            for stream, each in params.items()
            for level, passes in self.config.passes(stream, each.passes).items()
        }
        order = [level for level in reversed(levels) if level in by_level]
        return MaskedState(conditioning, codes, mask, noise.sequential(), by_level, order, lacking)

    @torch.no_grad()
    def sample(self, state: MaskedState) -> Iterator[Update]:
        """Sample the levels in sequence. Yield each stream after its last pass, and an empty update after each other pass."""
        while state.turn < len(state.levels):
            level = state.levels[state.turn]
            while state.step < state.passes(level):
                self._pass(level, state)
                if state.step < state.passes(level):
                    yield self._update(level, state, False)
            state.turn, state.step = state.turn + 1, 0
            yield self._update(level, state, True)

    def _update(self, level: str, state: MaskedState, done: bool) -> Update:
        """Return the update of a level's stream. It is empty unless the last level of the stream is complete."""
        stream = level if level in self.config.streams else self.config.streams[0]
        values = self.join(state.codes)[stream]
        return Update(stream, 0, values if done and level == self.config.levels_of(stream)[0] else values[:, :0])

    def _pass(self, level: str, state: MaskedState) -> None:
        """Sample all unknown codes of a level, and keep the most confident ones. The schedule gives their number."""
        codes, known, lacking, params = state.codes, state.known, state.lacking[level], state.params[level]
        unknown, step, passes = ~known[level], state.step + 1, state.passes(level)
        numbers = to_device(numbers_for(state.rngs, lacking, 2 * unknown.shape[1]), unknown.device)
        chance, order = numbers.chunk(2, dim=1)
        count = sum(left_after(state.step, passes, n) for n in lacking)
        new, log_p = self._draw(level, codes, known, state.conditioning, chance, params, count)
        confidence = log_p + params.noise * (1 - step / passes) * gumbel(order)
        left = to_device(torch.tensor([left_after(step, passes, n) for n in lacking], device="cpu"), unknown.device)
        codes[level] = torch.where(unknown, new, codes[level])
        known[level] = ~least_sure(confidence.masked_fill(~unknown, torch.inf), left)
        state.step = step

    def _draw(
        self, level: str, codes: Sequences, known: Mask, conditioning: ColumnConditioning,
        chance: Float[Tensor, "b n"], params: MaskedParams, count: int,
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:  # fmt: skip
        """Sample each of the `count` unknown codes of a level by its uniform number. Return codes and log probabilities."""
        asked = ~known[level]
        new, log_p = codes[level].new_zeros(asked.shape), chance.new_zeros(asked.shape)
        if count:
            head, size = self.head(level), CODES_AT_ONCE if asked.device.type == "cpu" else ON_GPU
            for places, x in head.around(self.encode_columns(codes, known, conditioning), asked, count):
                rows = zip(x.split(size), chance.take(places).split(size), strict=True)
                drawn = [draw_surely(head.out(part), u, params) for part, u in rows]
                chosen, probability = (torch.cat(each) for each in zip(*drawn, strict=True))
                new.view(-1)[places] = chosen
                log_p.view(-1)[places] = probability.double().clamp(min=1e-30).log()
        return new, log_p

    def _check(self, window: Window, known: Known) -> None:
        streams, config = self.config.streams, self.config
        ratios = tuple(config.frames(stream) // config.n_ctx for stream in streams)
        if set(known.sequences) != set(streams) or set(known.mask) != set(streams):
            raise ValueError(
                f"codes of {sorted(known.sequences)}, masks of {sorted(known.mask)}; expected those of {', '.join(streams)}"
            )
        lengths = {tuple(x[stream].shape[1] for stream in streams) for x in known}
        if not 0 < window.length <= self.config.n_ctx or lengths != {tuple(window.length * ratio for ratio in ratios)}:
            raise ValueError(
                f"codes and masks of lengths {sorted(lengths)} in a window of {window.length} columns; expected 1 to "
                f"{self.config.n_ctx} columns of {ratios} codes each"
            )


def join_masks(rows: Sequence[tuple[Mask, Mask]]) -> tuple[Mask, Mask]:
    """Concatenate the masks of single windows to a batch."""
    kept, asked = ([row[i] for row in rows] for i in range(2))
    return tuple({level: torch.cat([each[level] for each in some]) for level in some[0]} for some in (kept, asked))  # type: ignore[return-value]


def numbers_for(rngs: Sequence[torch.Generator], lacking: Sequence[int], length: int) -> Float[Tensor, "b n"]:
    """Return `length` uniform numbers per row, from the generator of the row.

    A row without unknown codes uses no numbers, so that its result does not depend on the other rows.
    """
    rows = [uniforms([rng], length if n else 0) for rng, n in zip(rngs, lacking, strict=True)]
    return torch.cat([F.pad(row, (0, length - row.shape[1])) for row in rows])


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device. For a GPU the copy is asynchronous, from pinned memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def gumbel(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return Gumbel noise for uniform numbers in [0, 1). The noise is always finite."""
    return -(-uniform.clamp(1e-12, 1 - 1e-12).log()).log()


def least_sure(confidence: Float[Tensor, "b n"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """Return a mask of the `count` entries of least confidence in each row. Of equal entries the first ones are taken."""
    order = confidence.argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places) < count[:, None]
