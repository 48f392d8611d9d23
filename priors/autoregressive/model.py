"""AutoregressivePrior: codes written one by one, left to right (Jukebox, sections 4 and 6).

The top prior and both upsamplers are this.

    inputs   start | code 0 | code 1 | ...    + position + (timing, or the codes above, upsampled)
    trunk    blocks under their patterns; `cross` layers listen to the lyric encoder
    logits   of code 0 | code 1 | code 2 | ...

The start is artist + genres where there are labels, else a learned token. Lyrics come in one of two forms: as a
separate encoder, or (an encoder without a trunk of its own) as letters in front of the codes, in one sequence with one
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.autoregressive.step import Step, stepper
from priors.conditioning.conditions import Conditions, LabelConfig, LabelEmbedding, Lyrics, TimingEmbedding
from priors.conditioning.lyrics import LyricConfig, LyricEncoder, lyric_distance, no_lyrics
from priors.conditioning.upsampler import Upsampler, UpsamplerConfig
from priors.logits import draw, uniforms
from priors.prior import Prior, PriorSpec, SamplingParams, Sequences
from priors.transformer.cache import Cache, CrossCache
from priors.transformer.trunk import Init, Transformer, TrunkConfig


@dataclass(frozen=True)
class PriorConfig:
    """Shape of a prior; `trunk.n_ctx` counts codes, and letters too where they stand in front of the codes."""

    level: int
    bins: int
    hop: int  # samples a code
    sample_rate: int
    trunk: TrunkConfig
    labels: LabelConfig | None = None
    lyrics: LyricConfig | None = None
    above: UpsamplerConfig | None = None
    tied: bool = True  # logits from the same table that embeds the codes
    condition_again: bool = True  # add the steps' conditions once more behind the trunk

    @property
    def lyric_prefix(self) -> int:
        """Letters that stand in front of the codes in one sequence (0 with a lyric encoder, or without lyrics)."""
        return self.lyrics.n_tokens if self.lyrics and self.lyrics.trunk.depth == 0 else 0

    @property
    def n_ctx(self) -> int:
        """Codes of a window."""
        return self.trunk.n_ctx - self.lyric_prefix

    @property
    def n_tokens(self) -> int:
        """Letters of a window (0 without lyrics)."""
        return self.lyrics.n_tokens if self.lyrics else 0

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(data: dict) -> PriorConfig:
        def trunk(d: dict) -> TrunkConfig:
            return TrunkConfig(**{**d, "order": tuple(d["order"]), "init": Init(**d["init"])})

        lyrics = data["lyrics"] and LyricConfig(**{**data["lyrics"], "trunk": trunk(data["lyrics"]["trunk"])})
        labels, above = (
            data["labels"] and LabelConfig(**data["labels"]),
            data["above"] and UpsamplerConfig(**data["above"]),
        )
        return PriorConfig(
            **{**data, "trunk": trunk(data["trunk"]), "labels": labels, "lyrics": lyrics, "above": above}
        )


@dataclass
class ConditioningInputs:
    """Conditions as the trunk takes them: the start (b 1 w), what is added to every input (b t w), and the lyrics.

    Lyrics are encoded (b n w) with their distances in seconds (b t n), or letters (b n) in front of the codes.
    """

    start: Tensor
    steps: Tensor | None
    encoded: Tensor | None
    distance: Tensor | None
    lyric_ids: Tensor | None

    def at(self, position: Int[Tensor, " 1"]) -> Float[Tensor, "b 1 w"] | None:
        return None if self.steps is None else self.steps.index_select(1, position)


@dataclass
class DecodeState:
    """Sampling in the middle of a window: what was heard, the caches, and the logits of the next code.

    The logits are none while `code`, the last one drawn, has not been heard yet.
    """

    conditioning: ConditioningInputs
    caches: list[Cache | CrossCache]
    position: int  # steps in the caches
    logits: Tensor | None
    code: Tensor | None
    rngs: Sequence[torch.Generator]
    params: SamplingParams
    guided: bool = False
    step: Step | None = None  # what hears a code; made when the first one comes

    def tensors(self) -> dict[str, Tensor]:
        """What comes in the middle of a window, behind a code that was drawn, to what `start` makes of its conditions; on the CPU."""
        assert self.code is not None
        return {name: buffer.cpu() for name, buffer in self._buffers()} | {
            "code": self.code.cpu(),
            "position": torch.tensor([self.position]),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Bring a state of the same start to where `tensors` were taken; the generators are wound on by whoever has them.

        ValueError where they are of another shape, and nothing is changed.
        """
        for name, buffer in self._buffers():
            if name not in tensors or (tensors[name].shape, tensors[name].dtype) != (buffer.shape, buffer.dtype):
                raise ValueError(f"{name} is not {buffer.dtype} of shape {tuple(buffer.shape)}")
        for name, buffer in self._buffers():
            buffer.copy_(tensors[name])
        self.code, self.logits = tensors["code"].to(self.conditioning.start.device), None
        self.position, self.step = int(tensors["position"]), None

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for _, buffer in self._buffers())

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        for i, cache in enumerate(self.caches):
            if isinstance(cache, Cache):
                yield from ((f"{name}_{i}", getattr(cache, name)) for name in ("k", "v"))


