"""Shape and losses of the spectral codec, without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from vqvae.streams import CodecConfig, CodecSpec, Stream

TOKENS, LATENTS, STACKED = "tokens", "spectral", "spectral.2"
STACKED_PREFIX = "stacked."  # prefix of the tensor names of the second autoencoder
PHASES = ("learned", "griffin_lim")


@dataclass(frozen=True)
class SpectralConfig(CodecConfig):
    """Shape and losses of a codec of spectrogram magnitudes.

    The defaults have 21.5 frames and 775 bits per second at 22.05 kHz.
    """

    kind = "spectral"
    sample_rate: int = 22050
    channels: int = 1
    # spectrogram
    n_fft: int = 512
    hop_fft: int = 128
    floor: float = 0.1  # added to magnitudes before the logarithm
    # network
    stride: int = 8  # frames of the spectrogram per frame of the codec
    width: int = 256
    latent: int = 64
    fine_blocks: int = 1  # residual blocks at the rate of the spectrogram, in the encoder and in the decoder
    encoder_blocks: int = 2
    decoder_dilations: tuple[int, ...] = (1, 1, 2)
    # quantiser
    books: int = 4
    bins: int = 512
    mu: float = 0.97
    threshold: float = 0.03  # a code is dead if its use is below this share of the mean use
    all_books: float = 0.75  # share of training clips that are decoded from all codebooks
    unquantised: float = 0.1  # share of training clips that are decoded from latents; other clips use the first few codebooks
    # weights of losses; the losses of log and root magnitudes have weight 1
    commit: float = 0.25
    mel: float = 0.5
    slope: float = 1.0  # for the differences of log magnitudes over time and frequency
    phase: float = 1.0
    phase_frames: int = 96  # number of frames of a clip whose phases are learned in a step
    # decoding
    gain: bool = False  # True: fit a gain per bin after training, because an L1 loss leads to medians, which have less energy
    phases: str = "learned"
    chance: float = 2.0  # weight of random phases in bins with uncertain learned derivatives
    rounds: int = 1  # iterations of Griffin-Lim after learned phases
    peak_rounds: int = 32  # iterations of Griffin-Lim after phases that are estimated from peaks
    # second autoencoder, which encodes the latents of the first autoencoder
    stacked: int = 0  # frames of latents per frame of the stream spectral.2; 0: no second autoencoder
    stacked_width: int = 256
    stacked_latent: int = 64
    stacked_blocks: int = (
        2  # residual blocks at the rate of the latents, and also at the rate of the stream, in the encoder and in the decoder
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder_dilations", tuple(self.decoder_dilations))
        if self.n_fft % 2 or self.n_fft < 2 * self.hop_fft or self.hop_fft % 2:
            raise ValueError(
                f"n_fft {self.n_fft}, hop {self.hop_fft}: expected even numbers, and a hop of at most half of n_fft"
            )
        if self.phases not in PHASES:
            raise ValueError(f"phases {self.phases!r}; expected one of {', '.join(PHASES)}")
        if self.stacked == 1 or self.stacked < 0:
            raise ValueError(f"stacked {self.stacked}; expected 0, or 2 or more frames of latents per frame of {STACKED}")

    @property
    def frequencies(self) -> int:
        """Number of frequency bins of the spectrogram."""
        return self.n_fft // 2 + 1

    @property
    def hop(self) -> int:
        """Samples per frame of the codec."""
        return self.stride * self.hop_fft

    @property
    def griffin_lim_rounds(self) -> int:
        """Iterations of Griffin-Lim for the configured `phases`."""
        return self.rounds if self.phases == "learned" else self.peak_rounds

    @property
    def spec(self) -> CodecSpec:
        tokens = Stream(TOKENS, self.hop, books=self.books, bins=self.bins)
        streams = (Stream(LATENTS, self.hop, width=self.latent, dtype="float16"), tokens)
        if self.stacked:
            streams += (Stream(STACKED, self.hop * self.stacked, width=self.stacked_latent, dtype="float16"),)
        return CodecSpec(self.sample_rate, self.channels, streams)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for config.json.

        Without a second autoencoder the dictionary has no "stacked" settings, so older checkpoints stay valid.
        """
        data = super().to_json()
        return data if self.stacked else {name: value for name, value in data.items() if not name.startswith("stacked")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpectralConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"a spectral codec has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**data)

    # ---- tensors: all streams share encoder and decoder

    def tensors(self, stream: str, names: Collection[str]) -> list[str]:
        stacked = [name for name in names if name.startswith(STACKED_PREFIX)]
        if stream == STACKED:
            return list(names) if stacked else []  # not trained
        return [name for name in names if name not in stacked]

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        further = {TOKENS: ("quantiser.",), STACKED: (f"{STACKED_PREFIX}encoder.",)}.get(stream, ())
        if not self.tensors(stream, names):
            return []
        parts = ("encoder.", "features.", *further)
        found = [name for name in names if name.startswith(parts)]
        # the moving averages are used in training only
        return [name for name in found if not name.endswith((".k_sum", ".k_elem", ".initialised"))]

    # ---- sizes

    @property
    def _block(self) -> int:
        """Number of parameters of a residual block."""
        return _block_numbers(self.width)

    @property
    def _heads(self) -> int:
        """Values that the decoder predicts per frame of the spectrogram: magnitudes, and two unit vectors per bin."""
        return (self.channels + 4) * self.frequencies

    def parameter_count(self, stream: str) -> int:
        width, inputs = self.width, self.channels * self.frequencies
        encoder = (inputs + 1) * width + (self.stride * width + 1) * width + 2 * width + (width + 1) * self.latent
        decoder = (self.latent + 1) * width + (width + 1) * self.stride * width + 2 * width + (width + 1) * self._heads
        blocks = 2 * self.fine_blocks + self.encoder_blocks + len(self.decoder_dilations)
        codebooks = self.books * (self.bins * (2 * self.latent + 1) + 1)
        first = encoder + decoder + blocks * self._block + codebooks + (2 + self.gain) * inputs + 1
        return first + self._stacked_numbers if stream == STACKED else first

    @property
    def _stacked_numbers(self) -> int:
        """Number of parameters of the second autoencoder. Its decoder has the layers of its encoder in reverse."""
        width, joined = self.stacked_width, self.stacked * self.stacked_width
        ends = (self.latent + self.stacked_latent) * (2 * width + 1) + 2 * width
        return (
            ends + joined * width + width + (width + 1) * joined + 4 * width + 4 * self.stacked_blocks * _block_numbers(width)
        )

    @property
    def stacked_reach(self) -> int:
        """Receptive field of the second encoder, and of the second decoder, to one side in frames of spectral.2."""
        return self.stacked_blocks - (-self.stacked_blocks // max(self.stacked, 1))

    @property
    def encoder_reach(self) -> int:
        """Receptive field of the encoder to one side, in frames of the codec."""
        return self.encoder_blocks - (-self.fine_blocks // self.stride)

    @property
    def decoder_reach(self) -> int:
        """Receptive field of the decoder to one side, in frames of the codec."""
        return sum(self.decoder_dilations) - (-self.fine_blocks // self.stride)

    def receptive_field(self, stream: str) -> int:
        further = (self.stacked_reach + 1) * self.stacked * self.hop if stream == STACKED else 0
        return further + (max(self.encoder_reach, self.decoder_reach) + 1) * self.hop + self.n_fft

    def decoder_state(self, stream: str) -> int:
        further = (2 * self.stacked_reach + 1) * self.stacked_latent if stream == STACKED else 0
        return further + (2 * self.decoder_reach + 1) * self.latent + self.channels * self.n_fft + 3 * self.frequencies

    def decoder_products(self, stream: str) -> float:
        # approximate: parameters per step, times the rate of the steps
        further = self._stacked_numbers / 2 / self.hop if stream == STACKED else 0.0
        coarse = self.latent * self.width + len(self.decoder_dilations) * self._block + self.stride * self.width**2
        fine = self.fine_blocks * self._block + self.width * self._heads
        transforms = 2 * (self.griffin_lim_rounds + 1) * self.channels * self.n_fft * self.n_fft.bit_length()
        return further + coarse / self.hop + (fine + transforms) / self.hop_fft


def _block_numbers(width: int) -> int:
    """Number of parameters of a residual block with `width` channels."""
    return (3 * width + 1) * width + (width + 1) * width + 2 * width
