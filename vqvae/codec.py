"""Codec: the interface of all codecs, which convert audio to streams and back.

Each stream can be encoded and decoded alone. So a song is sampled from coarse to fine, and every stage can be decoded to audio.
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
    """Convert frames read from a file: codes to int64, latents to float32."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def effective_dimension(latents: Float[Tensor, "*b e"]) -> Float[Tensor, ""]:
    """Effective number of dimensions of latents (participation ratio), from 1 to their width.

    It is (sum of the eigenvalues of their covariance)^2 / sum of the squared eigenvalues.
    """
    x = latents.flatten(0, -2).float()
    x = x - x.mean(0)
    covariance = x.T @ x
    return covariance.trace().square() / covariance.square().sum().clamp(min=1e-20)


class StreamDecoder(Protocol):
    """Decodes a stream of any length in blocks, in constant memory."""

    def push(self, values: Tensor, last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        """Return the audio that is complete after the frames `values` (t, ...); `last` marks the final call."""
        ...


class Codec(nn.Module, ABC):
    """Converts audio to streams and back; each stream is encoded from and decoded to the waveform."""

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
        """Encode audio to the sequences of `streams`, floor(t / hop) frames each."""

    @abstractmethod
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        """Decode one stream to audio, `hop` samples per frame, without the other streams."""

    @abstractmethod
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """Encode the concatenated `blocks` of audio to frames (t, ...) of `streams`, in constant memory."""

    @abstractmethod
    def decoder_stream(self, stream: str) -> StreamDecoder:
        """Return a decoder of that stream for frames that arrive over time."""

    def embeddings(self, stream: str) -> Float[Tensor, "k e"] | None:
        """One vector per code, for the initial embedding tables of a prior; None if the stream has no codebook."""
        return None

    def translated(self, blocks: Iterable[Tensor], source: str, target: str) -> Iterator[Tensor] | None:
        """Convert frames (t, ...) of `source` to frames of `target` without decoding to audio; None if the codec cannot."""
        return None

    def initialise(self, audio: Float[Tensor, "b c t"], generator: torch.Generator) -> None:
        """Initialise what training takes from its first batch, such as codebooks; by default nothing."""

    def codes_hash(self, stream: str) -> str:
        """Hash of the encoder and the quantiser of a stream. Codes of another hash are not comparable."""
        state = self.state_dict()
        names = self.config.codes_tensors(stream, state)
        return hash_tensors((f"{stream} {name}", state[name].detach().cpu().numpy()) for name in names)

    def check_audio(self, audio: Tensor) -> Float[Tensor, "b c t"]:
        """Convert audio to float32; ValueError unless it has floats of shape (b, channels, t)."""
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
        """Encode clips in constant memory, one at a time."""
        made: Sequences = {}
        for name in streams:
            stream = self.spec.stream(name)
            shape = (len(audio), audio.shape[-1] // stream.hop, *stream.frame_shape)
            dtype = torch.float32 if stream.bins is None else torch.long
            made[name] = torch.zeros(shape, dtype=dtype, device=audio.device)
        for i, clip in enumerate(audio):
            # Filled in place: small blocks kept between large temporary ones would fragment the heap.
            done = dict.fromkeys(streams, 0)
            for pieces in self.encoder_stream([clip], streams):
                for name, piece in pieces.items():
                    made[name][i, done[name] : done[name] + len(piece)] = piece
                    done[name] += len(piece)
        return made

    def decode_long(self, values: Tensor, stream: str, samples: int | None = None) -> Float[Tensor, "b c t"]:
        """`decode` in constant memory; with `samples` the audio is cut or padded with silence to that length."""
        length = values.shape[1] * self.spec.stream(stream).hop
        audio = torch.zeros(len(values), self.spec.channels, max(length, samples or 0), device=values.device)
        for i, row in enumerate(values):
            done = 0
            for piece in self.decode_blocks([row], stream):
                audio[i, :, done : done + piece.shape[-1]] = piece
                done += piece.shape[-1]
        return audio[..., : length if samples is None else samples]