class AutoregressivePrior(Prior):
    """Codes of one level given conditions; the loss is in bits per code."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        trunk, init = config.trunk, config.trunk.init
        self.config = config
        reads = (config.level + 1,) if config.above else ()
        self.spec = PriorSpec(reads, (config.level,), config.n_ctx, config.bins)
        self.lyric_prefix = config.lyric_prefix
        self.vocabulary = config.bins + (config.lyrics.vocabulary if config.lyrics and self.lyric_prefix else 0)
        self.x_emb = nn.Embedding(self.vocabulary, trunk.width)
        nn.init.normal_(self.x_emb.weight, std=init.embedding)
        self.pos_emb = nn.Parameter(torch.randn(trunk.n_ctx, trunk.width) * init.position)
        if config.labels:
            self.labels = LabelEmbedding(config.labels, trunk.width, init.label)
            if config.labels.timing_bins:
                self.timing = TimingEmbedding(config.labels, config.n_ctx, trunk.width, init.label)
        else:
            self.start_token = nn.Parameter(torch.randn(1, trunk.width) * init.position)
        if config.above:
            self.upsampler = Upsampler(config.above, trunk.width, init)
        if config.lyrics and not self.lyric_prefix:
            self.lyric_encoder = LyricEncoder(config.lyrics, trunk.width, init)
        self.trunk = Transformer(trunk)
        self.x_out: nn.Module | None = None if config.tied else nn.Linear(trunk.width, self.vocabulary, bias=False)
        self.compiled = False  # whether steps are captured (GPU) or native (CPU); see priors/autoregressive/step.py

    @torch.no_grad()
    def start_from(self, vectors: dict[int, Float[Tensor, "k e"]]) -> None:
        """Begin the embeddings of codes with what the codes stand for, level -> a vector a code: codes that sound alike start alike.

        The vectors are normalised and brought to the trunk's width by a random projection; other tables are left as they are.
        """
        tables = {self.config.level: self.x_emb.weight[self.vocabulary - self.config.bins :]}
        if self.config.above:
            tables[self.config.level + 1] = self.upsampler.x_emb.weight
        for level, table in tables.items():
            if level in vectors:
                v = vectors[level].to(table)
                v = (v - v.mean(dim=0)) / v.std(dim=0).clamp(min=1e-6)
                mix = torch.randn(v.shape[1], table.shape[1], device=table.device) * v.shape[1] ** -0.5
                table.copy_(v @ mix.to(table) * self.config.trunk.init.embedding)

    # ---- conditions

    def encode_conditions(self, cond: Conditions, batch: int) -> ConditioningInputs:
        """Conditions to what the trunk takes, for a whole window."""
        config, steps = self.config, None
        if config.labels:
            start = self.labels(cond.artist, cond.genres, batch)
            if config.labels.timing_bins and cond.timing is not None:
                steps = self.timing(cond.timing)
            if config.labels.everywhere:
                steps = start if steps is None else steps + start
        else:
            start = self.start_token.expand(batch, 1, -1)
        if config.above:
            if cond.above is None:
                raise ValueError(
                    f"the level-{config.level} prior hears the codes of level {config.level + 1}; none were given"
                )
            above = self.upsampler(cond.above)
            steps = above if steps is None else steps + above
        if steps is not None and steps.shape[1] == 1:
            steps = steps.expand(-1, config.n_ctx, -1)
        lyrics = self.lyrics_of(cond, batch) if config.lyrics else None
        if lyrics is None:
            return ConditioningInputs(start, steps, None, None, None)
        if self.lyric_prefix:
            silent = torch.zeros(batch, self.lyric_prefix, start.shape[-1], device=start.device, dtype=start.dtype)
            steps = None if steps is None else torch.cat([silent, steps], dim=1)
            return ConditioningInputs(start, steps, None, None, lyrics.ids)
        return ConditioningInputs(start, steps, self.lyric_encoder(lyrics.ids), self.distance(lyrics), lyrics.ids)

    def lyrics_of(self, cond: Conditions, batch: int) -> Lyrics:
        return cond.lyrics or no_lyrics(batch, self.config.n_tokens, self.x_emb.weight.device)

    def distance(self, lyrics: Lyrics) -> Float[Tensor, "b t n"] | None:
        """Seconds between each step and each letter."""
        if not self.config.trunk.time_bias:
            return None
        return lyric_distance(lyrics, self.config.n_ctx, self.config.hop / self.config.sample_rate)

    # ---- training

    def embed(self, tokens: Int[Tensor, "b t"], conditioning: ConditioningInputs) -> Float[Tensor, "b t w"]:
        """Inputs of steps 0..t: the start, then every token; t may be one less than the window."""
        x = (
            torch.cat([conditioning.start.to(self.x_emb.weight.dtype), self.x_emb(tokens)], dim=1)
            + self.pos_emb[: tokens.shape[1] + 1]
        )
        return x if conditioning.steps is None else x + conditioning.steps[:, : x.shape[1]]

    def head(self, x: Float[Tensor, "b t w"], steps: Tensor | None) -> Float[Tensor, "b t k"]:
        if self.config.condition_again and steps is not None:
            x = x + steps
        return F.linear(x, self.x_emb.weight) if self.x_out is None else self.x_out(x)

    def tokens(self, codes: Int[Tensor, "b t"], conditioning: ConditioningInputs) -> Int[Tensor, "b t"]:
        """The whole sequence in the vocabulary of the model: letters in front, if that is their form, then codes."""
        if not self.lyric_prefix or conditioning.lyric_ids is None:
            return codes
        return torch.cat([conditioning.lyric_ids, codes + self.vocabulary - self.config.bins], dim=1)

    def forward(
        self, codes: Int[Tensor, "b t"], cond: Conditions, conditioning: ConditioningInputs | None = None
    ) -> Float[Tensor, "b t k"]:
        """Logits of every token given those before it (teacher forced), t up to n_ctx."""
        conditioning = conditioning or self.encode_conditions(cond, codes.shape[0])
        x = self.embed(self.tokens(codes, conditioning)[:, :-1], conditioning)
        t = x.shape[1]
        y = self.trunk(x, conditioning.encoded, None if conditioning.distance is None else conditioning.distance[:, :t])
        return self.head(y, None if conditioning.steps is None else conditioning.steps[:, :t])

    def bits(self, codes: Int[Tensor, "b t"], cond: Conditions) -> Float[Tensor, "b t"]:
        """Bits that each code costs."""
        conditioning = self.encode_conditions(cond, codes.shape[0])
        logits = self(codes, cond, conditioning)[:, self.lyric_prefix :].float()
        target = self.tokens(codes, conditioning)[:, self.lyric_prefix :]
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none") / math.log(2)

    def loss(self, sequences: Sequences, cond: Conditions, keep: dict[int, Tensor] | None = None) -> dict[str, Tensor]:
        codes, lyrics = sequences[self.config.level], self.config.lyrics
        conditioning = self.encode_conditions(cond, codes.shape[0])
        logits = self(codes, cond, conditioning).float()
        target = self.tokens(codes, conditioning)
        music = F.cross_entropy(
            logits[:, self.lyric_prefix :].flatten(0, 1), target[:, self.lyric_prefix :].flatten()
        ) / math.log(2)
        if not (lyrics and lyrics.loss_weight and conditioning.lyric_ids is not None):
            return {"loss": music, "bits": music}
        if self.lyric_prefix:
            words = F.cross_entropy(
                logits[:, : self.lyric_prefix].flatten(0, 1), target[:, : self.lyric_prefix].flatten()
            ) / math.log(2)
        else:
            assert conditioning.encoded is not None
            words = self.lyric_encoder.loss(conditioning.encoded, conditioning.lyric_ids)
        n, m = lyrics.n_tokens, self.config.n_ctx
        total = lyrics.loss_weight * words * n / (n + m) + music * m / (n + m)
        return {"loss": total, "bits": music, "lyric_bits": words}

    @torch.no_grad()
    def alignment(self, codes: Int[Tensor, "b t"], cond: Conditions, layer: int) -> Float[Tensor, "b h t n"]:
        """How much each code's step listens to each letter in every head of a cross or prime layer."""
        conditioning = self.encode_conditions(cond, codes.shape[0])
        x = self.embed(self.tokens(codes, conditioning)[:, :-1], conditioning)
        distance = None if conditioning.distance is None else conditioning.distance[:, : x.shape[1]]
        block = self.trunk.blocks[layer]
        x = block.ln_0(self.trunk.hidden(x, layer, conditioning.encoded, distance))
        return block.attn.weights(x, conditioning.encoded, distance)[:, :, self.lyric_prefix :, : self.config.n_tokens]

    # ---- sampling

    @torch.no_grad()
    def start(
        self, cond: Conditions, prime: Sequences, rngs: Sequence[torch.Generator], params: SamplingParams
    ) -> DecodeState:
        codes = prime[self.config.level]
        if codes.shape[1] >= self.config.n_ctx:
            raise ValueError(
                f"a prime of {codes.shape[1]} codes fills the window of {self.config.n_ctx}; leave room for new ones"
            )
        guided = params.guidance != 1.0
        conditioning = self.encode_conditions(cond, codes.shape[0])
        if guided:  # a second batch that hears nothing but the codes above
            bare = self.encode_conditions(cond.without("artist", "genres", "timing", "lyrics"), codes.shape[0])
            conditioning = _both(conditioning, bare)
            codes = codes.repeat(2, 1)
        x = self.embed(self.tokens(codes, conditioning), conditioning)
        caches = self.trunk.caches(x, conditioning.encoded, conditioning.distance)
        y = self.trunk.prefill(x, caches)[:, -1:]
        last = None if conditioning.steps is None else conditioning.steps[:, x.shape[1] - 1 : x.shape[1]]
        logits = self.head(y, last)[:, 0]
        return DecodeState(conditioning, caches, x.shape[1], logits, None, rngs, params, guided)

    def inputs(
        self, conditioning: ConditioningInputs, code: Int[Tensor, " b"], position: Int[Tensor, " 1"]
    ) -> tuple[Float[Tensor, "b 1 w"], Float[Tensor, "b 1 w"] | None]:
        """What the trunk takes when a token is heard at a position, and what is added again behind it."""
        x, steps = self.x_emb(code)[:, None] + self.pos_emb.index_select(0, position), conditioning.at(position)
        return (x, None) if steps is None else (x + steps, steps if self.config.condition_again else None)

    def step(
        self,
        conditioning: ConditioningInputs,
        caches: Sequence[Cache | CrossCache],
        code: Int[Tensor, " b"],
        position: Int[Tensor, " 1"],
    ) -> Float[Tensor, "b k"]:
        """Logits after one more token: a function of tensors alone, in fixed shapes."""
        x, again = self.inputs(conditioning, code, position)
        return self.head(self.trunk.step(x, caches, position), again)[:, 0]

    @torch.no_grad()
    def advance(self, state: DecodeState, code: Int[Tensor, " b"]) -> None:
        """Hear one more token; the state then holds the logits of the next."""
        state.step = state.step or stepper(self, state.conditioning, state.caches, state.position, self.compiled)
        state.logits, state.code, state.position = state.step(code), None, state.position + 1

    def next_logits(self, state: DecodeState) -> Float[Tensor, "b k"]:
        """Logits over codes (and letters under the published switch) of the next step."""
        if state.logits is None:
            assert state.code is not None
            self.advance(state, state.code.repeat(2) if state.guided else state.code)
        logits = state.logits
        assert logits is not None
        if state.guided:
            given, bare = logits.chunk(2)
            logits = bare + state.params.guidance * (given - bare)
        if (
            self.lyric_prefix and not state.params.published
        ):  # the published code lets letters be drawn and calls them code 0
            logits = logits.clone()
            logits[:, : self.vocabulary - self.config.bins] = -torch.inf
        return logits

    @torch.no_grad()
    def sample(self, state: DecodeState, length: int, chunk: int = 64) -> Iterator[Sequences]:
        shift = self.vocabulary - self.config.bins
        numbers = uniforms(state.rngs, length).to(self.x_emb.weight.device)
        made: list[Tensor] = []
        for i in range(length):
            state.code, state.logits = draw(self.next_logits(state), numbers[:, i], state.params), None
            made.append((state.code - shift).clamp(min=0))
            if len(made) == chunk or i == length - 1:
                yield {self.config.level: torch.stack(made, dim=1)}
                made = []


def _both(a: ConditioningInputs, b: ConditioningInputs) -> ConditioningInputs:
    def join(x: Any, y: Any) -> Any:
        if x is None or y is None:
            x, y = (
                (torch.zeros_like(y) if x is None and y is not None else x),
                (torch.zeros_like(x) if y is None and x is not None else y),
            )
        return None if x is None else torch.cat([x, y])

    return ConditioningInputs(*(join(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)))
