"""Codec: audio to streams and back. The interface that every codec has, whatever it is inside.

Each stream can be encoded and decoded alone. So a song is sampled from coarse to fine and can be played at every stage.
A codec knows nothing of priors, and a prior does not know which codec wrote its codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.streams import CodecSpec, hash_tensors

# stream -> codes Int[Tensor, "b t"] or, with several books, "b t books"; latents Float[Tensor, "b t width"]
Sequences = dict[str, Tensor]


def as_tensor(values: np.ndarray) -> Tensor:
    """Frames as files hold them: codes to int64, latents to float32."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def effective_dimension(latents: Float[Tensor, "*b e"]) -> Float[Tensor, ""]:
    """How many dimensions latents use: (sum of the eigenvalues of their covariance)^2 / sum of their squares, 1 to their width."""
    x = latents.flatten(0, -2).float()
    x = x - x.mean(0)
    covariance = x.T @ x
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-20)


class StreamDecoder(Protocol):
    """Decodes a stream of any length piece by piece, in constant memory."""

    def push(self, values: Tensor, last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        """The audio that is complete after `values` (t, ...); `last` says that no more come."""
        ...


class Codec(nn.Module, ABC):
    """Turns audio into streams and back; every stream reads and writes the waveform itself."""

    config: Any  # a CodecConfig

    @property
    def kind(self) -> str:
        return self.config.kind

    @property
    def spec(self) -> CodecSpec:
        return self.config.spec

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        """The sequences of `streams` and of no others, floor(t / hop) frames each."""

    @abstractmethod
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        """Audio of `hop` samples per frame, from that stream alone."""

    @abstractmethod
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """The frames (t, ...) of `streams` of the audio that `blocks` form end to end, in pieces, in constant memory."""

    @abstractmethod
    def decoder_stream(self, stream: str) -> StreamDecoder:
        """A decoder of that stream for frames that arrive over time."""

    def embeddings(self, stream: str) -> Float[Tensor, "k e"] | None:
        """One vector per code, as initial values of a prior's tables; None where there are none."""
        return None

    def translated(self, blocks: Iterable[Tensor], source: str, target: str) -> Iterator[Tensor] | None:
        """The frames of `target` of those (t, ...) of `source`, without audio between them; None where there is no such way."""
        return None

    def initialise(self, audio: Float[Tensor, "b c t"], generator: torch.Generator) -> None:
        """Choose what training chooses from its first batch, such as codebooks; most codecs choose nothing."""

    def codes_hash(self, stream: str) -> str:
        """Names what decides the values of a stream (encoder and quantiser): codes of one mean nothing to another."""
        state = self.state_dict()
        names = self.config.codes_tensors(stream, state)
        return hash_tensors((f"{stream} {name}", state[name].detach().cpu().numpy()) for name in names)

    def check_audio(self, audio: Tensor) -> Float[Tensor, "b c t"]:
        """`audio` as float32; ValueError unless it is floats (b, channels, t)."""
        if audio.dim() != 3 or audio.shape[1] != self.spec.channels:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: expected (batch, {self.spec.channels} channels, samples)")
        if not audio.is_floating_point():
            raise ValueError(f"audio of {audio.dtype}: expected floats in [-1, 1]; divide whole numbers by their range")
        return audio.float()

    # ---- any length at once, in constant memory

    def decode_blocks(self, blocks: Iterable[Tensor], stream: str) -> Iterator[Float[Tensor, "c t"]]:
        """Audio of the frames that `blocks` (t, ...) form end to end."""
        decoder, before = self.decoder_stream(stream), None
        for block in blocks:
            if before is not None:
                yield from decoder.push(before)
            before = block
        if before is not None:
            yield from decoder.push(before, last=True)

    def encode_long(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        """`encode` in constant memory, clip by clip."""
        made: Sequences = {}
        for name in streams:
            stream = self.spec.stream(name)
            shape = (len(audio), audio.shape[-1] // stream.hop, *stream.frame_shape)
            dtype = torch.float32 if stream.bins is None else torch.long
            made[name] = torch.zeros(shape, dtype=dtype, device=audio.device)
        for i, clip in enumerate(audio):
            # Filled in place: many small pieces kept among large temporary ones would fragment the heap.
            done = dict.fromkeys(streams, 0)
            for pieces in self.encoder_stream([clip], streams):
                for name, piece in pieces.items():
                    made[name][i, done[name] : done[name] + len(piece)] = piece
                    done[name] += len(piece)
        return made

    def decode_long(self, values: Tensor, stream: str, samples: int | None = None) -> Float[Tensor, "b c t"]:
        """`decode` in constant memory; with `samples` exactly so many: cut, or with silence after the last frame."""
        length = values.shape[1] * self.spec.stream(stream).hop
        audio = torch.zeros(len(values), self.spec.channels, max(length, samples or 0), device=values.device)
        for i, row in enumerate(values):
            done = 0
            for piece in self.decode_blocks([row], stream):
                audio[i, :, done : done + piece.shape[-1]] = piece
                done += piece.shape[-1]
        return audio[..., : length if samples is None else samples]
