"""Encode and decode sound of any length in constant memory, equal to doing it whole.

A convolutional codec hears only so far. How far is computed from its layers by interval arithmetic, so that a chunk given
that much of its neighbours comes out as in the whole: what an inner cut spoils is thrown away. At the true start and end
the chunk ends where the whole ends, and every layer pads the same zeros. (Padding a chunk once with zeros would not do:
layers pad their own input, and a bias makes that differ from silence.) Equal means codes the same but for ties between two
codes, audio within rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.blocks import convolutions
from vqvae.codec import Sequences
from vqvae.vqvae import VQVAE

Layer = nn.Conv1d | nn.ConvTranspose1d
MIN_CHUNK = 2**17  # samples; more wastes less on the overlap, less needs less memory


def reach(layers: Iterable[Layer], start: int, stop: int) -> tuple[int, int]:
    """The half-open interval of inputs that outputs start..stop of a chain of convolutions depend on."""
    for layer in reversed(list(layers)):
        kernel, stride, padding, dilation = (
            int(v[0]) for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )
        if isinstance(layer, nn.ConvTranspose1d):  # output o hears inputs i with o = i * stride - padding + tap
            start, stop = -((kernel - 1 - padding - start) // stride), (stop - 1 + padding) // stride + 1
        else:
            start, stop = start * stride - padding, (stop - 1) * stride - padding + (kernel - 1) * dilation + 1
    return start, stop


def encoder_reach(codec: VQVAE, level: int) -> tuple[int, int]:
    """Samples before and after its own `hop` samples that a code of `level` depends on."""
    autoencoder = codec.level(level)
    start, stop = reach(convolutions(autoencoder.encoder), 0, 1)
    return -start, stop - autoencoder.hop


def decoder_reach(codec: VQVAE, level: int) -> tuple[int, int]:
    """Codes before and after its own that the `hop` samples of one code depend on."""
    autoencoder = codec.level(level)
    start, stop = reach(convolutions(autoencoder.decoder), 0, autoencoder.hop)
    return -start, stop - 1


def encode_stream(
    codec: VQVAE, blocks: Iterable[Float[Tensor, "c t"]], level: int, *, chunk: int | None = None
) -> Iterator[Int[Tensor, "s"]]:
    """Codes of `level` of the sound that `blocks` make end to end, as they come, `chunk` codes at a time."""
    hop = codec.level(level).hop
    before, after = (ceil(samples / hop) for samples in encoder_reach(codec, level))
    for piece, skip, take in _chunks(blocks, hop, chunk or _chunk(codec, level), before, after):
        yield codec.encode(piece[None], [level])[level][0, skip : skip + take]


def decode_stream(
    codec: VQVAE, codes: Iterable[Int[Tensor, "s"]], level: int, *, chunk: int | None = None
) -> Iterator[Float[Tensor, "c t"]]:
    """Sound of the codes of `level` that the blocks `codes` make end to end, as it comes, `chunk` codes at a time."""
    hop = codec.level(level).hop
    before, after = decoder_reach(codec, level)
    for piece, skip, take in _chunks(codes, 1, chunk or _chunk(codec, level), before, after):
        yield codec.decode({level: piece[None]}, level)[0, :, skip * hop : (skip + take) * hop]


def encode_long(codec: VQVAE, audio: Float[Tensor, "b c t"], levels: Collection[int]) -> Sequences:
    """`codec.encode` in constant memory, one clip after another."""
    empty = torch.zeros(0, dtype=torch.long, device=audio.device)
    return {
        level: torch.stack([torch.cat([empty, *encode_stream(codec, [clip], level)]) for clip in audio])
        for level in levels
    }


def decode_long(
    codec: VQVAE, codes: Int[Tensor, "b s"], level: int, samples: int | None = None
) -> Float[Tensor, "b c t"]:
    """`codec.decode` in constant memory; with `samples` exactly so many: cut, or with silence after the last code."""
    empty = torch.zeros(codec.config.channels, 0, device=codes.device)
    audio = torch.stack([torch.cat([empty, *decode_stream(codec, [row], level)], dim=-1) for row in codes])
    return audio if samples is None else torch.nn.functional.pad(audio, (0, samples - audio.shape[-1]))


def _chunk(codec: VQVAE, level: int) -> int:
    """Codes a chunk by default: three times its overlap, so that at most a quarter of the work is done twice."""
    overlap = sum(encoder_reach(codec, level))
    return max(MIN_CHUNK, 3 * overlap) // codec.level(level).hop


def _chunks(
    blocks: Iterable[Tensor], hop: int, chunk: int, before: int, after: int
) -> Iterator[tuple[Tensor, int, int]]:
    """Overlapping pieces along the last axis: (piece, steps to skip, steps to take), a step being `hop` elements.

    A piece holds `before` steps before and `after` steps after those to take, unless the true start or end is nearer.
    """
    held: list[Tensor] = []
    first, length, done = 0, 0, 0  # the first step held, elements held, steps already taken
    for block in blocks:
        if block.shape[-1]:
            held.append(block)
            length += block.shape[-1]
        while length >= (done + chunk + after - first) * hop:
            whole = held[0] if len(held) == 1 else torch.cat(held, dim=-1)
            yield whole[..., : (done + chunk + after - first) * hop], done - first, chunk
            done += chunk
            start = max(first, done - before)
            held, length = [whole[..., (start - first) * hop :]], length - (start - first) * hop
            first = start
    if (left := first + length // hop - done) > 0:
        yield torch.cat(held, dim=-1), done - first, left
