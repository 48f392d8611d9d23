"""Shape and losses of the spectral codec, without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from vqvae.streams import CodecConfig, CodecSpec, Stream

TOKENS, LATENTS = "tokens", "spectral"
PHASES = ("learned", "griffin_lim")


@dataclass(frozen=True)
class SpectralConfig(CodecConfig):
    """A codec of spectrogram magnitudes; the defaults suit 22.05 kHz: 21.5 frames per second, 775 bits per second."""

    kind = "spectral"
    sample_rate: int = 22050
    channels: int = 1
    # spectrogram
    n_fft: int = 512
    hop_fft: int = 128
    floor: float = 0.1  # added to magnitudes before the logarithm: below it nothing is coded
    # network
    stride: int = 8  # frames of the spectrogram per frame of the codec
    width: int = 256
    latent: int = 64
    fine_blocks: int = 1  # at the rate of the spectrogram, in the encoder and in the decoder
    encoder_blocks: int = 2
    decoder_dilations: tuple[int, ...] = (1, 1, 2)
    # quantiser
    books: int = 4
    bins: int = 512
    mu: float = 0.97
    threshold: float = 0.03  # share of its mean use below which a code is dead
    all_books: float = 0.75  # share of training clips that are decoded from all books
    unquantised: float = 0.1  # share of training clips that are decoded from the latents themselves; of others, from some books
    # losses, beside that of the magnitudes
    commit: float = 0.25
    mel: float = 0.5
    slope: float = 1.0  # of differences over time and frequency
    phase: float = 1.0
    phase_frames: int = 96  # frames of a clip whose phases are learned in a step
    # decoding
    gain: bool = False  # a gain per bin, fitted after training: an L1 loss returns the median, which has less energy
    phases: str = "learned"
    chance: float = 2.0  # weight of random phases where the learned derivatives are not sure
    rounds: int = 1  # of Griffin-Lim after learned phases
    peak_rounds: int = 32  # of Griffin-Lim after phases from peaks

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoder_dilations", tuple(self.decoder_dilations))
        if self.n_fft % 2 or self.n_fft < 2 * self.hop_fft or self.hop_fft % 2:
            raise ValueError(
                f"n_fft {self.n_fft}, hop {self.hop_fft}: expected even numbers, and a hop of at most half of n_fft"
            )
        if self.phases not in PHASES:
            raise ValueError(f"phases {self.phases!r}; expected one of {', '.join(PHASES)}")

    @property
    def frequencies(self) -> int:
        """Bins of a frame of the spectrogram."""
        return self.n_fft // 2 + 1

    @property
    def hop(self) -> int:
        """Samples per frame of the codec."""
        return self.stride * self.hop_fft

    @property
    def griffin_lim_rounds(self) -> int:
        """Rounds after phases of the configured kind."""
        return self.rounds if self.phases == "learned" else self.peak_rounds

    @property
    def spec(self) -> CodecSpec:
        tokens = Stream(TOKENS, self.hop, books=self.books, bins=self.bins)
        return CodecSpec(
            self.sample_rate, self.channels, (Stream(LATENTS, self.hop, width=self.latent, dtype="float16"), tokens)
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpectralConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"a spectral codec has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**data)

    # ---- tensors: both streams share encoder and decoder

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        parts = ("encoder.", "features.") + (("quantiser.",) if stream == TOKENS else ())
        found = [name for name in names if name.startswith(parts)]
        return [name for name in found if not name.endswith((".k_sum", ".k_elem", ".initialised"))]  # of training alone

    # ---- sizes

    @property
    def _block(self) -> int:
        """Numbers of a residual block."""
        return (3 * self.width + 1) * self.width + (self.width + 1) * self.width + 2 * self.width

    @property
    def _heads(self) -> int:
        """Numbers that the decoder predicts per frame of the spectrogram: magnitudes, and two unit vectors per bin."""
        return (self.channels + 4) * self.frequencies

    def parameter_count(self, stream: str) -> int:
        width, inputs = self.width, self.channels * self.frequencies
        encoder = (inputs + 1) * width + (self.stride * width + 1) * width + 2 * width + (width + 1) * self.latent
        decoder = (self.latent + 1) * width + (width + 1) * self.stride * width + 2 * width + (width + 1) * self._heads
        blocks = 2 * self.fine_blocks + self.encoder_blocks + len(self.decoder_dilations)
        codebooks = self.books * (self.bins * (2 * self.latent + 1) + 1)
        return encoder + decoder + blocks * self._block + codebooks + (2 + self.gain) * inputs + 1

    @property
    def encoder_reach(self) -> int:
        """Frames of the codec on each side that a frame's values depend on."""
        return self.encoder_blocks - (-self.fine_blocks // self.stride)

    @property
    def decoder_reach(self) -> int:
        """Frames of the codec on each side that a decoded frame depends on."""
        return sum(self.decoder_dilations) - (-self.fine_blocks // self.stride)

    def receptive_field(self, stream: str) -> int:
        return (max(self.encoder_reach, self.decoder_reach) + 1) * self.hop + self.n_fft

    def decoder_state(self, stream: str) -> int:
        return (2 * self.decoder_reach + 1) * self.latent + self.channels * self.n_fft + 3 * self.frequencies

    def decoder_products(self, stream: str) -> float:
        coarse = self.latent * self.width + len(self.decoder_dilations) * self._block + self.stride * self.width**2
        fine = self.fine_blocks * self._block + self.width * self._heads
        transforms = 2 * (self.griffin_lim_rounds + 1) * self.channels * self.n_fft * self.n_fft.bit_length()
        return coarse / self.hop + (fine + transforms) / self.hop_fft
