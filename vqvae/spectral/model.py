"""SpectralCodec: tokens without phase (the spectrogram autoencoder of Musika, arXiv:2208.08706, with residual codes).

    audio -> log magnitudes -> encoder -> latents (stream "spectral") -> residual codes (stream "tokens")
    tokens or latents -> decoder -> magnitudes and derivatives of the phase -> phases -> inverse transform -> audio
    latents <-> second autoencoder (optional) <-> latents of a lower rate (stream "spectral.2")

Codes of a waveform contain the phase: some hundred bits per second that a small prior cannot learn. The tokens of this codec
contain no phase. The decoder predicts derivatives of the phase, from which phases are computed. Griffin-Lim is the alternative.
Audio of any length is processed on a fixed grid of blocks with the receptive field on both sides. So streaming and whole-song
processing have equal results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from vqvae.codec import Codec, Sequences, StreamDecoder, effective_dimension
from vqvae.spectral.autoencoder import SpectralDecoder, SpectralEncoder, StackedAutoencoder
from vqvae.spectral.config import LATENTS, STACKED, TOKENS, SpectralConfig
from vqvae.spectral.features import LogMagnitudes
from vqvae.spectral.losses import SpectralLoss
from vqvae.spectral.residual import ResidualQuantiser
from vqvae.spectral.stft import analyse, audio_of, pad
from vqvae.spectral.stream import SpectralDecoderStream, StackedDecoderStream, StackedFrames, blocks_of_audio

GAINS = (0.5, 4.0)  # smallest and largest gain


class Drawn(NamedTuple):
    """Random values of a training step: codebooks of each clip (0: not quantised), first frame of the phase loss."""

    books: Int[Tensor, " b"]
    first: int

    def rows(self, mine: slice) -> Drawn:
        return Drawn(self.books[mine], self.first)


class SpectralCodec(Codec):
    """The codec. All streams share encoder and decoder. The second autoencoder is built if `streams` names it (None: all)."""

    stacked: StackedAutoencoder | None

    config: SpectralConfig

    def __init__(self, config: SpectralConfig, streams: Collection[str] | None = None) -> None:
        super().__init__()
        self.config = config
        self.features = LogMagnitudes(config)
        self.encoder, self.decoder = SpectralEncoder(config), SpectralDecoder(config)
        self.quantiser = ResidualQuantiser(config.books, config.bins, config.latent, config.mu, config.threshold)
        wanted = config.stacked and (streams is None or STACKED in streams)
        self.stacked = StackedAutoencoder(config) if wanted else None

    # ---- audio and latents

    def spectra(self, audio: Float[Tensor, "b c t"]) -> Tensor:
        """Spectra (b, n, c, f) of audio. The length of the audio must be a multiple of the hop."""
        config = self.config
        return analyse(pad(audio, config.n_fft, config.hop_fft), config.n_fft, config.hop_fft).transpose(1, 2)

    def audio_of(self, spectra: Complex[Tensor, "b n c f"]) -> Float[Tensor, "b c t"]:
        """Inverse of `spectra`. For inconsistent spectra, return the audio with the nearest spectra (least squares)."""
        return audio_of(spectra.transpose(1, 2), self.config.n_fft, self.config.hop_fft)

    def latents_of(self, sequences: Sequences, stream: str) -> Float[Tensor, "b t e"]:
        """Convert the frames of `stream` to latents, the input of the decoder.

        Tokens may have fewer books: the first ones. Raises ValueError for invalid shapes or codes.
        """
        values = sequences[stream]
        if width := self.config.spec.stream(stream).width:
            if values.dim() != 3 or values.shape[-1] != width:
                raise ValueError(f"latents of shape {tuple(values.shape)}; expected (batch, time, {width})")
            return values.float() if stream == LATENTS else self.second.decoder(values.float())
        return self.quantiser.decode(self.check_codes(values))

    @property
    def second(self) -> StackedAutoencoder:
        """The second autoencoder; ValueError if it was not built."""
        if self.stacked is None:
            raise ValueError(
                f"this codec was built without {STACKED}; name it among the streams, or set `stacked` of its configuration"
            )
        return self.stacked

    def magnitudes(self, hidden: Float[Tensor, "b n w"]) -> Float[Tensor, "b n c f"]:
        """Compute magnitudes from the hidden states of the decoder, and multiply by the gain of each bin."""
        made = self.features.magnitudes(self.decoder.features(hidden))
        return made if self.decoder.gain is None else made * self.decoder.gain

    @torch.no_grad()
    def fit_gain(self, clips: Iterable[Float[Tensor, "b c t"]]) -> None:
        """Fit the gain per bin, if configured: sqrt(energy of the clips / energy of their reconstructions)."""
        if self.decoder.gain is None:
            return
        energy = torch.zeros(2, *self.decoder.gain.fill_(1.0).shape, device=self.device)
        for audio in clips:
            made = self.decode(self.encode(audio, [TOKENS]), TOKENS)
            energy += torch.stack(
                [self.spectra(each).abs().square().sum((0, 1)) for each in (audio[..., : made.shape[-1]], made)]
            )
        self.decoder.gain.copy_((energy[0] / energy[1].clamp(min=1e-9)).sqrt().clamp(*GAINS))

    # ---- the interface of codecs

    @torch.no_grad()
    def encode(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return self.encode_long(audio, streams)

    def encode_long(self, audio: Float[Tensor, "b c t"], streams: Collection[str]) -> Sequences:
        return super().encode_long(self.check_audio(audio), streams)

    @torch.no_grad()
    def decode(self, sequences: Sequences, stream: str, *, noise: Tensor | None = None) -> Float[Tensor, "b c t"]:
        return self.decode_long(sequences[stream], stream)

    @torch.no_grad()
    def encoder_stream(self, blocks: Iterable[Float[Tensor, "c t"]], streams: Collection[str]) -> Iterator[dict[str, Tensor]]:
        checked = (self.check_audio(block[None])[0] for block in blocks)
        frames = self._stacked_frames(encode=True) if STACKED in streams else None
        # latents that do not fill a frame of spectral.2 are dropped
        rest = torch.zeros(0, self.config.latent, device=self.device)
        for block in blocks_of_audio(checked, self.config):
            audio = block.items.transpose(0, 1).flatten(1)  # (T, C, hop) -> (C, T * hop)
            latents = block.cut(self.encoder(self.features(self.spectra(audio[None]).abs()))[0])
            made = {LATENTS: latents} if LATENTS in streams else {}
            if frames:
                rest = torch.cat([rest, latents])
                whole = len(rest) // self.config.stacked * self.config.stacked
                pieces = list(frames.push(rest[:whole].unflatten(0, (-1, self.config.stacked)), block.last))
                made[STACKED], rest = torch.cat([rest.new_zeros(0, self.config.stacked_latent), *pieces]), rest[whole:]
            yield made | ({TOKENS: self.quantiser.encode(latents[None])[0]} if TOKENS in streams else {})

    def decoder_stream(self, stream: str) -> StreamDecoder:
        self.config.spec.stream(stream)
        if stream == STACKED:
            return StackedDecoderStream(self._stacked_frames(encode=False), self)
        return SpectralDecoderStream(self, stream)

    def translated(self, blocks: Iterable[Tensor], source: str, target: str) -> Iterator[Tensor] | None:
        return self._quantised(blocks) if (source, target) == (STACKED, TOKENS) else None

    @torch.no_grad()
    def _quantised(self, blocks: Iterable[Float[Tensor, "t d"]]) -> Iterator[Int[Tensor, "n books"]]:
        """Decode frames of spectral.2 to latents with the second decoder, and quantise the latents to tokens."""
        frames, before = self._stacked_frames(encode=False), None
        for block in (*blocks, None):
            for latents in () if before is None else frames.push(before, last=block is None):
                yield self.quantiser.encode(latents[None])[0]
            before = block

    def _stacked_frames(self, encode: bool) -> StackedFrames:
        """Return the streaming second encoder (from groups of latents), or the streaming second decoder (from frames)."""
        config, second = self.config, self.second
        if encode:
            return StackedFrames(lambda items: second.encoder(items.flatten(0, 1)[None])[0], config, 1)
        return StackedFrames(lambda items: second.decoder(items[None])[0], config, config.stacked)

    def embeddings(self, stream: str) -> Float[Tensor, "books k e"] | None:  # type: ignore[override]
        return self.quantiser.vectors if stream == TOKENS else None

    @torch.no_grad()
    def initialise(self, audio: Float[Tensor, "b c t"], generator: torch.Generator) -> None:
        """Compute the statistics of the features from the clips `audio`."""
        self.features.fit(self.spectra(self.check_audio(audio)).abs())

    # ---- training

    def loss(
        self, audio: Float[Tensor, "b c t"], *, generator: torch.Generator | None = None, quantise: bool = True,
        drawn: Drawn | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the total loss as "loss", and detached terms and metrics by name. In training mode the codebooks are updated.

        `drawn` has random values for the clips; by default torch's global generator samples them.
        Raises FloatingPointError if the loss is not finite.
        """
        config, audio = self.config, self.check_audio(audio)
        drawn = drawn or self.draw(len(audio), audio.shape[-1], quantise)
        with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
            spectra = self.spectra(audio)
            true = spectra.abs()
            target = (true + config.floor).log()
            features = self.features(true)
        latents, terms = self.encoder(features), {}
        logs = {"effective_dimension": effective_dimension(latents.detach())}
        if quantise:
            quantised = self.quantiser(latents, drawn.books.to(self.device), generator)
            latents, terms["commit_loss"] = quantised.latents, quantised.commit
            logs |= quantised.metrics
        hidden = self.decoder.hidden(latents)
        some = slice(drawn.first, drawn.first + config.phase_frames)
        output, slopes = self.decoder.features(hidden), self.decoder.slopes(hidden[:, some])
        with torch.autocast(audio.device.type, enabled=False):
            measure = SpectralLoss(config, audio.device)
            terms |= measure.magnitudes(target, self.features.logs(output), true)
            terms["phase_loss"] = measure.phase(spectra[:, some].sum(2), slopes)
            loss = measure.total(terms)
        if not torch.isfinite(loss):
            bad = [name for name, value in terms.items() if not torch.isfinite(value)] or ["their sum"]
            raise FloatingPointError(f"the loss is not finite: {', '.join(bad)}")
        return {"loss": loss} | {name: value.detach() for name, value in (terms | logs).items()}

    def draw(self, clips: int, samples: int, quantise: bool = True, generator: torch.Generator | None = None) -> Drawn:
        """Sample the number of codebooks of each clip, and the first frame of the phase loss.

        Most clips use all codebooks. Some use fewer, so the first codebooks also decode well without the other codebooks.
        """
        config, books = self.config, torch.zeros(clips, dtype=torch.long)
        if quantise:
            chance = torch.rand(clips, generator=generator)
            some = torch.randint(1, config.books + 1, (clips,), generator=generator)
            fewer = torch.where(chance < config.all_books + config.unquantised, 0, some)
            books = torch.where(chance < config.all_books, config.books, fewer)
        frames = samples // config.hop * config.stride
        return Drawn(books, int(torch.randint(max(1, frames - config.phase_frames + 1), (), generator=generator)))

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weight matrices between the first and the last layers, which Muon optimises."""
        for name, p in self.named_parameters():
            if p.ndim == 2 and name.split(".")[-2] in ("inner", "outer", "join", "unfold"):
                yield p

    def forward(self, audio: Float[Tensor, "b c t"], **options: Any) -> dict[str, Tensor]:
        """Call `loss`: wrappers that split a batch over devices call `forward`."""
        return self.loss(audio, **options)

    def check_codes(self, codes: Tensor) -> Int[Tensor, "b t books"]:
        """Convert codes to int64; ValueError unless all are integers below `bins`, of shape (b, t, 1 to books)."""
        books, bins = self.config.books, self.config.bins
        if codes.dim() != 3 or codes.is_floating_point() or not 1 <= codes.shape[-1] <= books:
            raise ValueError(f"codes are {tuple(codes.shape)} {codes.dtype}; expected integers (batch, time, {books})")
        if codes.numel() and (codes.min() < 0 or codes.max() >= bins):
            raise ValueError(f"codes run from {codes.min()} to {codes.max()}; expected 0 to {bins - 1}")
        return codes.long()
