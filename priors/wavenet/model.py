"""WaveNetPrior: an autoregressive model of waveform codes, given the receptive field and conditions (arXiv:1609.03499).

    inputs   silence | code 0 | code 1 | ...
    stack    gated dilated causal layers; conditions are inputs of every gate (`priors/wavenet/stack.py`)
    head     sum of skips -> ReLU -> 1x1 -> ReLU -> 1x1 -> logits of code 0 | code 1 | ...

The conditions are artist and genres, timing, frame-wise controls, and the codes or latents of the stream above. Their vectors
are summed for each frame. Sample t uses the sum of frame t // frame. The input before a song is silence. At the start of a
window all ring buffers are zero, which is the same as zero padding before the window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from priors.autoregressive.state import ConditioningInputs, DecodeState
from priors.conditioning.conditions import Conditions
from priors.conditioning.controls import CHANNELS, SCALES, control_channels
from priors.conditioning.labels import LabelEmbedding, TimingEmbedding
from priors.logits import draw, uniforms
from priors.prior import Batch, Known, Mask, Noise, Prior, Sequences, Update, Window, known_prefix
from priors.transformer.linear import Linear
from priors.wavenet.config import WaveNetConfig, WaveNetParams
from priors.wavenet.stack import GatedStack, RingBuffers
from priors.wavenet.step import stepper


class WaveNetPrior(Prior):
    """An autoregressive prior of the codes of a waveform, given conditions. The loss is in bits per code."""

    config: WaveNetConfig

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__()
        stack, width = config.stack, config.stack.channels
        self.config, self.stream = config, config.stream
        self.x_emb = nn.Embedding(config.bins, width)
        nn.init.normal_(self.x_emb.weight)
        if config.labels:
            self.labels = LabelEmbedding(config.labels, width, 1.0)
            if config.labels.timing_bins:
                self.timing = TimingEmbedding(config.labels, config.frames_of_conditions, width, 1.0)
        if config.reads:
            self.above = nn.Parameter(torch.randn(config.read_bins or config.read_width, width))
        self.controls = nn.ParameterDict({name: torch.randn(CHANNELS, width) * CHANNELS**-0.5 for name in config.controls})
        self.gates = Linear(width, stack.depth * 2 * stack.gate, width**-0.5)
        self.stack = GatedStack(stack)
        self.hidden = Linear(stack.skip, stack.skip, stack.skip**-0.5)
        self.x_out = Linear(stack.skip, config.bins, stack.skip**-0.5)
        self.compiled = False  # whether steps are captured as a CUDA graph (GPU) or native C++ (CPU); see step.py

    @torch.no_grad()
    def initialise_embeddings(self, vectors: Mapping[str, Float[Tensor, "k e"]]) -> None:
        """Initialise the embeddings of codes from the codec's vectors, so that similar samples have similar embeddings."""
        if self.stream in vectors:
            v = vectors[self.stream].to(self.x_emb.weight)
            v = (v - v.mean(dim=0)) / v.std(dim=0)
            mix = torch.randn(v.shape[1], self.config.width, device=v.device) * v.shape[1] ** -0.5
            self.x_emb.weight.mul_(0.1).add_(v @ mix)

    # ---- conditions

    def encode_conditions(self, cond: Conditions, batch: int) -> ConditioningInputs:
        """Return the embedding of silence, and the conditions of every gate of every layer by frame, (B, S, L * 2 G)."""
        config = self.config
        h = self.x_emb.weight.new_zeros(batch, config.frames_of_conditions, config.width)
        if config.labels:
            h = h + self.labels(cond.artist, cond.genres, batch)
            if config.labels.timing_bins and cond.timing is not None:
                h = h + self.timing(cond.timing)
        if config.reads and cond.above is not None:
            h = h + (self.above[cond.above] if config.read_bins else cond.above.to(h.dtype) @ self.above)
        for name, weights in self.controls.items():
            values = {name: cond.controls.get(name, h.new_zeros(1, 1))}
            h = h + control_channels(values, [name], batch, h.shape[1]).to(h.dtype) @ weights
        return ConditioningInputs(self.x_emb.weight[config.silence].expand(batch, 1, -1), self.gates(h), None, None, None)

    # ---- training

    def logits(
        self, codes: Int[Tensor, "b t"], conditioning: ConditioningInputs, buffers: RingBuffers | None = None
    ) -> Float[Tensor, "b u k"]:
        """Return the logits after silence and after every code, (B, T + 1, K). The first logits predict code 0."""
        assert conditioning.steps is not None
        x = torch.cat([conditioning.start, self.x_emb(codes)], dim=1)
        return self.head(self.stack(x, conditioning.steps, self.config.frame, buffers))

    def head(self, skips: Float[Tensor, "... s"]) -> Float[Tensor, "... k"]:
        return self.x_out(F.relu(self.hidden(F.relu(skips))))

    def bits(self, codes: Int[Tensor, "b t"], cond: Conditions) -> Float[Tensor, "b t"]:
        """Return the bits of each code, given the codes before it (teacher-forced)."""
        logits = self.logits(codes[:, :-1], self.encode_conditions(cond, len(codes))).float()
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none") / math.log(2)

    def loss(self, batch: Batch, phase: str = "") -> dict[str, Tensor]:
        bits = self.bits(batch.sequences[self.stream], batch.cond).mean()
        return {"loss": bits, "bits": bits}

    @torch.no_grad()
    def nll(self, sequences: Sequences, cond: Conditions, known: Mask | None = None) -> Sequences:
        bits = self.bits(sequences[self.stream], cond)
        return {self.stream: bits if known is None else bits.masked_fill(known[self.stream], torch.nan)}

    # ---- sampling

    @torch.no_grad()
    def start(
        self, window: Window, known: Known, cond: Conditions, noise: Noise, params: Mapping[str, WaveNetParams]
    ) -> DecodeState[WaveNetParams]:
        """Start a window: compute the ring buffers from the known samples.

        If the known samples cover the receptive field, the buffers equal those of the previous window.
        """
        codes = known_prefix(self.stream, window, known, self.config.n_ctx)
        cond = self._with_controls(cond, params[self.stream])
        numbers = uniforms(noise.sequential(), window.length - codes.shape[1]).to(codes.device)
        conditioning = self.encode_conditions(cond, len(codes))
        buffers = RingBuffers(self.config.stack, len(codes), self.x_emb.weight)
        last = self.logits(codes, conditioning, buffers)[:, -1]
        return DecodeState(conditioning, [buffers], codes.shape[1] + 1, last, params[self.stream], numbers, codes.shape[1])

    def _with_controls(self, cond: Conditions, params: WaveNetParams) -> Conditions:
        """Return the conditions with the controls of `params`. Raise ValueError for a control that was not trained."""
        asked = {name: value for name in SCALES if (value := getattr(params, name))}
        if unknown := sorted(set(asked) - set(self.config.controls)):
            known = ", ".join(self.config.controls) or "none"
            raise ValueError(
                f"{unknown[0]} {asked[unknown[0]]:g}: this WaveNet was trained with the controls {known}; leave it away"
            )
        values = {name: self.x_emb.weight.new_full((1, 1), value) for name, value in asked.items()}
        return replace(cond, controls={**cond.controls, **values})

    def step(
        self, conditioning: ConditioningInputs, caches: tuple[RingBuffers], code: Int[Tensor, " b"], position: Int[Tensor, " 1"]
    ) -> Float[Tensor, "b k"]:
        """Return the logits after one more code. This is a pure function of tensors with fixed shapes."""
        assert conditioning.steps is not None
        gates = conditioning.steps.index_select(1, position // self.config.frame)[:, 0]
        return self.head(self.stack.step(self.x_emb(code), gates, caches[0], position))

    @torch.no_grad()
    def sample(self, state: DecodeState[WaveNetParams]) -> Iterator[Update]:
        while state.done < state.numbers.shape[1]:
            start = state.prompt + state.done
            numbers = state.numbers[:, state.done : state.done + self.config.block]
            made = self._codes(state, numbers)
            state.done = state.done + made.shape[1]
            # contiguous, even for a single row, so that the state can be saved
            state.code = made[:, -1].clone(memory_format=torch.contiguous_format)
            yield Update(self.stream, start, made)

    def _codes(self, state: DecodeState[WaveNetParams], numbers: Float[Tensor, "b n"]) -> Int[Tensor, "b n"]:
        """Sample one code per uniform number. The last code has not been an input yet."""
        made: list[Tensor] = []
        if state.output is not None:  # logits of the pass over the known samples
            made, state.output = [draw(state.output, numbers[:, 0], state.params)[:, None]], None
            numbers = numbers[:, 1:]
        if numbers.shape[1]:
            step = stepper(self, state)
            code = made[0][:, 0] if made else state.code
            assert code is not None
            made.append(step.codes(code, numbers, state.params))
            state.position += numbers.shape[1]
        return torch.cat(made, dim=1)
