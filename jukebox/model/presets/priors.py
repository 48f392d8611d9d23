"""Configurations of priors from a few parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from priors.autoregressive.config import AutoregressiveConfig
from priors.conditioning.config import FrameLyricConfig, LabelConfig, LyricConfig, UpsamplerConfig
from priors.conditioning.vocabulary import PLAIN, Characters
from priors.diffusion.config import DiffusionConfig
from priors.gan.config import GanConfig
from priors.masked.config import MaskedConfig
from priors.spec import PriorConfig
from priors.tokens.config import TokenConfig
from priors.transformer.config import Init, TrunkConfig, residual_scale
from priors.wavenet.config import StackConfig, WaveNetConfig
from vqvae.jukebox.config import VQVAEConfig
from vqvae.latent.config import LATENT, LatentConfig
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig
from vqvae.spectral.config import STACKED, TOKENS, SpectralConfig

ROPE = 300.0  # base of the rotary positions, small because windows have a few hundred frames


def initialisation(depth: int) -> Init:
    """Initialisation with large embeddings: 5.5 instead of 5.9 bits after a minute, and twice the effect of labels."""
    return Init(linear=0.03, embedding=0.3, position=0.1, label=0.3, residual=residual_scale(depth))


def lyric_encoder(tokens: int, width: int, depth: int, m_mlp: float) -> TrunkConfig:
    """Configure the trunk that encodes lyrics; MLPs have `m_mlp` times the width, here and in the prior."""
    return TrunkConfig(tokens, width, depth, heads=4, order=("full",), m_attn=1.0, m_mlp=m_mlp, init=initialisation(depth))


def top_prior(
    codec: VQVAEConfig, n_ctx: int, width: int, heads: int, order: tuple[str, ...], turns: int,
    encoder: TrunkConfig, timing_bins: int, max_seconds: float,
) -> AutoregressiveConfig:  # fmt: skip
    """Configure the prior of the coarsest level, whose layers repeat `order` `turns` times.

    Cross attention with a time bias conditions the prior on lyrics.
    """
    level, depth = codec.levels - 1, turns * len(order)
    return AutoregressiveConfig(
        f"vq.{level}", codec.bins, codec.hops[level], codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=initialisation(depth)),
        labels=LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=max_seconds, sample_rate=codec.sample_rate, everywhere=True),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder), tied=False,
    )  # fmt: skip


def upsampler_prior(
    codec: VQVAEConfig, level: int, n_ctx: int, width: int, heads: int, depth: int, m_mlp: float
) -> AutoregressiveConfig:
    """Configure the prior of a finer level, conditioned on labels and, through dilated convolutions, on the codes above."""
    ratio = codec.hops[level + 1] // codec.hops[level]
    return AutoregressiveConfig(
        f"vq.{level}", codec.bins, codec.hops[level], codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, m_attn=1.0, m_mlp=m_mlp, init=initialisation(depth)),
        labels=LabelConfig(1, 1, sample_rate=codec.sample_rate, everywhere=True),
        above=UpsamplerConfig(codec.bins, 1, ratio, width, depth=4, growth=3, cycle=None), reads=f"vq.{level + 1}", tied=False,
    )  # fmt: skip


def masked_prior(
    codec: VQVAEConfig, n_ctx: int, width: int, heads: int, depth: int, head_width: int, local: int,
    encoder: TrunkConfig, timing_bins: int, max_seconds: float,
) -> MaskedConfig:  # fmt: skip
    """Configure the masked prior of all levels. All layers have full attention, except that the second attends to lyrics."""
    order = ("full", "cross", *("full",) * (depth - 2))
    return MaskedConfig(
        codec.bins, codec.hops, codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=initialisation(depth)),
        vector=codec.emb_width, head_width=head_width, local=local,
        labels=LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=max_seconds, sample_rate=codec.sample_rate),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder),
    )  # fmt: skip


def masked_token_prior(
    codec: SpectralConfig, n_ctx: int, width: int, heads: int, depth: int, head_width: int, local: int, encoder: TrunkConfig,
    max_seconds: float,
) -> MaskedConfig:  # fmt: skip
    """Return the configuration of a masked prior of tokens. Its layers have the same kinds as those of `masked_prior`."""
    order = ("full", "cross", *("full",) * (depth - 2))
    return MaskedConfig(
        codec.bins, (codec.hop,), codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=initialisation(depth)),
        vector=codec.latent, head_width=head_width, local=local,
        labels=LabelConfig(1, 1, timing_bins=32, max_seconds=max_seconds, sample_rate=codec.sample_rate),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder), streams=(TOKENS,), books=codec.books,
    )  # fmt: skip


def token_prior(
    codec: SpectralConfig, n_ctx: int, width: int, depth: int, heads: int, max_seconds: float, dropout: float = 0.0,
    timing_bins: int = 256,
) -> TokenConfig:  # fmt: skip
    """Configure the autoregressive prior of the spectral codec's tokens."""
    trunk = TrunkConfig(
        n_ctx, width, depth, heads, m_attn=1.0, m_mlp=4.0, rope=ROPE, dropout=dropout, init=initialisation(depth)
    )
    labels = LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=max_seconds, sample_rate=codec.sample_rate)
    lyrics = FrameLyricConfig(Characters(PLAIN).size)
    return TokenConfig(
        TOKENS, codec.books, codec.bins, codec.hop, codec.sample_rate, trunk, codec.latent, labels=labels, lyrics=lyrics
    )


def wavenet_priors(
    codec: MuLawConfig, levels: VQVAEConfig, window: int, stack: StackConfig, max_seconds: float, controls: tuple[str, ...] = ()
) -> dict[str, PriorConfig]:
    """Configure two WaveNets of samples: one from conditions, and one as the decoder of the coarsest codes.

    The decoder has no timing condition, because the codes determine the time better.
    """
    above = levels.spec.streams[-1]
    labels = LabelConfig(1, 1, timing_bins=32, max_seconds=max_seconds, sample_rate=codec.sample_rate)
    first = WaveNetConfig(MULAW, BINS, 1, codec.sample_rate, window, SILENCE, stack, above.hop, labels, controls=controls)
    second = replace(first, controls=(), labels=replace(labels, timing_bins=0), reads=above.name, read_bins=levels.bins)
    return {"wavenet": first, "wavenet_codes": second}


def gan_prior(codec: SpectralConfig, **sizes: Any) -> GanConfig:
    """Configure the GAN of the latents of the spectral codec's second autoencoder."""
    labels = LabelConfig(1, 1, sample_rate=codec.sample_rate)
    return GanConfig(STACKED, codec.stacked_latent, codec.hop * codec.stacked, codec.sample_rate, labels=labels, **sizes)


def diffusion_prior(codec: SpectralConfig, latents: LatentConfig, **sizes: Any) -> DiffusionConfig:
    """Configure the diffusion prior of latents, which reads the tokens of the spectral codec."""
    return DiffusionConfig(
        LATENT, latents.latent, latents.hop, codec.sample_rate, TOKENS, codec.hop // latents.hop, codec.bins, codec.books, codec.latent,
        labels=LabelConfig(1, 1, sample_rate=codec.sample_rate), **sizes,
    )  # fmt: skip
