"""TokenPrior: an autoregressive model of frames with several codes each. The trunk has one step per frame.

This one model replaces the stages of MusicLM.

    inputs   start | frame 0 | frame 1 | ...    + artist and genre + timing + sung characters of each frame
    trunk    causal blocks with rotary positions
    head     codes of frame 0 | frame 1 | ..., book by book (`priors/tokens/head.py`)

The embedding and the logits include the codebook vectors of the codec. So similar codes have similar embeddings from the first
training step. Training replaces some input codes by random codes, so that the prior does not depend on single codes. Without
this replacement the prior memorises a small corpus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.autoregressive.int8 import quantise
from priors.autoregressive.state import ConditioningInputs, DecodeState, join_batches
from priors.autoregressive.step import stepper
from priors.conditioning.conditions import Conditions
from priors.conditioning.frame_lyrics import FrameLyricEncoder
from priors.conditioning.labels import LabelEmbedding, TimingEmbedding
from priors.logits import draw, uniforms
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, known_prefix
from priors.tokens.config import FrameParams, TokenConfig
from priors.tokens.head import DepthHead, FrameEmbedding, SamplingBook
from priors.transformer.cache import Caches
from priors.transformer.linear import LayerNorm
from priors.transformer.trunk import Transformer, block_matrices


class TokenPrior(Prior):
    """An autoregressive prior of a stream with several books, given conditions. The loss is in bits per frame."""

    config: TokenConfig
    vectors: Float[Tensor, "books k e"]

    def __init__(self, config: TokenConfig) -> None:
        super().__init__()
        trunk, init = config.trunk, config.trunk.init
        self.config, self.stream = config, config.stream
        self.register_buffer("vectors", torch.zeros(config.books, config.bins, config.vector))
        self.embedding = FrameEmbedding(config, init.embedding)
        if config.labels:
            self.labels = LabelEmbedding(config.labels, trunk.width, init.label)
            if config.labels.timing_bins:
                self.timing = TimingEmbedding(config.labels, config.n_ctx, trunk.width, init.label)
        else:
            self.start_token = nn.Parameter(torch.randn(1, trunk.width) * init.position)
        if config.lyrics:
            self.lyric_encoder = FrameLyricEncoder(config.lyrics, trunk.width, init)
        self.trunk = Transformer(trunk)
        self.ln = LayerNorm(trunk.width)
        self.head = DepthHead(config)
        self.block = 16  # frames per update
        self.compiled = False  # whether steps are captured as a CUDA graph (GPU) or native C++ (CPU); see `stepper`

    @torch.no_grad()
    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "books k e"]]) -> None:
        """Copy the codec's codebook vectors, shifted to mean 0 per book and scaled to deviation 1. They are not trained."""
        if self.stream in vectors:
            v = vectors[self.stream].to(self.vectors)
            v = v - v.mean(dim=1, keepdim=True)
            self.vectors.copy_(v / v.std().clamp(min=1e-6))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weight matrices of the trunk, and of the MLPs of the depth head."""
        yield from block_matrices(self)
        for name, p in self.head.named_parameters():
            if name.endswith(("c_fc.w", "c_proj.w")):
                yield p

    # ---- conditions

    def encode_conditions(self, cond: Conditions, batch: int) -> ConditioningInputs:
        """Return the start vector, and one vector per frame that is added to the trunk's input and again to its output."""
        config = self.config
        steps = self.vectors.new_zeros(batch, config.n_ctx, config.width)
        if config.labels:
            start = self.labels(cond.artist, cond.genres, batch)
            steps = steps + start
            if config.labels.timing_bins and cond.timing is not None:
                steps = steps + self.timing(cond.timing)
        else:
            start = self.start_token.expand(batch, 1, -1)
        if config.lyrics and cond.sung is not None:
            steps = steps + self.lyric_encoder(cond.sung)
        return ConditioningInputs(start, steps, None, None, None)

    # ---- training

    def embed(self, codes: Int[Tensor, "b t books"], conditioning: ConditioningInputs) -> Float[Tensor, "b u w"]:
        """Return the inputs of the steps 0 .. t: the start vector, then the t frames."""
        x = torch.cat([conditioning.start.to(self.vectors.dtype), self.embedding(codes, self.vectors)], dim=1)
        assert conditioning.steps is not None
        return x + conditioning.steps[:, : x.shape[1]]

    def hidden(self, codes: Int[Tensor, "b t books"], conditioning: ConditioningInputs) -> Float[Tensor, "b t w"]:
        """Return the input of the depth head for each frame (teacher-forced): norm of trunk output plus conditions."""
        y = self.trunk(self.embed(codes[:, :-1], conditioning))
        return self.finish(y, conditioning.steps[:, : y.shape[1]])  # type: ignore[index]

    def finish(self, y: Float[Tensor, "b t w"], steps: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        return self.ln(y + steps)

    def bits(self, codes: Int[Tensor, "b t books"], hidden: Float[Tensor, "b t w"]) -> Float[Tensor, "b t books"]:
        """Return the bits of each code."""
        logits = self.head(hidden.flatten(0, 1), codes.flatten(0, 1), self.vectors).float()
        bits = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none") / math.log(2)
        return bits.view(codes.shape)

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        codes = batch.sequences[self.stream]
        conditioning = self.encode_conditions(batch.cond, len(codes))
        bits = self.bits(codes, self.hidden(self._disturbed(codes), conditioning)).mean(dim=(0, 1))
        of_books = {f"bits_book{i}": value for i, value in enumerate(bits.detach())}
        return {"loss": bits.sum(), "bits": bits.sum()} | of_books

    def _disturbed(self, codes: Int[Tensor, "b t books"]) -> Int[Tensor, "b t books"]:
        """Replace some codes by random codes in training. Each row has a random share of replaced codes."""
        if not (self.training and self.config.noise):
            return codes
        share = 2 * self.config.noise * torch.rand(len(codes), 1, 1, device=codes.device)
        replaced = torch.rand(codes.shape, device=codes.device) < share
        return torch.where(replaced, torch.randint_like(codes, self.config.bins), codes)

    @torch.no_grad()
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences:
        codes = sequences[self.stream]
        bits = self.bits(codes, self.hidden(codes, self.encode_conditions(cond, len(codes)))).sum(-1)
        return {self.stream: bits if known is None else bits.masked_fill(known[self.stream], torch.nan)}

    @torch.no_grad()
    def hidden_states(self, sequences: Sequences, cond: Conditions, layer: int) -> Float[Tensor, "b t w"]:
        """Return the residual stream after `layer` layers (0: the inputs) at the step of every frame."""
        codes = sequences[self.stream]
        return self.trunk.hidden(self.embed(codes[:, :-1], self.encode_conditions(cond, len(codes))), layer)

    # ---- sampling

    def quantise(self) -> None:
        """Quantise the matrices of the trunk to int8, in place."""
        quantise(self.trunk)

    @torch.no_grad()
    def start(
        self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, FrameParams]
    ) -> DecodeState[FrameParams]:
        codes, own, books = known_prefix(self.stream, window, known, self.config.n_ctx), params[self.stream], self.config.books
        prompt, guided = codes.shape[1], own.guidance != 1.0
        numbers = uniforms(noise.sequential(), (window.length - prompt) * books).to(codes.device).unflatten(1, (-1, books))
        conditioning = self.encode_conditions(cond, len(codes))
        if guided:  # classifier-free guidance: a second batch has no conditions
            bare = cond.without("artist", "genres", "timing", "sung")
            conditioning = join_batches(conditioning, self.encode_conditions(bare, len(codes)))
            codes = codes.repeat(2, 1, 1)
        x = self.embed(codes, conditioning)
        caches = self.trunk.caches(x)
        y = self.trunk.prefill(x, caches)[:, -1:]
        last = self.finish(y, conditioning.steps[:, x.shape[1] - 1 : x.shape[1]])[:, 0]  # type: ignore[index]
        return DecodeState(conditioning, caches, x.shape[1], last, own, numbers, prompt, guided=guided)

    table = None  # a step returns the trunk's output plus the conditions; with a norm this is the input of the depth head

    def inputs(
        self, conditioning: ConditioningInputs, code: Int[Tensor, "b books"], position: Int[Tensor, " 1"]
    ) -> tuple[Float[Tensor, "b 1 w"], Float[Tensor, "b 1 w"] | None]:
        """Return the trunk's input for a frame at a position, and the vector that is added to the trunk's output."""
        steps = conditioning.at(position)
        assert steps is not None
        return self.embedding(code, self.vectors)[:, None] + steps, steps

    def step(
        self, conditioning: ConditioningInputs, caches: Caches, code: Int[Tensor, "b books"], position: Int[Tensor, " 1"]
    ) -> Float[Tensor, "b w"]:
        """Return the trunk's output plus the conditions after one more frame. This is a pure function with fixed shapes."""
        x, again = self.inputs(conditioning, code, position)
        assert again is not None
        return (self.trunk.step(x, caches, position) + again)[:, 0]

    @torch.no_grad()
    def sample(self, state: DecodeState[FrameParams]) -> Iterator[Update]:
        length, books = state.numbers.shape[1], self.head.for_sampling(self.vectors)
        while state.done < length:
            start, made = state.prompt + state.done, []
            for numbers in state.numbers[:, state.done : state.done + self.block].unbind(1):
                state.code = self._frame(self._next_hidden(state), books, numbers, state)
                state.output = None
                made.append(state.code)
            state.done += len(made)
            yield Update(self.stream, start, torch.stack(made, dim=1))

    def _next_hidden(self, state: DecodeState[FrameParams]) -> Float[Tensor, "b w"]:
        """Return the input of the depth head for the next frame."""
        if state.output is None:
            assert state.code is not None
            state.step = state.step or stepper(self, state.conditioning, state.caches, state.position, self.compiled)
            made = state.step(state.code.repeat(2, 1) if state.guided else state.code)
            state.output, state.position = self.ln(made.to(self.vectors.dtype)), state.position + 1
        output = state.output
        assert output is not None
        return output

    def _frame(
        self, u: Float[Tensor, "b w"], books: Sequence[SamplingBook], numbers: Float[Tensor, "b books"],
        state: DecodeState[FrameParams],
    ) -> Int[Tensor, "b books"]:  # fmt: skip
        """Sample the codes of a frame, book by book."""
        codes: list[Tensor] = []
        for i, book in enumerate(books):
            logits = book.logits(u)
            if state.guided:
                given, bare = logits.chunk(2)
                logits = bare + state.params.guidance * (given - bare)
            codes.append(draw(logits, numbers[:, i], state.params))
            drawn = codes[-1].repeat(2) if state.guided else codes[-1]
            u = u + book.embedding[drawn]
        return torch.stack(codes, dim=1)
