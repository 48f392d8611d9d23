"""The VQ-VAE of Jukebox: three separate autoencoders from raw audio to raw audio, a codebook each.

Jukebox (arXiv:2005.00341, section 3). Notable:
- the levels share nothing. A nested hierarchy lets the top level fall silent; here each level carries the song alone;
- any set of levels can be built, trained, saved and used by itself, and only the levels asked for are computed;
- losses are summed over levels, not averaged, and everything that is logged has its level in its name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqvae.codec import Codec, CodecSpec, Sequences
from vqvae.jukebox.blocks import Decoder, Encoder
from vqvae.jukebox.losses import Bandwidth, ReconstructionLoss, Resolution
from vqvae.jukebox.quantize import Codebook


@dataclass(frozen=True)
class VQVAEConfig:
    """Shape and losses of all levels; the defaults are the published 44.1 kHz model."""

    sample_rate: int = 44100
    channels: int = 1
    # stage s divides the rate by strides_t[s] ** downs_t[s]; level l runs stages 0..l
    downs_t: tuple[int, ...] = (3, 2, 2)
    strides_t: tuple[int, ...] = (2, 2, 2)
    emb_width: int = 64
    bins: int = 2048
    # a level's channels and residual blocks: width and depth times its multiplier, or said outright
    width: int = 32
    depth: int = 4
    multipliers: tuple[int, ...] = (2, 1, 1)
    widths: tuple[tuple[int, ...], ...] | None = None  # [level][stage]
    depths: tuple[int, ...] | None = None  # [level]
    m_conv: float = 1.0
    dilation_growth_rate: int = 3
    dilation_cycle: int | None = None
    reverse_decoder_dilation: bool = True
    # codebook
    mu: float = 0.99
    threshold: float = 1.0  # moving use, in tokens of a global batch, below which a code is dead
    reset_restarted: bool = True  # False: as published, a restarted code keeps its stale sums
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
    relative_spectral: bool = False  # divide each clip's spectral error by (its own norm + 1), not by the corpus's
    spectral_is_convergence: bool = False  # published use_nonrelative_specloss=False: the `spectral` term alone changes
    stereo: str = "mean"  # what spectral losses hear of a stereo clip: "mean" (published), "channels", "mid_side"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _as_tuple(getattr(self, field.name)))
        self._check()

    @property
    def levels(self) -> int:
        return len(self.downs_t)

    @property
    def hops(self) -> tuple[int, ...]:
        """Samples a code of each level stands for."""
        return tuple(accumulate((s**d for d, s in zip(self.downs_t, self.strides_t, strict=True)), mul))

    def level_widths(self, level: int) -> tuple[int, ...]:
        """Channels of each stage of a level's encoder and decoder."""
        return self.widths[level] if self.widths else (self.width * self.multipliers[level],) * (level + 1)

    def level_depth(self, level: int) -> int:
        """Residual blocks of each stack of a level."""
        return self.depths[level] if self.depths else self.depth * self.multipliers[level]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` undoes it, lists and all."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VQVAEConfig:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a VQ-VAE has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**values)

    def _check(self) -> None:
        n = self.levels
        for name in ("strides_t", "multipliers", "widths", "depths"):
            given = getattr(self, name)
            if given is not None and len(given) != n and not (name == "multipliers" and self.widths and self.depths):
                raise ValueError(f"{name} {given} is for {len(given)} levels, downs_t for {n}; give one entry a level")
        if self.widths and any(len(w) != level + 1 for level, w in enumerate(self.widths)):
            raise ValueError(f"widths {self.widths}: level l has l + 1 stages, give l + 1 widths")
        if any(d < 1 for d in self.downs_t):
            raise ValueError(f"downs_t {self.downs_t}: every stage halves at least once, give numbers from 1")
        if any(s < 2 or s % 2 for s in self.strides_t):
            raise ValueError(f"strides_t {self.strides_t}: a length survives the round trip only with even strides")
        if self.stereo not in ("mean", "channels", "mid_side"):
            raise ValueError(f'stereo {self.stereo!r}: expected "mean", "channels" or "mid_side"')
        if self.stereo == "mid_side" and self.channels > 2:
            raise ValueError(f"mid and side are of two channels, not of {self.channels}; choose stereo='channels'")


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


class Autoencoder(nn.Module):
    """One level: audio to latents to codes to audio."""

    def __init__(self, config: VQVAEConfig, level: int) -> None:
        super().__init__()
        shape = (
            config.channels,
            config.emb_width,
            config.level_widths(level),
            config.downs_t[: level + 1],
            config.strides_t[: level + 1],
            config.level_depth(level),
        )
        stack = {"m_conv": config.m_conv, "growth": config.dilation_growth_rate, "cycle": config.dilation_cycle}
        self.hop = config.hops[level]
        self.encoder = Encoder(*shape, **stack)
        self.decoder = Decoder(*shape, **stack, reverse=config.reverse_decoder_dilation)
        self.codebook = Codebook(
            config.bins,
            config.emb_width,
            mu=config.mu,
            threshold=config.threshold,
            reset_restarted=config.reset_restarted,
        )


class VQVAE(Codec):
    """A codec of one autoencoder a level; `levels` builds only those, with the names they have in the whole."""

    def __init__(self, config: VQVAEConfig, levels: Collection[int] | None = None) -> None:
        super().__init__()
        chosen = sorted(set(range(config.levels) if levels is None else levels))
        if any(level not in range(config.levels) for level in chosen):
            raise ValueError(f"levels {chosen}: this codec has levels 0 to {config.levels - 1}")
        self.config = config
        self.spec = CodecSpec(config.sample_rate, config.channels, config.hops, config.bins, config.emb_width)
        self.levels = nn.ModuleDict({str(level): Autoencoder(config, level) for level in chosen})

    def level(self, level: int) -> Autoencoder:
        """The autoencoder of `level`; ValueError if it was not built."""
        if str(level) not in self.levels:
            raise ValueError(f"level {level} was not built; this codec holds levels {', '.join(self.levels) or 'none'}")
        module = self.levels[str(level)]
        assert isinstance(module, Autoencoder)
        return module

    @torch.no_grad()
    def encode(self, audio: Float[Tensor, "b c t"], levels: Collection[int]) -> Sequences:
        """Codes of `levels`, (b, t // hop) int64 each; samples after the last whole code are not heard."""
        audio = self.check_audio(audio)
        return {level: self._encode(audio, level) for level in levels}

    @torch.no_grad()
    def decode(self, sequences: Sequences, level: int) -> Float[Tensor, "b c t"]:
        """Audio (b, c, codes * hop) from the codes of `level` alone; not clipped to [-1, 1]."""
        autoencoder, codes = self.level(level), sequences[level]
        self.check_codes(codes)
        if not codes.numel():
            samples = codes.shape[1] * autoencoder.hop
            return torch.zeros(len(codes), self.config.channels, samples, device=codes.device)
        return autoencoder.decoder(autoencoder.codebook.decode(codes.long())).float()

    def loss(
        self,
        audio: Float[Tensor, "b c t"],
        *,
        generator: torch.Generator | None = None,
        quantise: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> dict[str, Tensor]:
        """Total loss under "loss" and all worth logging, detached, by name; in training mode the codebooks move.

        With `quantise` False the latents go straight to the decoder; the first call with True then finds latents worth
        choosing a codebook from. `generator` (on the CPU, seeded alike on all ranks) draws candidate codes.
        Raises FloatingPointError, naming term and level, if a term is not finite.
        """
        audio = self.check_audio(audio)
        hop = max(autoencoder.hop for autoencoder in self._autoencoders().values())
        if audio.shape[-1] < hop or audio.shape[-1] % hop or not len(audio):
            raise ValueError(
                f"a batch of shape {tuple(audio.shape)}: expected clips whose length is a multiple of {hop} samples"
            )
        with torch.autocast(audio.device.type, enabled=False):
            reconstruction = ReconstructionLoss(self.config, audio, bandwidth or Bandwidth())
        terms, logs = {}, {}
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
                of_level["commit_loss"] = (self.config.commit, commit)
            terms |= {f"{name}_l{level}": term for name, term in of_level.items()}
            logs |= {f"{name}_l{level}": value for name, value in metrics.items()}
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        if not torch.isfinite(loss):
            bad = [name for name, (_, value) in terms.items() if not torch.isfinite(value)] or ["their sum"]
            raise FloatingPointError(f"the loss is not finite: {', '.join(bad)}")
        logs |= {name: value for name, (_, value) in terms.items()}
        return {"loss": loss} | _with_summaries({name: value.detach() for name, value in logs.items()})

    def forward(self, audio: Float[Tensor, "b c t"], **options: Any) -> dict[str, Tensor]:
        """The loss, so that wrappers that split a batch over devices find it."""
        return self.loss(audio, **options)

    def _autoencoders(self) -> dict[int, Autoencoder]:
        return {int(name): self.level(int(name)) for name in self.levels}

    def _encode(self, audio: Float[Tensor, "b c t"], level: int) -> Tensor:
        autoencoder = self.level(level)
        if audio.shape[-1] < autoencoder.hop or not len(audio):
            length = audio.shape[-1] // autoencoder.hop
            return torch.zeros(len(audio), length, dtype=torch.long, device=audio.device)
        return autoencoder.codebook.encode(autoencoder.encoder(audio))

    def check_codes(self, codes: Tensor) -> Int[Tensor, "b t"]:
        """`codes`; ValueError unless they are whole numbers (b, t) below `bins`."""
        if codes.dim() != 2 or codes.is_floating_point():
            raise ValueError(f"codes are {tuple(codes.shape)} {codes.dtype}; expected whole numbers (batch, time)")
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.config.bins):
            raise ValueError(f"codes run from {codes.min()} to {codes.max()}; expected 0 to {self.config.bins - 1}")
        return codes

    def check_audio(self, audio: Tensor) -> Float[Tensor, "b c t"]:
        """`audio` as float32; ValueError unless it is floats (b, channels, t)."""
        if audio.dim() != 3 or audio.shape[1] != self.config.channels:
            raise ValueError(
                f"audio of shape {tuple(audio.shape)}: expected (batch, {self.config.channels} channels, samples)"
            )
        if not audio.is_floating_point():
            raise ValueError(f"audio of {audio.dtype}: expected floats in [-1, 1]; divide whole numbers by their range")
        return audio.float()


SUMMED = ("recons_loss", "spectral_loss", "multispectral_loss", "commit_loss")


def _with_summaries(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every name_l{level} and, under the bare name, the mean over levels; for terms of the loss their sum."""
    groups: dict[str, list[Tensor]] = {}
    for name, value in logs.items():
        groups.setdefault(name.rpartition("_l")[0], []).append(value)
    whole = {name: torch.stack(vs).sum() if name in SUMMED else torch.stack(vs).mean() for name, vs in groups.items()}
    return logs | whole
