"""Shape and losses of the three-level VQ-VAE (Jukebox, section 3 and appendix B.1), without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from itertools import accumulate
from operator import mul
from typing import Any

from vqvae.streams import CodecConfig, CodecSpec, Stream

Resolution = tuple[int, int, int]  # n_fft, hop, window, in samples


def convolution(channels_in: int, channels_out: int, kernel: int) -> int:
    """Number of parameters of a convolution with bias. This is about the number of multiplications per output step."""
    return channels_in * channels_out * kernel + channels_out


def residual_stack(width: int, depth: int, m_conv: float = 1.0) -> int:
    """Number of parameters of a stack of residual blocks."""
    hidden = int(m_conv * width)
    return depth * (convolution(width, hidden, 3) + convolution(hidden, width, 1))


@dataclass(frozen=True)
class VQVAEConfig(CodecConfig):
    """Shape and losses of all levels. The defaults are those of the published 44.1 kHz model."""

    kind = "vqvae"
    sample_rate: int = 44100
    channels: int = 1
    # stage s divides the rate by strides_t[s] ** downs_t[s]; level l has stages 0..l
    downs_t: tuple[int, ...] = (3, 2, 2)
    strides_t: tuple[int, ...] = (2, 2, 2)
    emb_width: int = 64
    bins: int = 2048
    # number of channels and of residual blocks of a level: width and depth times the multiplier of the level, or the values in
    # `widths` and `depths`
    width: int = 32
    depth: int = 4
    multipliers: tuple[int, ...] = (2, 1, 1)
    widths: tuple[tuple[int, ...], ...] | None = None  # [level][stage]
    depths: tuple[int, ...] | None = None  # [level]
    m_conv: float = 1.0
    dilation_growth_rate: int = 3
    dilation_cycle: int | None = None
    reverse_decoder_dilation: bool = True
    flat_upsampling: bool = False  # True: no tones at multiples of the rates of codes and latents; published: False
    # "codebook" (published) or "argmax" (`argmax.py`); `diversity` is the weight of the diversity loss of "argmax"
    bottleneck: str = "codebook"
    diversity: float = 0.005
    mu: float = 0.99
    threshold: float = 1.0  # a code is dead if the moving average of its uses per global batch is below this
    reset_restarted: bool = True  # False: a restarted code keeps its old moving averages, as published
    # losses
    l1: float = 0.0
    l2: float = 1.0
    linf: float = 0.02
    linf_k: int = 2048
    spectral: float = 0.0
    multispectral: float = 1.0
    commit: float = 0.02
    spectral_stft: Resolution = (2048, 256, 1536)
    multispectral_stfts: tuple[Resolution, ...] = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))
    relative_spectral: bool = False  # True: divide spectral errors by (norm of the clip + 1), not by the norm of the corpus
    spectral_is_convergence: bool = False  # True: `spectral` is the convergence; published use_nonrelative_specloss=False
    relative_waveform: bool = False  # True: divide waveform errors by the level of the clip, not by the level of the corpus
    pre_emphasis: float = 0.0  # waveform errors compare x[t] - pre_emphasis * x[t - 1], which weighs treble more
    log_spectral: float = 0.0  # weight of the L1 distance of log magnitudes (nepers) at the resolutions of multispectral
    stereo: str = "mean"  # signals of a stereo clip that spectral losses compare: "mean" (published), "channels", "mid_side"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _as_tuple(getattr(self, field.name)))
        self._check()

    @property
    def levels(self) -> int:
        return len(self.downs_t)

    @property
    def hops(self) -> tuple[int, ...]:
        """Samples per code, for each level."""
        return tuple(accumulate((s**d for d, s in zip(self.downs_t, self.strides_t, strict=True)), mul))

    def level_widths(self, level: int) -> tuple[int, ...]:
        """Number of channels of each stage in the encoder and decoder of `level`."""
        return self.widths[level] if self.widths else (self.width * self.multipliers[level],) * (level + 1)

    def level_depth(self, level: int) -> int:
        """Number of residual blocks in each stack of `level`."""
        return self.depths[level] if self.depths else self.depth * self.multipliers[level]

    @property
    def spec(self) -> CodecSpec:
        streams = (Stream(f"vq.{level}", hop, bins=self.bins, rng_key=level) for level, hop in enumerate(self.hops))
        return CodecSpec(self.sample_rate, self.channels, tuple(streams))

    def level_of(self, stream: str) -> int:
        """Return the level of a stream (0 is the finest); raise ValueError if the stream does not exist."""
        return self.spec.names.index(self.spec.stream(stream).name)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> VQVAEConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"a VQ-VAE has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**data)

    # ---- tensors

    def tensors(self, stream: str, names: Collection[str]) -> list[str]:
        return [name for name in names if name.startswith(f"levels.{self.level_of(stream)}.")]

    def codes_tensors(self, stream: str, names: Collection[str]) -> list[str]:
        parts = ("encoder", "codebook")
        found = [name for name in self.tensors(stream, names) if name.split(".")[2] in parts]
        # the moving averages are used in training only
        return [name for name in found if not name.endswith((".k_sum", ".k_elem", ".initialised"))]

    # ---- sizes

    def parameter_count(self, stream: str) -> int:
        """Number of parameters of encoder, decoder and codebook, including the moving averages of the codebook."""
        level, emb = self.level_of(stream), self.emb_width
        depth, total = self.level_depth(level), self.bins * (2 * emb + 1) + convolution(emb, self.channels, 3)
        for stage, width in enumerate(self.level_widths(level)):
            down, kernel = self.downs_t[stage], 2 * self.strides_t[stage]
            first = emb if stage else self.channels
            total += 2 * down * residual_stack(width, depth, self.m_conv)
            total += convolution(first, width, kernel) + (down - 1) * convolution(width, width, kernel)
            total += convolution(width, emb, 3) + convolution(emb, width, 3)
            total += (down - 1) * convolution(width, width, kernel) + convolution(width, emb, kernel)
        return total

    def receptive_field(self, stream: str) -> int:
        """Sum of the dilations of the decoder in samples, which bounds the receptive field."""
        level, cycle = self.level_of(stream), self.dilation_cycle
        growth, depth = self.dilation_growth_rate, self.level_depth(level)
        dilations = sum(growth ** (i % cycle if cycle else i) for i in range(depth))
        reach, hop = 0, self.hops[level]
        for stage in reversed(range(level + 1)):
            for _ in range(self.downs_t[stage]):
                reach += dilations * hop
                hop //= self.strides_t[stage]
        return reach

    def decoder_state(self, stream: str) -> int:
        return self.receptive_field(stream) * self.emb_width

    def decoder_products(self, stream: str) -> float:
        level, products = self.level_of(stream), 0.0
        depth, hop = self.level_depth(level), self.hops[level]
        for stage in reversed(range(level + 1)):
            down, stride, width = self.downs_t[stage], self.strides_t[stage], self.level_widths(level)[stage]
            products += convolution(self.emb_width, width, 3) / hop
            for step in range(down):
                out = width if step < down - 1 else self.emb_width if stage else self.channels
                products += residual_stack(width, depth, self.m_conv) / hop
                products += convolution(width, out, 2 * stride) / hop
                hop //= stride
        return products

    def _check(self) -> None:
        n = self.levels
        for name in ("strides_t", "multipliers", "widths", "depths"):
            given = getattr(self, name)
            if given is not None and len(given) != n and not (name == "multipliers" and self.widths and self.depths):
                raise ValueError(f"{name} {given} is for {len(given)} levels, downs_t for {n}; give one entry a level")
        if self.widths and any(len(w) != level + 1 for level, w in enumerate(self.widths)):
            raise ValueError(f"widths {self.widths}: level l has l + 1 stages, give l + 1 widths")
        if any(d < 1 for d in self.downs_t):
            raise ValueError(f"downs_t {self.downs_t}: every stage halves the rate at least once; give numbers from 1")
        if any(s < 2 or s % 2 for s in self.strides_t):
            raise ValueError(
                f"strides_t {self.strides_t}: the output has the input's length only with even strides; give even numbers"
            )
        if not 0 <= self.pre_emphasis < 1:
            raise ValueError(f"pre_emphasis {self.pre_emphasis}: expected a number from 0 up to, but not including, 1")
        if self.bottleneck not in ("codebook", "argmax"):
            raise ValueError(f'bottleneck {self.bottleneck!r}: expected "codebook" or "argmax"')
        if self.stereo not in ("mean", "channels", "mid_side"):
            raise ValueError(f'stereo {self.stereo!r}: expected "mean", "channels" or "mid_side"')
        if self.stereo == "mid_side" and self.channels > 2:
            raise ValueError(f"mid and side are of two channels, not of {self.channels}; choose stereo='channels'")


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value
