"""MaskedPrior: the codes of all levels, with holes, filled many at once in a few passes (VampNet, arXiv:2307.04686).

    loss(sequences, cond, keep)             cross entropy of the codes that are not kept, given those that are
    fill(sequences, keep, cond, rngs, how)  the same sequences, what is not kept drawn anew

`sequences` are codes Int (b, t * ratio) of every level, t the columns of the window (`priors/masked/columns.py`), ratio 16, 4, 1 of level
0, 1, 2. `keep` says which are known, Bool of the same shapes; what is not kept is never looked at. `cond` are the conditions of the
window, `rngs` a generator a sample, `params` maps each level to be filled to its How: `passes` rounds, temperature, `noise` of the
order. Kept codes come out as they went in.

    columns   the vectors of their codes, or MASK a slot, side by side   + position + labels + timing
    trunk     blocks that see all columns before and behind; `cross` layers listen to the lyrics
    level     back at a level's own rate: what the trunk says of the column, the code itself and its neighbours, the codes above
              and below; dilated convolutions over these, with the same weights for every slot
    logits    of the codes that are asked for, and of no others

Filling goes level by level, coarsest first, and so codes compete within their level only: fine codes are less likely and would
always come last. In each pass every unknown code is drawn, and those that the model is least sure of are hidden again; how many, the
cosine schedule says, for every item of the batch from its own number of unknown codes (MaskGIT, arXiv:2202.04200).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from priors.conditioning.conditions import Conditions, LabelConfig, LabelEmbedding, TimingEmbedding
from priors.conditioning.lyrics import LyricConfig, LyricEncoder, lyric_distance, no_lyrics
from priors.logits import draw_surely, uniforms
from priors.masked.columns import ColumnEmbedding, draw_masks, left_after
from priors.masked.heads import EncodedColumns, LevelHead
from priors.masked.masks import Keep
from priors.prior import Prior, PriorSpec, SamplingParams, Sequences
from priors.transformer.linear import LayerNorm, Linear
from priors.transformer.trunk import Init, Transformer, TrunkConfig

PASSES = 12  # of a level whose How does not say
AT_ONCE = 256  # codes whose logits are there at once: they stay in the cache of a core
Watch = Callable[[int, int, Tensor], None]  # (level, pass, what is unknown after it)


@dataclass(frozen=True)
class MaskedConfig:
    """Shape of a masked prior; `trunk.n_ctx` counts columns, `vector` is the width of a code's vector.

    At each level's own rate there are `local` blocks of convolutions, `head_width` wide.
    """

    bins: int
    hops: tuple[int, ...]  # samples a code, by level
    sample_rate: int
    trunk: TrunkConfig
    vector: int = 64
    head_width: int = 64
    local: int = 4
    labels: LabelConfig | None = None
    lyrics: LyricConfig | None = None

    @property
    def ratios(self) -> tuple[int, ...]:
        """Codes of each level in a column."""
        return tuple(self.hops[-1] // hop for hop in self.hops)

    @property
    def hop(self) -> int:
        """Samples a column."""
        return self.hops[-1]

    @property
    def n_ctx(self) -> int:
        """Columns of a window."""
        return self.trunk.n_ctx

    @property
    def n_tokens(self) -> int:
        return self.lyrics.n_tokens if self.lyrics else 0

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(data: dict) -> MaskedConfig:
        def trunk(d: dict) -> TrunkConfig:
            return TrunkConfig(**{**d, "order": tuple(d["order"]), "init": Init(**d["init"])})

        lyrics = data["lyrics"] and LyricConfig(**{**data["lyrics"], "trunk": trunk(data["lyrics"]["trunk"])})
        labels = data["labels"] and LabelConfig(**data["labels"])
        parts = {"hops": tuple(data["hops"]), "trunk": trunk(data["trunk"]), "labels": labels, "lyrics": lyrics}
        return MaskedConfig(**{**data, **parts})


@dataclass
class ColumnConditioning:
    """Conditions as the trunk takes them: what is added to every column (b t w), lyrics (b n w), seconds to them (b t n)."""

    columns: Tensor
    encoded: Tensor | None
    distance: Tensor | None


@dataclass
class FillState:
    """Sampling that has not begun: what is known, and how the rest is to be drawn."""

    cond: Conditions
    known: Sequences
    rngs: Sequence[torch.Generator]
    params: SamplingParams


class MaskedPrior(Prior):
    """Codes of all levels given some of them and conditions; the loss is in bits per code, levels counting alike."""

    def __init__(self, config: MaskedConfig):
        super().__init__()
        trunk, init, slots = config.trunk, config.trunk.init, sum(config.ratios)
        self.config = config
        self.spec = PriorSpec((), tuple(range(len(config.hops))), config.n_ctx, config.bins)
        self.embedding = ColumnEmbedding(config.bins, config.ratios, config.vector, init.embedding)
        self.inlet = Linear(slots * config.vector, trunk.width, init.linear)
        self.pos_emb = nn.Parameter(torch.randn(config.n_ctx, trunk.width) * init.position)
        if config.labels:
            self.labels = LabelEmbedding(config.labels, trunk.width, init.label)
            if config.labels.timing_bins:
                self.timing = TimingEmbedding(config.labels, config.n_ctx, trunk.width, init.label)
        if config.lyrics:
            self.lyric_encoder = LyricEncoder(config.lyrics, trunk.width, init)
        self.trunk = Transformer(trunk)
        self.ln = LayerNorm(trunk.width)
        self.heads = nn.ModuleList(LevelHead(config, level) for level in range(len(config.hops)))

    @torch.no_grad()
    def start_from(self, vectors: dict[int, Float[Tensor, "k e"]]) -> None:
        """Begin with the codec's own vectors of the codes, level -> a vector a code, brought to mean 0 and deviation `init.embedding`."""
        for level, v in vectors.items():
            table = self.embedding.x_emb[level].weight
            assert isinstance(table, Tensor)
            v = v.to(table)
            table.copy_((v - v.mean(dim=0)) / v.std(dim=0).clamp(min=1e-6) * self.config.trunk.init.embedding)

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

    # ---- from what is known to logits

    def encode_columns(self, codes: Sequences, keep: Keep, conditioning: ColumnConditioning) -> EncodedColumns:
        """What is known, seen by the trunk as a whole."""
        vectors = self.embedding(codes, keep)
        x = self.inlet(self.embedding.concatenate(vectors))
        y = self.trunk(x.to(conditioning.columns) + conditioning.columns, conditioning.encoded, conditioning.distance)
        return EncodedColumns(self.ln(y), vectors)

    def logits(self, seen: EncodedColumns, level: int, asked: Bool[Tensor, "b _"]) -> Float[Tensor, "n k"]:
        """Of the codes of a level that are asked for, in the order of `asked`."""
        fine = cast(LevelHead, self.heads[level])
        return fine.out(fine(seen.columns, seen.vectors)[asked])  # (B, T * R, F) -> (n, F) -> (n, K)

    # ---- training

    def costs(
        self, sequences: Sequences, cond: Conditions, keep: Keep, asked: Keep | None = None, every: bool = False
    ) -> dict[int, Float[Tensor, " n"]]:
        """Level -> bits of each code that is asked for, or of all that are not kept.

        Levels of which none is are left out, or empty where `every` level is wanted.
        """
        asked = asked or {level: ~known for level, known in keep.items()}
        seen = self.encode_columns(
            sequences, keep, self.encode_conditions(cond, *sequences[len(self.config.hops) - 1].shape)
        )
        return {
            level: F.cross_entropy(
                self.logits(seen, level, asked[level]).float(), codes[asked[level]], reduction="none"
            )
            / math.log(2)
            for level, codes in sequences.items()
            if every or asked[level].any()
        }

    def loss(
        self, sequences: Sequences, cond: Conditions, keep: Keep | None = None, asked: Keep | None = None,
        counts: Mapping[int, float] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """As of every prior; without `keep` what is hidden is drawn as in training, by torch's own generator.

        Sums of bits are divided by `counts` of codes, level -> number: of a part of a larger batch, the mean over its
        parts, so that the mean of the parts' losses is the larger batch's. By default they are those of this batch.
        """
        if keep is None:
            batch, columns = sequences[len(self.config.hops) - 1].shape
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
            keep, asked = join_masks([draw_masks(columns, self.config.ratios, rng) for _ in range(batch)])
            device = self.pos_emb.device
            keep, asked = ({level: x.to(device) for level, x in each.items()} for each in (keep, asked))
        costs = self.costs(sequences, cond, keep, asked, every=counts is not None)
        counts = counts or {level: each.numel() for level, each in costs.items()}
        # a level of which this part asks nothing costs 0 here: its weights still have a gradient, as on every other rank
        bits = [each.sum() / counts[level] for level, each in costs.items() if counts[level]]
        if not bits:
            raise ValueError("all codes are kept; a loss needs some that are not")
        mean = torch.stack(bits).mean()
        return {"loss": mean, "bits": mean}

    @torch.no_grad()
    def bits(self, sequences: Sequences, cond: Conditions, keep: Keep) -> dict[int, Float[Tensor, "b _"]]:
        """Bits that each code costs which is not kept, nan where it is."""
        made = {level: torch.full(x.shape, torch.nan, device=x.device) for level, x in sequences.items()}
        for level, bits in self.costs(sequences, cond, keep).items():
            made[level][~keep[level]] = bits
        return made

    # ---- sampling

    @torch.no_grad()
    def fill(
        self, sequences: Sequences, keep: Keep, cond: Conditions, rngs: Sequence[torch.Generator], params: Mapping[int, SamplingParams],
        watch: Watch | None = None,
    ) -> Sequences:  # fmt: skip
        """The sequences with every code that is not kept drawn anew, level by level, in `how[level].passes` passes.

        Levels that `params` does not name are left as they are: codes kept, and 0 where nothing is.
        """
        levels = range(len(self.config.hops))
        self._check(sequences, keep)
        codes = {level: sequences[level].masked_fill(~keep[level], 0) for level in levels}
        known = {level: keep[level].clone() for level in levels}
        conditioning = self.encode_conditions(cond, *sequences[levels[-1]].shape)
        for level in reversed(levels):
            if level in params and not keep[level].all():
                self._fill_level(level, codes, known, conditioning, rngs, params[level], watch)
        return codes

    def _fill_level(
        self, level: int, codes: Sequences, known: Keep, conditioning: ColumnConditioning,
        rngs: Sequence[torch.Generator], params: SamplingParams, watch: Watch | None,
    ) -> None:  # fmt: skip
        """Make all of a level known; `codes` and `known` are changed in their place."""
        passes = params.passes or PASSES
        unknown = ~known[level]
        at_first = unknown.sum(dim=1).tolist()
        for step in range(1, passes + 1):
            chance, order = numbers_for(rngs, at_first, 2 * unknown.shape[1]).to(unknown.device).chunk(2, dim=1)
            new, log_p = self._draw(level, codes, known, conditioning, chance, params)
            codes[level] = torch.where(unknown, new, codes[level])
            confidence = log_p + params.noise * (1 - step / passes) * gumbel(order)
            left = torch.tensor([left_after(step, passes, count) for count in at_first], device=unknown.device)
            unknown = least_sure(confidence.masked_fill(~unknown, torch.inf), left)
            known[level] = ~unknown
            if watch:
                watch(level, step, unknown)

    def _draw(
        self,
        level: int,
        codes: Sequences,
        known: Keep,
        conditioning: ColumnConditioning,
        chance: Float[Tensor, "b n"],
        params: SamplingParams,
    ) -> tuple[Int[Tensor, "b n"], Float[Tensor, "b n"]]:
        """A code for everything unknown at a level, by its number in `chance`, and its log probability."""
        asked, new, log_p = ~known[level], torch.zeros_like(codes[level]), torch.zeros_like(chance)
        if asked.any():
            fine = cast(LevelHead, self.heads[level])
            for here, x, some in fine.around(self.encode_columns(codes, known, conditioning), asked):
                rows = zip(x.split(AT_ONCE), chance[:, here][some].split(AT_ONCE), strict=True)
                drawn = [draw_surely(fine.out(part), u, params) for part, u in rows]
                new[:, here][some], probability = (torch.cat(each) for each in zip(*drawn, strict=True))
                log_p[:, here][some] = probability.double().clamp(min=1e-30).log()
        return new, log_p

    def _check(self, sequences: Sequences, keep: Keep) -> None:
        levels, ratios = set(range(len(self.config.hops))), self.config.ratios
        if set(sequences) != levels or set(keep) != levels:
            raise ValueError(
                f"codes of level {sorted(sequences)}, keep of level {sorted(keep)}; expected {sorted(levels)}"
            )
        columns = sequences[max(levels)].shape[1]
        lengths = {tuple(len(x[level][0]) for level in sorted(levels)) for x in (sequences, keep)}
        if not 0 < columns <= self.config.n_ctx or lengths != {tuple(columns * ratio for ratio in ratios)}:
            raise ValueError(
                f"codes and keep of lengths {sorted(lengths)}; expected 1 to {self.config.n_ctx} columns of {ratios} codes each"
            )

    # ---- as every prior: what comes behind a prime, or under the codes of the levels above

    def start(
        self, cond: Conditions, prime: Sequences, rngs: Sequence[torch.Generator], params: SamplingParams
    ) -> FillState:
        """`prime` has the beginning of every level; a level that is known further than others is heard as far as it goes."""
        return FillState(cond, prime, rngs, params)

    def sample(self, state: FillState, length: int) -> Iterator[Sequences]:
        """The codes behind the prime, up to `length` columns behind that of the level of which least is known."""
        ratios = self.config.ratios
        columns = length + min(codes.shape[1] // ratios[level] for level, codes in state.known.items())
        codes, keep = {}, {}
        for level, known in state.known.items():
            missing = columns * ratios[level] - known.shape[1]
            if missing < 0:
                raise ValueError(f"level {level} is known further than the {columns} columns asked for; ask for more")
            codes[level] = F.pad(known, (0, missing))
            keep[level] = F.pad(torch.ones_like(known, dtype=torch.bool), (0, missing))
        made = self.fill(codes, keep, state.cond, state.rngs, dict.fromkeys(codes, state.params))
        for level, known in sorted(state.known.items(), reverse=True):
            if made[level].shape[1] > known.shape[1]:
                yield {level: made[level][:, known.shape[1] :]}


def join_masks(rows: Sequence[tuple[Keep, Keep]]) -> tuple[Keep, Keep]:
    """Masks of one window each as those of a batch."""
    kept, asked = ([row[i] for row in rows] for i in range(2))
    return tuple({level: torch.cat([each[level] for each in some]) for level in some[0]} for some in (kept, asked))  # type: ignore[return-value]


def numbers_for(rngs: Sequence[torch.Generator], lacking: Sequence[int], length: int) -> Float[Tensor, "b n"]:
    """`length` uniform numbers a row, from its own generator; a row that lacks nothing takes none, as it would alone."""
    rows = [uniforms([rng], length if n else 0) for rng, n in zip(rngs, lacking, strict=True)]
    return torch.cat([F.pad(row, (0, length - row.shape[1])) for row in rows])


def gumbel(uniform: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Gumbel noise of uniform numbers in [0, 1), finite for all of them."""
    return -(-uniform.clamp(1e-12, 1 - 1e-12).log()).log()


def least_sure(confidence: Float[Tensor, "b n"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """The `count` entries of each row with the least confidence; of equal ones those that come first."""
    order = confidence.argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places) < count[:, None]
