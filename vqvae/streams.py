"""Streams, the sequences that a codec converts audio to, and the base configuration of codecs; without torch.

A stream is one sequence with one frame every `hop` samples. A frame holds codes (integers below `bins`, one or several `books`)
or a latent (`width` floats). Streams have names; the three-level VQ-VAE has `vq.0` to `vq.2`. The index of a stream in
`CodecSpec.streams` is its level.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One sequence of a codec. `dtype` is the type in files; `rng_key` identifies the stream in seeds (empty: its name)."""

    name: str
    hop: int  # samples per frame
    books: int = 1  # codes per frame
    bins: int | None = None  # codes of a codebook; None: latents
    width: int = 0  # floats per frame of latents
    dtype: str = "uint16"
    rng_key: int | str = ""

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame in an array (t, *frame_shape); empty for one code per frame."""
        if self.bins is None:
            return (self.width,)
        return (self.books,) if self.books > 1 else ()

    @property
    def key(self) -> int | str:
        """The identifier of the stream in the hash of a sampling generator."""
        return self.name if self.rng_key == "" else self.rng_key

    @property
    def seed_key(self) -> int:
        """The identifier as a number, for the seeds of training."""
        return self.key if isinstance(self.key, int) else zlib.crc32(self.key.encode())

    def check(self, values: np.ndarray, what: str) -> np.ndarray:
        """Convert `values` (t, *frame_shape) to the stream's dtype; ValueError for another shape or values out of range."""
        if values.shape[1:] != self.frame_shape:
            expected = ", ".join(["frames", *map(str, self.frame_shape)])
            raise ValueError(f"{what}: {self.name} of shape {values.shape}; expected ({expected})")
        if self.bins is None:
            return values.astype(self.dtype)
        if values.dtype.kind not in "ui":
            raise ValueError(f"{what}: {self.name} of {values.dtype}; expected integers")
        top = np.iinfo(self.dtype).max
        if values.size and not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"{what}: codes of {self.name} must be integers from 0 to {top}")
        return values.astype(self.dtype)


@dataclass(frozen=True)
class CodecSpec:
    """The public properties of a codec; streams are ordered from the finest to the coarsest."""

    sample_rate: int
    channels: int
    streams: tuple[Stream, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stream.name for stream in self.streams)

    @property
    def hops(self) -> tuple[int, ...]:
        """Samples per frame of each stream."""
        return tuple(stream.hop for stream in self.streams)

    @property
    def unit(self) -> int:
        """The shortest length in samples at which all streams have whole frames."""
        return math.lcm(*self.hops)

    def stream(self, name: str) -> Stream:
        """The stream of that name; ValueError lists the existing streams."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ValueError(f"there is no stream {name!r}; this codec has {', '.join(self.names) or 'none'}")


class CodecConfig(ABC):
    """Shape of a codec. It imports no torch: planning, requests, sizes and help read it."""

    kind: ClassVar[str]  # its name in config.json and in the registries
    learned: ClassVar[bool] = True  # False: the tensors are constants, and the file is written with the model folder
    decodes: ClassVar[bool] = True  # False: the streams are decoded by a prior that reads them

    @property
    @abstractmethod
    def spec(self) -> CodecSpec: ...

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json; the inverse is `from_json`."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any]) -> CodecConfig:
        """The configuration from plain values; ValueError names an unknown setting."""

    # ---- which tensors of the codec's file belong to a stream

    def tensors(self, stream: str, names: Collection[str]) -> list[str]:
        """The tensor names of a codec's file that encoding and decoding `stream` need."""
        return list(names)

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        """The tensor names that determine the values of `stream`: encoder and quantiser, not the decoder."""
        return self.tensors(stream, names)

    # ---- sizes, for planning

    @abstractmethod
    def parameter_count(self, stream: str) -> int:
        """Number of parameters of a stream, all of them float32."""

    @abstractmethod
    def receptive_field(self, stream: str) -> int:
        """Receptive field to one side, samples."""

    @abstractmethod
    def decoder_state(self, stream: str) -> int:
        """Values that a streaming decoder keeps of the past, in float32."""

    @abstractmethod
    def decoder_products(self, stream: str) -> float:
        """Multiplications per sample of decoded audio."""


def frame_count(seconds: float, sample_rate: int, hop: int, unit: int) -> int:
    """Frames of a stream for a length in seconds, rounded down to whole units of the codec in samples (at least one)."""
    return max(1, int(seconds * sample_rate + 1e-6) // unit) * (unit // hop)


def hash_tensors(tensors: Iterable[tuple[str, np.ndarray]], digits: int = 12) -> str:
    """The first digits of a SHA-256 over names, dtypes, shapes and values; empty without tensors."""
    digest, ordered = hashlib.sha256(), sorted(tensors, key=lambda each: each[0])
    for name, values in ordered:
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:digits] if ordered else ""
