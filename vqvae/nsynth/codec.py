"""NSynthCodec: the encoder of the WaveNet autoencoder, one latent per `hop` samples (NSynth, arXiv:1704.01279, section 3.1).

    audio -> mu-law -> dilated convolutions, not causal -> average over `hop` samples -> 1x1 -> latents (stream "nsynth")

The encoder is trained together with a WaveNet. The WaveNet is the decoder. It is a prior over samples that reads this stream
(`priors/wavenet/`). So decoding is sampled, saved and resumed as with every other prior. This codec contains only the encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqvae.codec import Codec, Sequences, StreamDecoder
from vqvae.mulaw.codec import companded_level
from vqvae.nsynth.config import EMBEDDING, NSynthConfig

BLOCK = 1 << 16  # samples that are encoded at a time, without the receptive field on both sides


class DilatedLayer(nn.Module):
    """x + 1x1(ReLU(dilated(ReLU(x)))), with an unchanged shape."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, width, kernel, dilation=dilation, padding=kernel // 2 * dilation)
        self.pointwise = nn.Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "b w t"]) -> Float[Tensor, "b w t"]:
        return x + self.pointwise(F.relu(self.dilated(F.relu(x))))


class NSynthCodec(Codec):
    """The encoder of NSynth. Each layer pads its input with zeros at both ends of the song."""

    config: NSynthConfig

    def __init__(self, config: NSynthConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.inlet = nn.Conv1d(1, config.width, config.kernel, padding=config.kernel // 2)
        self.layers = nn.Sequential(*(DilatedLayer(config.width, config.kernel, dilation) for dilation in config.dilations))
        self.outlet = nn.Linear(config.width, config.latent)  # after the average, which commutes with it: this order is cheaper

    def latents(self, audio: Float[Tensor, "b 1 t"]) -> Float[Tensor, "b n d"]:
        """Encode whole clips to latents, with gradients."""
        h = self.layers(self.inlet(companded_level(audio).float()))
        return self.outlet(F.avg_pool1d(h, self.config.hop).transpose(1, 2))  # (B, W, T) -> (B, N, W)

    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return self.encode_long(self.check_audio(audio), streams)

    @torch.no_grad()
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        """Encode on a fixed grid of blocks with the receptive field on both sides.

        So the latents do not depend on the sizes of `blocks`.
        """
        hop = self.config.hop
        reach, step = -(-self.config.receptive_field(EMBEDDING) // hop) * hop, max(1, BLOCK // hop) * hop
        held, first, done = (
            torch.zeros(1, 0, device=self.device),
            0,
            0,
        )  # audio from sample `first` on; `done` samples are encoded
        for block in chain(blocks, (None,)):
            if block is not None:
                held = torch.cat([held, self.check_audio(block[None])[0]], dim=1)
            end = first + held.shape[1]
            while done + step + reach <= end or (block is None and done + hop <= end):
                start, stop = max(0, done - reach), min(end, done + step + reach)
                made = self.latents(held[None, :, start - first : stop - first])[0]
                before, count = (done - start) // hop, min(step, end - done) // hop
                yield dict.fromkeys(streams, made[before : before + count])
                done += count * hop
            held, first = held[:, max(0, done - reach - first) :], max(first, done - reach)

    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> NoReturn:
        raise ValueError(
            f"{stream} is decoded by a prior of samples that reads it, not by its codec; decode a file of codes by `jukebox upsample`"
        )

    def decoder_stream(self, stream: str) -> StreamDecoder:
        self.decode({}, stream)
