"""What every codec is: audio to sequences and back, one sequence a level.

A codec hears a waveform at several levels of coarseness. Level 0 is the finest and level `len(hops) - 1` the coarsest;
one element of level `l` stands for `hops[l]` samples. Each level can be encoded and decoded alone, which is what lets a
song be written coarse to fine and heard at every stage. A codec never hears of priors, and a prior never asks which
codec wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

Sequences = dict[int, Tensor]  # level -> codes Int[Tensor, "b t"], or latents Float[Tensor, "b t d"] where bins is None


@dataclass(frozen=True)
class CodecSpec:
    """What the rest of the house may know of a codec."""

    sample_rate: int
    channels: int
    hops: tuple[int, ...]  # samples an element of each level stands for, finest first
    bins: int | None  # codes in a codebook; None: the sequences are latents
    width: int  # channels of one latent


class Codec(nn.Module, ABC):
    """Turns audio into sequences and back; every level reads and writes the waveform itself."""

    spec: CodecSpec

    @abstractmethod
    def encode(self, audio: Float[Tensor, "b c t"], levels: Collection[int]) -> Sequences:
        """Sequences of the levels asked for and no others; level `l` gets floor(t / hops[l]) elements."""

    @abstractmethod
    def decode(self, sequences: Sequences, level: int) -> Float[Tensor, "b c t"]:
        """Audio of `hops[level]` samples an element, from that level's sequence alone."""
