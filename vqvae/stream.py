"""Encode and decode sound of any length in constant memory, equal to doing it whole, and faster.

A convolution needs only so much of the past. Every layer keeps that end of what it has heard: it begins with the zeros
it would pad with, joins each new piece to what it holds, computes without padding, and at the very end hears the zeros
behind. So nothing is computed twice, no receptive field has to be known (the finest published level hears a second on
either side), and pieces may be so short that they stay in the processor's caches, where the whole of a layer, 113 MB for
20 s, would go through memory a dozen times. Equal means codes the same but for ties between two codes, audio within
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.blocks import ResidualBlock, layers
from vqvae.codec import Sequences
from vqvae.vqvae import VQVAE

CHUNK, CHUNK_CUDA = 2**14, 2**19  # samples a piece: layers of 2 MB, which a core's cache holds; enough for a GPU
MOST, MOST_CUDA = 2**20, 2**25  # numbers that a layer is given at a time

Step = Callable[[Tensor, bool], Tensor]  # (a piece (b, c, t), whether it is the last) -> what can be said by now


def encode_stream(
    codec: VQVAE, blocks: Iterable[Float[Tensor, "c t"]], levels: Collection[int], *, chunk: int = 0
) -> Iterator[dict[int, Int[Tensor, "s"]]]:
    """Codes of `levels` of the sound that `blocks` make end to end, as they come; `chunk` samples are heard at a time."""
    chains = {level: _chain(codec.level(level).encoder) for level in levels}
    for piece, last in _pieces(blocks, chunk):
        with torch.no_grad():
            audio = codec.check_audio(piece[None])
            heard = {level: chain(audio, last) for level, chain in chains.items()}
            codes = {level: codec.level(level).codebook.encode(latents)[0] for level, latents in heard.items()}
        yield codes


def decode_stream(
    codec: VQVAE, codes: Iterable[Int[Tensor, "s"]], level: int, *, chunk: int = 0
) -> Iterator[Float[Tensor, "c t"]]:
    """Sound of the codes of `level` that the blocks `codes` make end to end, as it comes, about `chunk` samples a time."""
    autoencoder = codec.level(level)
    chain = _chain(autoencoder.decoder)
    # a decoder has its width at the full rate already, an encoder at half of it
    for piece, last in _pieces(codes, chunk, autoencoder.hop, CHUNK // 2):
        with torch.no_grad():
            codec.check_codes(piece[None])
            audio = chain(autoencoder.codebook.decode(piece[None].long()), last)[0]
        yield audio


def encode_long(codec: VQVAE, audio: Float[Tensor, "b c t"], levels: Collection[int]) -> Sequences:
    """`codec.encode` in constant memory, one clip after another."""
    audio = codec.check_audio(audio)
    lengths = {level: audio.shape[-1] // codec.level(level).hop for level in levels}
    codes = {level: torch.zeros(len(audio), n, dtype=torch.long, device=audio.device) for level, n in lengths.items()}
    for i, clip in enumerate(audio):
        # Filled in place: many small pieces kept among large ones that come and go would tear the heap to shreds.
        done = dict.fromkeys(levels, 0)
        for pieces in encode_stream(codec, [clip], levels):
            for level, piece in pieces.items():
                codes[level][i, done[level] : done[level] + len(piece)] = piece
                done[level] += len(piece)
    return codes


def decode_long(
    codec: VQVAE, codes: Int[Tensor, "b s"], level: int, samples: int | None = None
) -> Float[Tensor, "b c t"]:
    """`codec.decode` in constant memory; with `samples` exactly so many: cut, or with silence after the last code."""
    codec.check_codes(codes)
    length = codes.shape[1] * codec.level(level).hop
    audio = torch.zeros(len(codes), codec.config.channels, max(length, samples or 0), device=codes.device)
    for i, row in enumerate(codes):
        done = 0
        for piece in decode_stream(codec, [row], level):
            audio[i, :, done : done + piece.shape[-1]] = piece
            done += piece.shape[-1]
    return audio[..., : length if samples is None else samples]


def _pieces(blocks: Iterable[Tensor], chunk: int, hop: int = 1, default: int = CHUNK) -> Iterator[tuple[Tensor, bool]]:
    """The blocks end to end, cut anew into pieces of chunk // hop elements, each with whether it is the last."""
    held: list[Tensor] = []
    for block in blocks:
        held.append(block)
        size = max(1, (chunk or (CHUNK_CUDA if block.is_cuda else default)) // hop)
        if sum(part.shape[-1] for part in held) > size:  # one that fills a piece exactly may be the last
            *pieces, rest = (torch.cat(held, dim=-1) if len(held) > 1 else block).split(size, dim=-1)
            yield from ((piece, False) for piece in pieces)
            held = [rest]
    if held:
        yield torch.cat(held, dim=-1), True


def _chain(module: nn.Module) -> Step:
    """All layers of an encoder or decoder, each holding its own past."""
    kinds = {nn.Conv1d: _convolution, nn.ConvTranspose1d: _transposed, ResidualBlock: _residual}
    steps: list[Step] = [kinds[type(layer)](layer) for layer in layers(module)]

    def run(x: Tensor, last: bool, first: int) -> Iterator[Tensor]:
        for i, each in enumerate(steps[first:], first):
            size = max(1, (MOST_CUDA if x.is_cuda else MOST) // x.shape[1])
            if x.shape[-1] > size:  # at the end all layers say at once what they have waited with: part by part, then
                *parts, rest = x.split(size, dim=-1)
                for part in parts:
                    yield from run(each(part, False), False, i + 1)
                x = rest
            x = each(x, last)
        yield x

    return lambda x, last: torch.cat(list(run(x, last, 0)), dim=-1)


class _Past:
    """The end of what a layer has heard, at most `most` steps of it; `pad` zeros stand before all sound and behind it.

    It has one place in memory for good: what stays, kept anew among pieces that come and go, would tear the heap.
    """

    def __init__(self, pad: int, most: int) -> None:
        self.pad, self.most, self.length = pad, most, pad
        self.kept: Tensor | None = None

    def join(self, x: Tensor, last: bool) -> Tensor:
        if self.kept is None:
            self.kept = x.new_zeros(*x.shape[:-1], self.most)
        zeros = x.new_zeros(*x.shape[:-1], self.pad * last)
        return torch.cat([self.kept[..., : self.length], x, zeros], dim=-1)

    def keep(self, x: Tensor, start: int) -> None:
        assert self.kept is not None
        self.length = x.shape[-1] - start
        self.kept[..., : self.length] = x[..., start:]


def _convolution(layer: nn.Conv1d) -> Step:
    stride, pad, dilation = int(layer.stride[0]), int(layer.padding[0]), int(layer.dilation[0])
    span = (layer.kernel_size[0] - 1) * dilation + 1
    past = _Past(pad, span + stride)

    def step(x: Tensor, last: bool) -> Tensor:
        x = past.join(x, last)
        count = max(0, (x.shape[-1] - span) // stride + 1)
        past.keep(x, count * stride)
        if not count:
            return x.new_zeros(len(x), layer.out_channels, 0)
        return F.conv1d(x, layer.weight, layer.bias, stride, 0, dilation)

    return step


def _residual(block: ResidualBlock) -> Step:
    layer, reach = block.dilated, int(block.dilated.dilation[0])
    past = _Past(reach, 2 * reach)

    def step(x: Tensor, last: bool) -> Tensor:
        x = past.join(x, last)
        count = max(0, x.shape[-1] - 2 * reach)
        past.keep(x, count)
        if not count:
            return x[..., :0]
        h = block.pointwise(F.relu_(F.conv1d(F.relu(x), layer.weight, layer.bias, dilation=reach)))
        h = h if block.scale == 1.0 else h * block.scale
        return h.add_(x[..., reach : reach + count])

    return step


def _transposed(layer: nn.ConvTranspose1d) -> Step:
    stride, trim = int(layer.stride[0]), int(layer.padding[0])
    past, first = _Past(1, 1), True  # kernel 2s: an output hears two neighbouring inputs

    def step(x: Tensor, last: bool) -> Tensor:
        nonlocal first
        x = past.join(x, last)
        past.keep(x, x.shape[-1] - 1)
        # (B, C, N + 1) -> (B, W, N * stride): between the outer two, every output has heard both its inputs
        y = F.conv_transpose1d(x, layer.weight, layer.bias, stride)[..., stride:-stride]
        start, first = trim if first and y.shape[-1] else 0, first and not y.shape[-1]
        return y[..., start : y.shape[-1] - trim * last]

    return step
