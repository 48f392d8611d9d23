"""Streaming encoder and decoder for songs of any length, in constant memory, on a fixed grid of blocks.

A block has `BLOCK` frames of the codec. It is computed with the receptive field on both sides, as far as the song extends. So
the values of a block do not depend on the sizes of the pushes. Phases and the overlap-add of the inverse transform continue
from block to block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from vqvae.spectral.autoencoder import SpectralDecoder
from vqvae.spectral.config import LATENTS, SpectralConfig
from vqvae.spectral.phase import Propagation, griffin_lim, peak_slopes
from vqvae.spectral.stft import margin, overlap_add

BLOCK = 64  # frames of the codec
BESIDE = 24  # frames of the spectrogram on both sides as context for Griffin-Lim


class GridBlock(NamedTuple):
    """A block of the grid with context items on both sides. `last` marks the last block of the song."""

    items: Shaped[Tensor, "n ..."]
    before: int  # items before the block
    length: int  # items of the block
    last: bool

    def cut(self, values: Shaped[Tensor, "m ..."], scale: int = 1) -> Shaped[Tensor, "k ..."]:
        """Remove the context from `values`, which has `scale` values per item."""
        return values[self.before * scale : (self.before + self.length) * scale]


class Grid:
    """Collects items that arrive over time into blocks with up to `reach` context items on both sides."""

    def __init__(self, reach: int, block: int = BLOCK) -> None:
        self.reach, self.block, self.first, self.done = reach, block, 0, 0
        self.held: Tensor | None = None  # items from `first` on

    def push(self, items: Shaped[Tensor, "n ..."], last: bool) -> Iterator[GridBlock]:
        self.held = items if self.held is None else torch.cat([self.held, items])
        end = self.first + len(self.held)
        while end >= self.done + self.block + self.reach or (last and self.done < end):
            stop = min(self.done + self.block, end)
            low, high = self.done - self.reach, stop + self.reach
            low, high = max(0, low), min(end, high)
            block = GridBlock(
                self.held[low - self.first : high - self.first], self.done - low, stop - self.done, last and stop == end
            )
            drop = max(0, stop - self.reach) - self.first
            self.done, self.first, self.held = stop, self.first + drop, self.held[drop:]
            yield block


def blocks_of_audio(blocks: Iterable[Float[Tensor, "c t"]], config: SpectralConfig) -> Iterator[GridBlock]:
    """Yield blocks of frames of audio (n, c, hop), with one frame more context than the receptive field of the encoder.

    The outermost frame is needed because there the transform pads with silence. Samples after the last whole frame are dropped.
    """
    hop, grid, rest = config.hop, Grid(config.encoder_reach + 1), torch.zeros(config.channels, 0, device="cpu")
    for block in blocks:
        rest = torch.cat([rest.to(block), block], dim=1)
        whole = rest.shape[1] // hop * hop
        yield from grid.push(rest[:, :whole].unflatten(1, (-1, hop)).transpose(0, 1), last=False)
        rest = rest[:, whole:]
    yield from grid.push(rest[:, :0].reshape(0, config.channels, hop), last=True)


class DecodesFrames(Protocol):
    """The parts of a spectral codec that `SpectralDecoderStream` uses."""

    config: SpectralConfig
    decoder: SpectralDecoder

    def magnitudes(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n c f"]: ...

    def latents_of(self, sequences: dict[str, Tensor], stream: str) -> Float[Tensor, "b t e"]: ...


class SpectralDecoderStream:
    """Decodes frames of `stream` that arrive over time."""

    def __init__(self, codec: DecodesFrames, stream: str) -> None:
        config = codec.config
        self.codec, self.stream, self.config = codec, stream, config
        self.grid = Grid(config.decoder_reach)
        self.propagation = Propagation(config.n_fft, config.hop_fft, config.chance)
        self.refined = Grid(BESIDE, BLOCK * config.stride)
        self.tail: tuple[Tensor, Tensor] | None = None  # samples to which later frames add, and their sums of squared windows
        self.skip = margin(config.n_fft, config.hop_fft)  # padding before the audio that is still to be dropped, samples

    @torch.no_grad()
    def push(self, values: Tensor, last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        for block in self.grid.push(values, last):
            for some in self.refined.push(self._spectra(block), block.last):
                yield self._overlapped(self._refine(some), some.last)

    def _spectra(self, block: GridBlock) -> Complex[Tensor, "n c f"]:
        """Decode the spectra of a block: magnitudes per channel, and propagated phases that are equal in all channels."""
        config, codec = self.config, self.codec
        hidden = codec.decoder.hidden(codec.latents_of({self.stream: block.items[None]}, self.stream))
        hidden = block.cut(hidden[0], config.stride)[None]
        magnitudes = codec.magnitudes(hidden)[0]
        together = magnitudes.mean(1)  # (N, C, F) -> (N, F)
        if config.phases == "learned":
            slopes = codec.decoder.slopes(hidden)[0]
        else:
            slopes = peak_slopes(together, config.n_fft, config.hop_fft)
        return magnitudes * self.propagation(together, slopes)[:, None]

    def _refine(self, block: GridBlock) -> Complex[Tensor, "n c f"]:
        """Make the phases of a block consistent by Griffin-Lim, and return its spectra."""
        config, magnitudes = self.config, block.items.abs()
        together = magnitudes.mean(1)
        phasors = block.items[:, 0] / magnitudes[:, 0].clamp(min=1e-9)
        made = griffin_lim(together, phasors, config.n_fft, config.hop_fft, config.griffin_lim_rounds)
        return block.cut(magnitudes * made[:, None])

    def _overlapped(self, spectra: Complex[Tensor, "n c f"], last: bool) -> Float[Tensor, "c t"]:
        """Overlap-add the spectra, and return the samples that no later frame changes."""
        config = self.config
        audio, squares = overlap_add(spectra.transpose(0, 1), config.n_fft, config.hop_fft)
        if self.tail is not None:
            size = len(self.tail[1])
            audio[:, :size] += self.tail[0]
            squares[:size] += self.tail[1]
        ready = len(spectra) * config.hop_fft
        self.tail = audio[:, ready:].clone(), squares[ready:].clone()
        end = ready + margin(config.n_fft, config.hop_fft) * last
        first, self.skip = min(self.skip, end), max(0, self.skip - end)
        return audio[:, first:end] / squares[first:end].clamp(min=1e-6)


class StackedFrames:
    """Runs `function`, the encoder or the decoder of the second autoencoder, on a grid of blocks.

    Each pushed item belongs to one frame of spectral.2. An item of the encoder is a group of `stacked` latents of the first
    autoencoder. An item of the decoder is a latent of spectral.2.
    """

    def __init__(
        self, function: Callable[[Float[Tensor, "n ..."]], Float[Tensor, "m e"]], config: SpectralConfig, scale: int
    ) -> None:
        self.function, self.scale = function, scale  # output frames per item
        self.grid = Grid(config.stacked_reach, BLOCK // config.stacked)

    @torch.no_grad()
    def push(self, items: Shaped[Tensor, "n ..."], last: bool) -> Iterator[Float[Tensor, "m e"]]:
        for block in self.grid.push(items, last):
            yield block.cut(self.function(block.items), self.scale)


class StackedDecoderStream:
    """Decodes latents of spectral.2 that arrive over time: first by the second decoder, then by the first decoder."""

    def __init__(self, frames: StackedFrames, codec: DecodesFrames) -> None:
        self.frames, self.inner, self.empty = frames, SpectralDecoderStream(codec, LATENTS), torch.zeros(0, codec.config.latent)

    def push(self, values: Tensor, last: bool = False) -> Iterator[Float[Tensor, "c t"]]:
        for latents in self.frames.push(values, last):
            yield from self.inner.push(latents)
        if last:
            yield from self.inner.push(self.empty.to(values.device), last=True)
