"""The VQ-VAE of Jukebox: three separate autoencoders of raw audio, each with its own codebook.

Jukebox (arXiv:2005.00341, section 3). Notable:
- the levels share no parameters. Each level reconstructs the song alone. In a nested hierarchy the top level may become silent;
- any subset of the levels can be built, trained, saved and used, and only the requested levels are computed;
- losses are summed over levels, not averaged. The name of each logged value contains the level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.codec import Codec, Sequences, StreamDecoder
from vqvae.jukebox.autoencoder import Autoencoder
from vqvae.jukebox.config import VQVAEConfig
from vqvae.jukebox.losses import Bandwidth, ReconstructionLoss
from vqvae.jukebox.stream import AutoencoderDecoder, decode_stream, encode_stream


class VQVAE(Codec):
    """A codec with one autoencoder per stream.

    If `streams` is given, only the autoencoders of these streams are built. The names of their parameters do not change.
    """

    config: VQVAEConfig

    def __init__(self, config: VQVAEConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        chosen = sorted({config.level_of(stream) for stream in (config.spec.names if streams is None else streams)})
        self.levels = nn.ModuleDict({str(level): Autoencoder(config, level) for level in chosen})

    def level(self, level: int) -> Autoencoder:
        """Return the autoencoder of `level`; raise ValueError if the level was not built."""
        if str(level) not in self.levels:
            raise ValueError(f"level {level} was not built; this codec holds levels {', '.join(self.levels) or 'none'}")
        module = self.levels[str(level)]
        assert isinstance(module, Autoencoder)
        return module

    def autoencoder(self, stream: str) -> Autoencoder:
        """Return the autoencoder of `stream`; raise ValueError if the autoencoder was not built."""
        return self.level(self.config.level_of(stream))

    @torch.no_grad()
    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        """Encode audio to int64 codes (b, t // hop) of each of `streams`. Samples after the last whole code are ignored."""
        audio = self.check_audio(audio)
        return {stream: self._encode(audio, self.autoencoder(stream)) for stream in streams}

    @torch.no_grad()
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        """Decode the codes (b, t) of `stream` to audio (b, c, t * hop), not clipped to [-1, 1]. `noise` is not used."""
        autoencoder, codes = self.autoencoder(stream), sequences[stream]
        self.check_codes(codes)
        if not codes.numel():
            samples = codes.shape[1] * autoencoder.hop
            return torch.zeros(len(codes), self.config.channels, samples, device=codes.device)
        return autoencoder.decoder(autoencoder.codebook.decode(codes.long())).float()

    def encoder_stream(
        self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str], *, chunk: int = 0
    ) -> Iterator[dict[str, Int[Tensor, " s"]]]:
        """Encode the concatenated `blocks` of audio to codes of `streams`, `chunk` samples at a time (0: a default)."""
        checked = (self.check_audio(block[None])[0] for block in blocks)
        return encode_stream({stream: self.autoencoder(stream) for stream in streams}, checked, chunk=chunk)

    def decode_blocks(
        self, blocks: Iterable[Int[Tensor, " s"]], stream: str, *, chunk: int = 0
    ) -> Iterator[Float[Tensor, "c t"]]:
        """Decode the concatenated `blocks` of codes to audio, about `chunk` samples at a time (0: a default)."""
        checked = (self.check_codes(block[None])[0] for block in blocks)
        return decode_stream(self.autoencoder(stream), checked, chunk=chunk)

    def decoder_stream(self, stream: str, *, chunk: int = 0) -> StreamDecoder:
        return AutoencoderDecoder(self.autoencoder(stream), self.check_codes, chunk=chunk)

    def encode_long(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return super().encode_long(self.check_audio(audio), streams)

    def decode_long(self, values: Int[Tensor, "b s"], stream: str, samples: int | None = None) -> Tensor:
        return super().decode_long(self.check_codes(values), stream, samples)

    def embeddings(self, stream: str) -> Float[Tensor, "k e"]:
        return self.autoencoder(stream).codebook.k

    @torch.no_grad()
    def initialise(self, audio: Float[Tensor, "b c t"], generator: torch.Generator) -> None:
        training = self.training
        self.train()
        self.loss(audio, generator=generator)
        self.train(training)

    def loss(
        self,
        audio: Float[Tensor, "b c t"],
        *,
        generator: torch.Generator | None = None,
        quantise: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> dict[str, Tensor]:
        """Return the total loss as "loss", and detached terms and metrics by name. In training mode the codebooks are updated.

        With `quantise` False the latents go directly to the decoder. So the encoder can be trained before the first call with
        `quantise` True, which initialises the codebooks. The argmax bottleneck needs no initialisation and always quantises.
        `generator` (on the CPU, with the same seed on all ranks) samples candidate codes.
        Raises FloatingPointError with the names of term and level if a term is not finite.
        """
        audio = self.check_audio(audio)
        hop = max(autoencoder.hop for autoencoder in self._autoencoders().values())
        if audio.shape[-1] < hop or audio.shape[-1] % hop or not len(audio):
            raise ValueError(
                f"a batch of shape {tuple(audio.shape)}: expected clips whose length is a multiple of {hop} samples"
            )
        with torch.autocast(audio.device.type, enabled=False):
            reconstruction = ReconstructionLoss(self.config, audio, bandwidth or Bandwidth())
        terms, logs, argmax = {}, {}, self.config.bottleneck == "argmax"
        quantise = quantise or argmax
        for level, autoencoder in self._autoencoders().items():
            latents = autoencoder.encoder(audio)
            commit = None
            if quantise:
                try:
                    quantised = autoencoder.codebook(latents, generator)
                except FloatingPointError as error:
                    raise FloatingPointError(f"level {level}: {error}") from None
                latents, commit = quantised.latents, quantised.commit
                logs |= {f"{name}_l{level}": value for name, value in quantised.metrics.items()}
            output = autoencoder.decoder(latents if self.training or not quantise else latents.detach())
            with torch.autocast(audio.device.type, enabled=False):
                of_level, metrics = reconstruction.measure(output.float())
            if commit is not None:
                name, weight = ("diversity_loss", self.config.diversity) if argmax else ("commit_loss", self.config.commit)
                of_level[name] = (weight, commit)
            terms |= {f"{name}_l{level}": term for name, term in of_level.items()}
            logs |= {f"{name}_l{level}": value for name, value in metrics.items()}
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        if not torch.isfinite(loss):
            bad = [name for name, (_, value) in terms.items() if not torch.isfinite(value)] or ["their sum"]
            raise FloatingPointError(f"the loss is not finite: {', '.join(bad)}")
        logs |= {name: value for name, (_, value) in terms.items()}
        return {"loss": loss} | _with_summaries({name: value.detach() for name, value in logs.items()})

    def forward(self, audio: Float[Tensor, "b c t"], **options: Any) -> dict[str, Tensor]:
        """Call `loss`: wrappers that split a batch over devices call `forward`."""
        return self.loss(audio, **options)

    def _autoencoders(self) -> dict[int, Autoencoder]:
        return {int(name): self.level(int(name)) for name in self.levels}

    def _encode(self, audio: Float[Tensor, "b c t"], autoencoder: Autoencoder) -> Tensor:
        if audio.shape[-1] < autoencoder.hop or not len(audio):
            length = audio.shape[-1] // autoencoder.hop
            return torch.zeros(len(audio), length, dtype=torch.long, device=audio.device)
        return autoencoder.codebook.encode(autoencoder.encoder(audio))

    def check_codes(self, codes: Tensor) -> Int[Tensor, "b t"]:
        """Return `codes` unchanged; ValueError unless all are integers below `bins`, of shape (b, t)."""
        if codes.dim() != 2 or codes.is_floating_point():
            raise ValueError(f"codes are {tuple(codes.shape)} {codes.dtype}; expected integers (batch, time)")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.config.bins):
            raise ValueError(f"codes run from {codes.min()} to {codes.max()}; expected 0 to {self.config.bins - 1}")
        return codes


SUMMED = ("recons_loss", "spectral_loss", "multispectral_loss", "log_spectral_loss", "commit_loss", "diversity_loss")


def _with_summaries(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add summaries over levels to the values name_l{level}: `name` is the sum of a loss term, or the mean of a metric."""
    groups: dict[str, list[Tensor]] = {}
    for name, value in logs.items():
        groups.setdefault(name.rpartition("_l")[0], []).append(value)
    whole = {name: torch.stack(vs).sum() if name in SUMMED else torch.stack(vs).mean() for name, vs in groups.items()}
    return logs | whole
