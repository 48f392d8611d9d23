"""Codec: the interface of all codecs. A codec converts audio to streams and streams to audio.

A codec encodes and decodes each stream alone. So the streams of a song can be sampled from coarse to fine, and each finished
stream can be decoded to audio. A codec does not depend on priors, and a prior does not depend on the codec of its codes.
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
    """Convert an array of frames to a tensor: codes to int64, latents to float32."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def effective_dimension(latents: Float[Tensor, "*b e"]) -> Float[Tensor, ""]:
    """Effective number of dimensions of latents (participation ratio), from 1 to the width e.

    The ratio is (sum of the eigenvalues)^2 / (sum of the squared eigenvalues) of the covariance of the latents.
    """
    x = latents.flatten(0, -2).float()
    x = x - x.mean(0)
    covariance = x.T @ x
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-20)


class StreamDecoder(Protocol):
    """Decodes a stream of any length block by block, in constant memory."""

    def push(self, values: Tensor, last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        """Add the frames `values` (t, ...) and return the audio that later frames do not change.

        `last` marks the final call, which returns all remaining audio.
        """
        ...


class Codec(nn.Module, ABC):
    """Converts audio to streams and streams to audio. Each stream is encoded and decoded without the other streams."""

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
        """Encode audio to one sequence for each of `streams`. A sequence has floor(t / hop) frames."""

    @abstractmethod
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        """Decode `stream` to audio without the other streams. Each frame becomes `hop` samples."""

    @abstractmethod
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """Encode the concatenated `blocks` of audio in constant memory, and yield frames (t, ...) by stream."""

    @abstractmethod
    def decoder_stream(self, stream: str) -> StreamDecoder:
        """Return a streaming decoder, which gets the frames of `stream` over time."""

    def embeddings(self, stream: str) -> Float[Tensor, "k e"] | None:
        """Return one vector per code of `stream`, or None if the stream has no codebook.

        A prior initialises its embedding tables with these vectors.
        """
        return None

    def translated(self, blocks: Iterable[Tensor], source: str, target: str) -> Iterator[Tensor] | None:
        """Convert frames (t, ...) of stream `source` to frames of stream `target` without decoding to audio.

        Returns None if the codec has no such conversion.
        """
        return None

    def initialise(self, audio: Float[Tensor, "b c t"], generator: torch.Generator) -> None:
        """Initialise codebooks or statistics from the first batch of training; the default is a no-op."""

    def codes_hash(self, stream: str) -> str:
        """Hash of the encoder and the quantiser of a stream. Codes with different hashes are not comparable."""
        state = self.state_dict()
        names = self.config.codes_tensors(stream, state)
        return hash_tensors((f"{stream} {name}", state[name].detach().cpu().numpy()) for name in names)

    def check_audio(self, audio: Tensor) -> Float[Tensor, "b c t"]:
        """Convert audio to float32; ValueError unless the audio is floating point of shape (b, channels, t)."""
        if audio.dim() != 3 or audio.shape[1] != self.spec.channels:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: expected (batch, {self.spec.channels} channels, samples)")
        if not audio.is_floating_point():
            raise ValueError(f"audio of {audio.dtype}: expected floats in [-1, 1]; divide whole numbers by their range")
        return audio.float()

    # ---- any length, in constant memory

    def decode_blocks(self, blocks: Iterable[Tensor], stream: str) -> Iterator[Float[Tensor, "c t"]]:
        """Decode the concatenated `blocks` of frames (t, ...) to audio."""
        decoder, before = self.decoder_stream(stream), None
        for block in blocks:
            if before is not None:
                yield from decoder.push(before)
            before = block
        if before is not None:
            yield from decoder.push(before, last=True)

    def encode_long(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        """Encode the clips of a batch one at a time, in constant memory."""
        made: Sequences = {}
        for name in streams:
            stream = self.spec.stream(name)
            shape = (len(audio), audio.shape[-1] // stream.hop, *stream.frame_shape)
            dtype = torch.float32 if stream.bins is None else torch.long
            made[name] = torch.zeros(shape, dtype=dtype, device=audio.device)
        for i, clip in enumerate(audio):
            # The result is filled in place: a list of small blocks between large temporary tensors would fragment the heap.
            done = dict.fromkeys(streams, 0)
            for pieces in self.encoder_stream([clip], streams):
                for name, piece in pieces.items():
                    made[name][i, done[name] : done[name] + len(piece)] = piece
                    done[name] += len(piece)
        return made

    def decode_long(self, values: Tensor, stream: str, samples: int | None = None) -> Float[Tensor, "b c t"]:
        """Decode in constant memory. If `samples` is given, the audio is cut or padded with silence to that length."""
        length = values.shape[1] * self.spec.stream(stream).hop
        audio = torch.zeros(len(values), self.spec.channels, max(length, samples or 0), device=values.device)
        for i, row in enumerate(values):
            done = 0
            for piece in self.decode_blocks([row], stream):
                audio[i, :, done : done + piece.shape[-1]] = piece
                done += piece.shape[-1]
        return audio[..., : length if samples is None else samples]
