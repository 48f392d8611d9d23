"""Streams (the sequences that a codec converts audio to) and the base configuration of codecs, without torch.

A stream is one sequence with one frame every `hop` samples. A frame holds `books` codes (integers below `bins`) or a latent
(`width` floats). Each stream has a name: the streams of the three-level VQ-VAE are `vq.0` to `vq.2`. The index of a stream in
`CodecSpec.streams` is the level of the stream.
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
    """One sequence of a codec. Files store its frames as `dtype`. Seeds of random numbers contain `rng_key`, or `name` if it is empty."""

    name: str
    hop: int  # samples per frame
    books: int = 1  # codes per frame
    bins: int | None = None  # size of each codebook; None: the stream holds latents
    width: int = 0  # floats per frame of latents
    dtype: str = "uint16"
    rng_key: int | str = ""

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: an array of t frames has shape (t, *frame_shape). Empty for one code per frame."""
        if self.bins is None:
            return (self.width,)
        return (self.books,) if self.books > 1 else ()

    @property
    def key(self) -> int | str:
        """Identifier of the stream in the seed of a sampling generator."""
        return self.name if self.rng_key == "" else self.rng_key

    @property
    def seed_key(self) -> int:
        """`key` as an integer, for the seeds of training: a name becomes its CRC-32."""
        return self.key if isinstance(self.key, int) else zlib.crc32(self.key.encode())

    def check(self, values: np.ndarray, what: str) -> np.ndarray:
        """Convert `values` (t, *frame_shape) to the dtype of the stream.

        `what` names the values in errors. Raises ValueError for another shape, and for codes outside the range of the dtype.
        """
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
    """The public properties of a codec. `streams` is ordered from the finest stream to the coarsest."""

    sample_rate: int
    channels: int
    streams: tuple[Stream, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stream.name for stream in self.streams)

    @property
    def hops(self) -> tuple[int, ...]:
        """Samples per frame, for each stream."""
        return tuple(stream.hop for stream in self.streams)

    @property
    def unit(self) -> int:
        """The least number of samples that is a whole number of frames in every stream."""
        return math.lcm(*self.hops)

    def stream(self, name: str) -> Stream:
        """Return the stream called `name`. An unknown name raises ValueError, which lists the existing streams."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ValueError(f"there is no stream {name!r}; this codec has {', '.join(self.names) or 'none'}")


class CodecConfig(ABC):
    """Shape of a codec. Configurations import no torch, because planning, requests and the command-line help read them."""

    kind: ClassVar[str]  # name of the codec in config.json and in the registries
    learned: ClassVar[bool] = True  # False: the tensors are constants, and the file is written with the model folder
    decodes: ClassVar[bool] = True  # False: the streams are decoded by a prior that reads them

    @property
    @abstractmethod
    def spec(self) -> CodecSpec: ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values for config.json; the inverse is `from_json`."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any]) -> CodecConfig:
        """Return the configuration with the plain values `data`; ValueError names an unknown setting."""

    # ---- which tensors of the codec's file belong to a stream

    def tensors(self, stream: str, names: Collection[str]) -> list[str]:
        """Return those of the tensor `names` of the codec's file that encoding and decoding `stream` need."""
        return list(names)

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        """Return those of the tensor `names` that determine the values of `stream`: encoder and quantiser, not the decoder."""
        return self.tensors(stream, names)

    # ---- sizes, for planning

    @abstractmethod
    def parameter_count(self, stream: str) -> int:
        """Number of float32 parameters that `stream` needs."""

    @abstractmethod
    def receptive_field(self, stream: str) -> int:
        """Receptive field of `stream` to one side, in samples."""

    @abstractmethod
    def decoder_state(self, stream: str) -> int:
        """Number of past float32 values that a streaming decoder stores."""

    @abstractmethod
    def decoder_products(self, stream: str) -> float:
        """Number of multiplications of the decoder per sample of audio."""


def frame_count(seconds: float, sample_rate: int, hop: int, unit: int) -> int:
    """Number of frames of a stream in `seconds` of audio, rounded down to whole units of the codec (at least one unit).

    `unit` is the unit of the codec in samples (`CodecSpec.unit`).
    """
    return max(1, int(seconds * sample_rate + 1e-6) // unit) * (unit // hop)


def hash_tensors(tensors: Iterable[tuple[str, np.ndarray]], digits: int = 12) -> str:
    """Return the first `digits` digits of a SHA-256 over names, dtypes, shapes and values; empty if there are no tensors."""
    digest, ordered = hashlib.sha256(), sorted(tensors, key=lambda each: each[0])
    for name, values in ordered:
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:digits] if ordered else ""
