"""AutoregressivePrior: an autoregressive model of codes (Jukebox, sections 4 and 6).

The top prior and both upsamplers are of this kind.

    inputs   start | code 0 | code 1 | ...    + position + (timing, or the codes above, upsampled)
    trunk    blocks with their attention patterns; `cross` layers attend to the encoded lyrics
    logits   of code 0 | code 1 | code 2 | ...

The start vector is the sum of artist and genres if there are labels. Otherwise it is a learned vector. Lyrics have one of two
forms. Either a separate encoder encodes them, or the lyric tokens precede the codes in one sequence with a common vocabulary
(an encoder of depth 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.autoregressive.config import AutoregressiveConfig, AutoregressiveParams
from priors.autoregressive.int8 import Int8Linear, quantise
from priors.autoregressive.state import ConditioningInputs, DecodeState, join_batches
from priors.autoregressive.step import stepper
from priors.conditioning.conditions import Conditions, Lyrics
from priors.conditioning.labels import LabelEmbedding, TimingEmbedding
from priors.conditioning.lyrics import LyricEncoder, lyric_distance, no_lyrics
from priors.conditioning.upsampler import Upsampler
from priors.logits import draw, uniforms
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, known_prefix
from priors.transformer.cache import Caches
from priors.transformer.trunk import Transformer, block_matrices


class AutoregressivePrior(Prior):
    """An autoregressive prior of the codes of one stream, given conditions. The loss is in bits per code."""

    config: AutoregressiveConfig

    def __init__(self, config: AutoregressiveConfig):
        super().__init__()
        trunk, init = config.trunk, config.trunk.init
        self.config, self.stream = config, config.stream
        self.lyric_prefix, self.vocabulary = config.lyric_prefix, config.vocabulary
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
        self.block = 64  # codes per update
        self.compiled = False  # whether steps are captured as a CUDA graph (GPU) or native C++ (CPU); see step.py

    @torch.no_grad()
    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Initialise the embeddings of codes from the codec's vectors, so that similar codes have similar embeddings.

        The vectors are normalised, and a random matrix projects them to the width of the trunk. Other tables do not change.
        """
        tables = {self.stream: self.x_emb.weight[self.vocabulary - self.config.bins :]}
        if self.config.above:
            tables[self.config.reads] = self.upsampler.x_emb.weight
        for stream, table in tables.items():
            if stream in vectors:
                v = vectors[stream].to(table)
                v = (v - v.mean(dim=0)) / v.std(dim=0).clamp(min=1e-6)
                mix = torch.randn(v.shape[1], table.shape[1], device=table.device) * v.shape[1] ** -0.5
                table.copy_(v @ mix.to(table) * self.config.trunk.init.embedding)

    # ---- conditions

    def encode_conditions(self, cond: Conditions, batch: int) -> ConditioningInputs:
        """Encode the conditions of a whole window as inputs of the trunk. ValueError if the codes above are missing."""
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
                    f"the prior of {config.stream} is conditioned on the codes of {config.reads}; none were given; add the "
                    f"stream to the conditions"
                )
            above = self.upsampler(cond.above)
            steps = above if steps is None else steps + above
        if steps is not None and steps.shape[1] == 1:
            steps = steps.expand(-1, config.n_ctx, -1)
        if not config.lyrics:
            return ConditioningInputs(start, steps, None, None, None)
        lyrics = cond.lyrics or no_lyrics(batch, config.n_tokens, start.device)
        if self.lyric_prefix:
            silent = torch.zeros(batch, self.lyric_prefix, start.shape[-1], device=start.device, dtype=start.dtype)
            steps = None if steps is None else torch.cat([silent, steps], dim=1)
            return ConditioningInputs(start, steps, None, None, lyrics.ids)
        return ConditioningInputs(start, steps, self.lyric_encoder(lyrics.ids), self.distance(lyrics), lyrics.ids)

    def distance(self, lyrics: Lyrics) -> Float[Tensor, "b t n"] | None:
        """Return the distance in seconds between each step and each lyric token, or None without a time bias."""
        if not self.config.trunk.time_bias:
            return None
        return lyric_distance(lyrics, self.config.n_ctx, self.config.hop / self.config.sample_rate)

    # ---- training

    def embed(self, tokens: Int[Tensor, "b t"], conditioning: ConditioningInputs) -> Float[Tensor, "b t w"]:
        """Return the inputs of the steps 0..t: the start vector, then the t tokens."""
        x = torch.cat([conditioning.start.to(self.x_emb.weight.dtype), self.x_emb(tokens)], dim=1)
        x = x + self.pos_emb[: tokens.shape[1] + 1]
        return x if conditioning.steps is None else x + conditioning.steps[:, : x.shape[1]]

    def head(self, x: Float[Tensor, "b t w"], steps: Tensor | None) -> Float[Tensor, "b t k"]:
        if self.config.condition_again and steps is not None:
            x = x + steps
        return F.linear(x, self.x_emb.weight) if self.x_out is None else self.x_out(x)

    def tokens(self, codes: Int[Tensor, "b t"], conditioning: ConditioningInputs) -> Int[Tensor, "b t"]:
        """Return the sequence of tokens, which are the codes if there is no lyric prefix.

        With a lyric prefix the lyric tokens come first, in the sequence and in the vocabulary.
        """
        if not self.lyric_prefix or conditioning.lyric_ids is None:
            return codes
        return torch.cat([conditioning.lyric_ids, codes + self.vocabulary - self.config.bins], dim=1)

    def forward(
        self, codes: Int[Tensor, "b t"], cond: Conditions, conditioning: ConditioningInputs | None = None
    ) -> Float[Tensor, "b t k"]:
        """Return the teacher-forced logits of every token, given the tokens before it. t is at most n_ctx."""
        conditioning = conditioning or self.encode_conditions(cond, codes.shape[0])
        x = self.embed(self.tokens(codes, conditioning)[:, :-1], conditioning)
        t = x.shape[1]
        y = self.trunk(x, conditioning.encoded, None if conditioning.distance is None else conditioning.distance[:, :t])
        return self.head(y, None if conditioning.steps is None else conditioning.steps[:, :t])

    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences:
        codes = sequences[self.stream]
        bits = self._bits(codes, cond, self.encode_conditions(cond, codes.shape[0]))
        return {self.stream: bits if known is None else bits.masked_fill(known[self.stream], torch.nan)}

    def nll_at_distance(
        self, codes: Int[Tensor, "b t"], cond: Conditions, distance: Float[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]:
        """Return the bits of each code (teacher-forced) if the lyric tokens are `distance` seconds away."""
        conditioning = self.encode_conditions(cond, codes.shape[0])
        conditioning.distance = distance
        return self._bits(codes, cond, conditioning)

    def _bits(self, codes: Int[Tensor, "b t"], cond: Conditions, conditioning: ConditioningInputs) -> Float[Tensor, "b t"]:
        logits = self(codes, cond, conditioning)[:, self.lyric_prefix :].float()
        target = self.tokens(codes, conditioning)[:, self.lyric_prefix :]
        return F.cross_entropy(logits.transpose(1, 2), target, reduction="none") / math.log(2)

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        codes, lyrics, prefix = batch.sequences[self.stream], self.config.lyrics, self.lyric_prefix
        conditioning = self.encode_conditions(batch.cond, codes.shape[0])
        logits = self(codes, batch.cond, conditioning).float()
        target = self.tokens(codes, conditioning)
        music = F.cross_entropy(logits[:, prefix:].flatten(0, 1), target[:, prefix:].flatten()) / math.log(2)
        if not (lyrics and lyrics.loss_weight and conditioning.lyric_ids is not None):
            return {"loss": music, "bits": music}
        if prefix:
            words = F.cross_entropy(logits[:, :prefix].flatten(0, 1), target[:, :prefix].flatten()) / math.log(2)
        else:
            assert conditioning.encoded is not None
            words = self.lyric_encoder.loss(conditioning.encoded, conditioning.lyric_ids)
        n, m = lyrics.n_tokens, self.config.n_ctx
        total = lyrics.loss_weight * words * n / (n + m) + music * m / (n + m)
        return {"loss": total, "bits": music, "lyric_bits": words}

    @torch.no_grad()
    def lyric_attention(self, codes: Int[Tensor, "b t"], cond: Conditions, layer: int) -> Float[Tensor, "b h t n"]:
        """Return the attention weights from the step of each code to each lyric token, for all heads of a layer."""
        conditioning = self.encode_conditions(cond, codes.shape[0])
        x = self.embed(self.tokens(codes, conditioning)[:, :-1], conditioning)
        distance = None if conditioning.distance is None else conditioning.distance[:, : x.shape[1]]
        block = self.trunk.blocks[layer]
        x = block.ln_0(self.trunk.hidden(x, layer, conditioning.encoded, distance))
        return block.attn.weights(x, conditioning.encoded, distance)[:, :, self.lyric_prefix :, : self.config.n_tokens]

    def lyric_layers(self) -> list[int]:
        """Return the indices of the layers that attend to the lyrics."""
        return [i for i, block in enumerate(self.trunk.blocks) if block.attn.pattern in ("cross", "prime")]

    @torch.no_grad()
    def hidden_states(self, sequences: Sequences, cond: Conditions, layer: int) -> Float[Tensor, "b t w"]:
        """Return the residual stream after `layer` layers (0: the inputs) at the step of every code."""
        codes = sequences[self.stream]
        conditioning = self.encode_conditions(cond, codes.shape[0])
        x = self.embed(self.tokens(codes, conditioning)[:, :-1], conditioning)
        distance = None if conditioning.distance is None else conditioning.distance[:, : x.shape[1]]
        return self.trunk.hidden(x, layer, conditioning.encoded, distance)[:, self.lyric_prefix :]

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weight matrices of the blocks, for Muon."""
        return block_matrices(self)

    # ---- sampling

    def quantise(self) -> None:
        """Quantise the trunk and the output table to int8, in place. These are the weights that a decoding step reads."""
        table = self.table.weight
        quantise(self.trunk)
        assert isinstance(table, Tensor)
        self.x_out = Int8Linear(table, None)

    @torch.no_grad()
    def start(
        self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, AutoregressiveParams]
    ) -> DecodeState[AutoregressiveParams]:
        codes, own = known_prefix(self.stream, window, known, self.config.n_ctx), params[self.stream]
        prompt, guided = codes.shape[1], own.guidance != 1.0
        numbers = uniforms(noise.sequential(), window.length - prompt).to(codes.device)
        conditioning = self.encode_conditions(cond, codes.shape[0])
        if guided:  # classifier-free guidance: a second batch is conditioned on the codes above only
            bare = self.encode_conditions(cond.without("artist", "genres", "timing", "lyrics"), codes.shape[0])
            conditioning = join_batches(conditioning, bare)
            codes = codes.repeat(2, 1)
        x = self.embed(self.tokens(codes, conditioning), conditioning)
        caches = self.trunk.caches(x, conditioning.encoded, conditioning.distance)
        y = self.trunk.prefill(x, caches)[:, -1:]
        last = None if conditioning.steps is None else conditioning.steps[:, x.shape[1] - 1 : x.shape[1]]
        logits = self.head(y, last)[:, 0]
        return DecodeState(conditioning, caches, x.shape[1], logits, own, numbers, prompt, guided=guided)

    def inputs(
        self, conditioning: ConditioningInputs, code: Int[Tensor, " b"], position: Int[Tensor, " 1"]
    ) -> tuple[Float[Tensor, "b 1 w"], Float[Tensor, "b 1 w"] | None]:
        """Return the trunk's input for a token at a position, and the vector that is added to the trunk's output (or None)."""
        x, steps = self.x_emb(code)[:, None] + self.pos_emb.index_select(0, position), conditioning.at(position)
        return (x, None) if steps is None else (x + steps, steps if self.config.condition_again else None)

    @property
    def table(self) -> nn.Module:
        return self.x_emb if self.x_out is None else self.x_out

    def step(
        self, conditioning: ConditioningInputs, caches: Caches, code: Int[Tensor, " b"], position: Int[Tensor, " 1"]
    ) -> Float[Tensor, "b k"]:
        """Return the logits after one more token. This is a pure function of tensors with fixed shapes."""
        x, again = self.inputs(conditioning, code, position)
        return self.head(self.trunk.step(x, caches, position), again)[:, 0]

    @torch.no_grad()
    def advance(self, state: DecodeState[AutoregressiveParams], code: Int[Tensor, " b"]) -> None:
        """Append one token to the state, and store the logits of the next token there."""
        state.step = state.step or stepper(self, state.conditioning, state.caches, state.position, self.compiled)
        state.output, state.code, state.position = state.step(code), None, state.position + 1

    def next_logits(self, state: DecodeState[AutoregressiveParams]) -> Float[Tensor, "b k"]:
        """Return the logits of the next step. Lyric tokens have -inf, except with the parameter `published`."""
        if state.output is None:
            assert state.code is not None
            self.advance(state, state.code.repeat(2) if state.guided else state.code)
        logits = state.output
        assert logits is not None
        if state.guided:
            given, bare = logits.chunk(2)
            logits = bare + state.params.guidance * (given - bare)
        # the published code may sample lyric tokens, and replaces them with code 0
        if self.lyric_prefix and not state.params.published:
            logits = logits.clone()
            logits[:, : self.vocabulary - self.config.bins] = -torch.inf
        return logits

    @torch.no_grad()
    def sample(self, state: DecodeState[AutoregressiveParams]) -> Iterator[Update]:
        length, shift = state.numbers.shape[1], self.vocabulary - self.config.bins
        while state.done < length:
            start, made = state.prompt + state.done, []
            for number in state.numbers[:, state.done : state.done + self.block].unbind(1):
                state.code, state.output = draw(self.next_logits(state), number, state.params), None
                made.append((state.code - shift).clamp(min=0))
            state.done += len(made)
            yield Update(self.stream, start, torch.stack(made, dim=1))
