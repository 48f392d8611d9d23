"""Presets: a table of models (codecs and named priors) with the training recipe of each part (`Recipe`).

    demo    22.05 kHz, widths up to 256, both codecs: the whole path in minutes on two CPU cores
    recordings_levels    demo with a three-level codec for recordings: no tones of the upsampling, quiet passages, silence
    small   22.05 kHz, windows of 12 s at the coarsest level: a start for the user's corpus and one GPU
    spectral    22.05 kHz, only the spectral codec and its prior, for one GPU
    recordings    22.05 kHz, the spectral codec and its prior for all kinds of recordings, an hour on two CPU cores
    recordings_44k    recordings at 44.1 kHz in stereo
    recordings_small, recordings_large    recordings with a smaller or larger prior, for half or eight times the time
    musika    22.05 kHz, the spectral codec with a second autoencoder, its latent GAN and its prior of tokens, for two CPU cores
    shipped    22.05 kHz, the spectral codec and its prior, small enough for the package
    melody    22.05 kHz, the spectral codec with its prior of tokens, and a diffusion prior of latents conditioned on the
              tokens, for two CPU cores
    wavenet    22.05 kHz, the demo's levels, and two WaveNets of samples: one from conditions, one as the decoder of the
               coarsest codes; for one GPU
    nsynth    22.05 kHz, the NSynth autoencoder (a latent of 16 floats per 512 samples) with its WaveNet decoder, and a
              WaveNet from conditions
    nsynth_small    nsynth for two CPU cores
    test, test_spectral, test_44k, test_both, test_wavenet, test_nsynth, test_musika, test_melody    minimal sizes for tests
    vqvae, small_vqvae    the published codecs, 44.1 kHz with three levels and 22.05 kHz with two; no priors

`shapes` also accepts the published sets 5b, 5b_lyrics and 1b_lyrics, which are imported and not trained here.
`PriorConfig.for_corpus` sets the sizes that depend on the corpus (numbers of artists and genres).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from jukebox.model.info import CONFIG, ModelInfo
from jukebox.model.recipe import PhaseRecipe, Recipe
from jukebox.model.routes import Routes, derive_routes
from jukebox.model.settings import PRIORS, SETS, VQVAES, prior_config, vqvae_config
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
from vqvae.nsynth.config import EMBEDDING, NSynthConfig
from vqvae.registry import Registry
from vqvae.spectral.config import STACKED, TOKENS, SpectralConfig
from vqvae.streams import CodecConfig


@dataclass(frozen=True)
class Preset:
    """Codecs and named priors of a model, with the training recipe of each stream and each prior.

    `codec` is the first codec of the model, and `more_codecs` are its further codecs. `symbols` are the characters of the
    lyric vocabulary.
    """

    codec: CodecConfig
    codec_recipes: Mapping[str, Recipe]  # stream -> recipe
    priors: Mapping[str, PriorConfig]
    prior_recipes: Mapping[str, Recipe]
    symbols: str = PLAIN
    more_codecs: tuple[CodecConfig, ...] = ()
    more_recipes: Mapping[str, Mapping[str, Recipe]] = field(default_factory=dict)  # of other tasks: kind -> part -> recipe

    @property
    def codecs(self) -> tuple[CodecConfig, ...]:
        return (self.codec, *self.more_codecs)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams of all codecs, in the order of levels."""
        return tuple(name for codec in self.codecs for name in codec.spec.names)

    @property
    def routes(self) -> Routes:
        """The routes that the priors of the preset form."""
        return derive_routes([codec.spec.streams for codec in self.codecs], self.priors)

    def parts(self, kind: str) -> dict[str, Recipe]:
        """Return the recipe of each trainable part of a kind of codec, prior or task; the coarsest part is first."""
        if kind in self.more_recipes:
            return dict(self.more_recipes[kind])
        for codec in self.codecs:
            if codec.kind == kind:
                names = [stream for stream in reversed(codec.spec.names) if stream in self.codec_recipes]
                return {stream: self.codec_recipes[stream] for stream in names}
        names = [name for name, config in self.priors.items() if config.kind == kind]
        return {name: self.prior_recipes[name] for name in names}

    def with_bottleneck(self, bottleneck: str) -> Preset:
        """Return the preset with this bottleneck in each codec that has the setting `bottleneck`."""
        first, *more = [replace(c, bottleneck=bottleneck) if hasattr(c, "bottleneck") else c for c in self.codecs]  # type: ignore[call-arg]
        return replace(self, codec=first, more_codecs=tuple(more))

    def level_of(self, part: str) -> int:
        """The level of a stream, or of the coarsest stream that a prior writes."""
        config = self.priors.get(part)
        return self.streams.index(config.spec.writes[-1] if config else part)


def find(name: str) -> Preset:
    """Return the preset `name` of this or another package (entry points `jukebox.presets`); UserError lists all presets."""
    if name in PRESETS:
        return PRESETS[name]
    try:
        return OTHERS.load(name)
    except ValueError:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join([*PRESETS, *OTHERS.kinds()])}") from None


def shapes(name: str) -> tuple[tuple[CodecConfig, ...], Mapping[str, PriorConfig]]:
    """Return the codecs and the named priors of a preset or a published set; UserError lists the existing names."""
    if name not in SETS:
        if name not in (known := [*PRESETS, *OTHERS.kinds()]):
            raise UserError(f"there is no preset or published set {name!r}; choose one of {', '.join([*known, *SETS])}")
        return find(name).codecs, find(name).priors
    parts = {2: SETS[name][1], 1: "upsampler_level_1", 0: "upsampler_level_0"}
    codec = VQVAES["vqvae"]
    return (vqvae_config(codec),), {f"prior_{level}": prior_config(PRIORS[part], codec) for level, part in parts.items()}


def read_info(model: str) -> ModelInfo:
    """Return the info of a model folder, a preset or a published set; raise UserError for other names."""
    if (Path(model) / CONFIG).is_file():
        return ModelInfo.read(model)
    if Path(model).is_dir() and model not in (*PRESETS, *OTHERS.kinds(), *SETS):
        raise UserError(f"{model} holds no {CONFIG}; expected a model folder, or the name of a preset or published set")
    return ModelInfo.of_shapes(*shapes(model))


# ---- priors, from a few parameters


ROPE = 300.0  # base of the rotary positions, small because windows have a few hundred frames


def _init(depth: int) -> Init:
    """Initialisation with large embeddings: 5.5 instead of 5.9 bits after a minute, and twice the effect of labels."""
    return Init(linear=0.03, embedding=0.3, position=0.1, label=0.3, residual=residual_scale(depth))


def _lyric_encoder(tokens: int, width: int, depth: int, m_mlp: float) -> TrunkConfig:
    """Configure the trunk that encodes lyrics; MLPs have `m_mlp` times the width, here and in the prior."""
    return TrunkConfig(tokens, width, depth, heads=4, order=("full",), m_attn=1.0, m_mlp=m_mlp, init=_init(depth))


def _top(
    codec: VQVAEConfig, n_ctx: int, width: int, heads: int, order: tuple[str, ...], turns: int,
    encoder: TrunkConfig, timing_bins: int, max_seconds: float,
) -> AutoregressiveConfig:  # fmt: skip
    """Configure the prior of the coarsest level, whose layers repeat `order` `turns` times.

    Cross attention with a time bias conditions the prior on lyrics.
    """
    level, depth = codec.levels - 1, turns * len(order)
    return AutoregressiveConfig(
        f"vq.{level}", codec.bins, codec.hops[level], codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=_init(depth)),
        labels=LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=max_seconds, sample_rate=codec.sample_rate, everywhere=True),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder), tied=False,
    )  # fmt: skip


def _upsampler(
    codec: VQVAEConfig, level: int, n_ctx: int, width: int, heads: int, depth: int, m_mlp: float
) -> AutoregressiveConfig:
    """Configure the prior of a finer level, conditioned on labels and, through dilated convolutions, on the codes above."""
    ratio = codec.hops[level + 1] // codec.hops[level]
    return AutoregressiveConfig(
        f"vq.{level}", codec.bins, codec.hops[level], codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, m_attn=1.0, m_mlp=m_mlp, init=_init(depth)),
        labels=LabelConfig(1, 1, sample_rate=codec.sample_rate, everywhere=True),
        above=UpsamplerConfig(codec.bins, 1, ratio, width, depth=4, growth=3, cycle=None), reads=f"vq.{level + 1}", tied=False,
    )  # fmt: skip


def _masked(
    codec: VQVAEConfig, n_ctx: int, width: int, heads: int, depth: int, head_width: int, local: int,
    encoder: TrunkConfig, timing_bins: int, max_seconds: float,
) -> MaskedConfig:  # fmt: skip
    """Configure the masked prior of all levels. All layers have full attention, except that the second attends to lyrics."""
    order = ("full", "cross", *("full",) * (depth - 2))
    return MaskedConfig(
        codec.bins, codec.hops, codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=_init(depth)),
        vector=codec.emb_width, head_width=head_width, local=local,
        labels=LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=max_seconds, sample_rate=codec.sample_rate),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder),
    )  # fmt: skip


def _masked_tokens(
    codec: SpectralConfig, n_ctx: int, width: int, heads: int, depth: int, head_width: int, local: int, encoder: TrunkConfig,
    max_seconds: float,
) -> MaskedConfig:  # fmt: skip
    """Return the configuration of a masked prior of tokens. Its layers have the same kinds as those of `_masked`."""
    order = ("full", "cross", *("full",) * (depth - 2))
    return MaskedConfig(
        codec.bins, (codec.hop,), codec.sample_rate,
        TrunkConfig(n_ctx, width, depth, heads, order, m_attn=1.0, m_mlp=encoder.m_mlp, time_bias=True, init=_init(depth)),
        vector=codec.latent, head_width=head_width, local=local,
        labels=LabelConfig(1, 1, timing_bins=32, max_seconds=max_seconds, sample_rate=codec.sample_rate),
        lyrics=LyricConfig(Characters(PLAIN).size, encoder.n_ctx, encoder), streams=(TOKENS,), books=codec.books,
    )  # fmt: skip


def _tokens(
    codec: SpectralConfig, n_ctx: int, width: int, depth: int, heads: int, max_seconds: float, dropout: float = 0.0
) -> TokenConfig:  # fmt: skip
    """Configure the autoregressive prior of the spectral codec's tokens."""
    trunk = TrunkConfig(n_ctx, width, depth, heads, m_attn=1.0, m_mlp=4.0, rope=ROPE, dropout=dropout, init=_init(depth))
    labels = LabelConfig(1, 1, timing_bins=256, max_seconds=max_seconds, sample_rate=codec.sample_rate)
    lyrics = FrameLyricConfig(Characters(PLAIN).size)
    return TokenConfig(
        TOKENS, codec.books, codec.bins, codec.hop, codec.sample_rate, trunk, codec.latent, labels=labels, lyrics=lyrics
    )


def _wavenets(
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


def _nsynth(
    codec: NSynthConfig, window: int, stack: StackConfig, recipe: Recipe, prior: Recipe, timing_bins: int = 0
) -> Preset:
    """Configure an NSynth preset: an encoder and its WaveNet decoder, and a WaveNet that reads conditions but no latents.

    The encoder and the decoder are trained together.
    """
    decoder = WaveNetConfig(
        MULAW, BINS, 1, codec.sample_rate, window, SILENCE, stack, codec.hop, reads=EMBEDDING, read_width=codec.latent
    )
    labels = LabelConfig(1, 1, timing_bins=timing_bins, max_seconds=600.0, sample_rate=codec.sample_rate)
    alone = replace(decoder, labels=labels, reads="", read_width=0)
    return Preset(
        MuLawConfig(codec.sample_rate), {EMBEDDING: replace(recipe, crop=window)}, {"wavenet": alone, "nsynth_decoder": decoder},
        dict.fromkeys(("wavenet", "nsynth_decoder"), prior), more_codecs=(codec,),
    )  # fmt: skip


def _gan(codec: SpectralConfig, **sizes: Any) -> GanConfig:
    """Configure the GAN of the latents of the spectral codec's second autoencoder."""
    labels = LabelConfig(1, 1, sample_rate=codec.sample_rate)
    return GanConfig(STACKED, codec.stacked_latent, codec.hop * codec.stacked, codec.sample_rate, labels=labels, **sizes)


def _diffusion(codec: SpectralConfig, latents: LatentConfig, **sizes: Any) -> DiffusionConfig:
    """Configure the diffusion prior of latents, which reads the tokens of the spectral codec."""
    return DiffusionConfig(
        LATENT, latents.latent, latents.hop, codec.sample_rate, TOKENS, codec.hop // latents.hop, codec.bins, codec.books, codec.latent,
        labels=LabelConfig(1, 1, sample_rate=codec.sample_rate), **sizes,
    )  # fmt: skip


# ---- demo: two cores, twelve minutes

_DEMO = VQVAEConfig(
    sample_rate=22050, downs_t=(1, 1, 1), strides_t=(8, 4, 4),  # one strided convolution per stage: 3 times faster
    emb_width=64, bins=256,
    widths=((32,), (32, 96), (16, 64, 192)), depths=(3, 3, 3),  # stages at lower rates are wider
    mu=0.99, threshold=0.3, reset_restarted=True,
    linf=0.0, commit=0.02, relative_spectral=True,
    multispectral_stfts=((1024, 256, 1024), (512, 128, 512), (256, 64, 256)), spectral_stft=(1024, 256, 1024),
)  # fmt: skip
# Short crops, small batches and many steps: wider networks and longer crops were worse after the same time.
_DEMO_CODEC = Recipe(
    steps=2600, batch=16, lr=2e-3, crop=2048, betas=(0.9, 0.99), warmup=50, schedule="linear", decay_from=0.6,
    bf16=True, delay_quantiser=0.15, log_every=50, max_minutes=3.0,
)  # fmt: skip
_DEMO_PRIOR = Recipe(
    steps=1100, batch=4, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup=60, bf16=True,
    drop_labels=0.05, drop_lyrics=0.1, jitter_seconds=0.03, log_every=20, save_every=200, max_minutes=3.7,
)  # fmt: skip

# Settings for recordings, from `jukebox ablate treble`. Passages at -20 dB gain 4 dB of SNR, and loud passages lose 1.6 dB.
FOR_RECORDINGS: Mapping[str, Any] = {"flat_upsampling": True, "relative_waveform": True}
RECORDINGS_GAIN_DB = 30.0

_DEMO_SPECTRAL = SpectralConfig()
_DEMO_SPECTRAL_CODEC = Recipe(
    steps=1100, batch=8, lr=1.5e-3, muon=2e-3, crop=48 * 1024, weight_decay=0.01, warmup=20, schedule="cosine",
    final_lr=0.02, bf16=True, delay_quantiser=0.25, log_every=50, save_every=400, max_minutes=3.8,
)  # fmt: skip
_DEMO_TOKENS = Recipe(
    steps=600, batch=6, lr=2e-3, muon=4e-3, weight_decay=0.02, warmup=40, final_lr=0.0, bf16=True,
    song_starts=0.5, drop_labels=0.05, drop_lyrics=0.1, log_every=20, save_every=200, max_minutes=4.3,
)  # fmt: skip

# ---- small: one GPU

_SMALL = VQVAEConfig(
    sample_rate=22050, downs_t=(1, 1, 1), strides_t=(8, 4, 4), emb_width=64, bins=1024,
    widths=((64,), (64, 128), (32, 128, 384)), depths=(4, 4, 4), mu=0.99, threshold=0.3, commit=0.02, relative_spectral=True,
    multispectral_stfts=((2048, 256, 2048), (1024, 128, 1024), (512, 64, 512)), spectral_stft=(2048, 256, 2048),
)  # fmt: skip
_SMALL_CODEC = Recipe(
    steps=200_000, batch=32, lr=3e-4, crop=8192, betas=(0.9, 0.99), warmup=500, schedule="linear", decay_from=0.6,
    bf16=True, delay_quantiser=0.02, log_every=100, save_every=2000,
)  # fmt: skip
_SMALL_PRIOR = Recipe(
    steps=200_000, batch=16, lr=3e-4, weight_decay=0.01, warmup=2000, bf16=True,
    drop_labels=0.05, drop_lyrics=0.1, drop_times=0.05, jitter_seconds=0.03, log_every=50, save_every=1000,
)  # fmt: skip

# ---- the published codecs, which were trained with the batches of a whole node

_PUBLISHED_CODEC = Recipe(
    steps=400_000, batch=16, lr=3e-4, crop=65_536, betas=(0.9, 0.999), warmup=100, schedule="constant", ema=0.999,
    log_every=100, save_every=2000,
)  # fmt: skip

# ---- test: seconds

_TEST = VQVAEConfig(
    sample_rate=22050, downs_t=(1, 1, 1), strides_t=(8, 4, 4), emb_width=8, bins=32,
    widths=((8,), (8, 8), (8, 8, 8)), depths=(1, 1, 1), threshold=0.3, linf=0.0, relative_spectral=True,
    multispectral_stfts=((256, 64, 256),), spectral_stft=(256, 64, 256),
)  # fmt: skip
_TEST_CODEC = Recipe(
    steps=30, batch=4, lr=3e-3, crop=1024, warmup=5, schedule="linear", decay_from=0.6, delay_quantiser=0.2,
    log_every=1, save_every=10,
)  # fmt: skip
_TEST_PRIOR = Recipe(
    steps=30, batch=4, lr=5e-3, warmup=5, drop_labels=0.05, drop_lyrics=0.1, jitter_seconds=0.03, log_every=1, save_every=10
)

# A step of the discriminators costs twice a step of the decoder: the discriminators are trained in every second step.
_DEMO_DECODER = Recipe(
    steps=1000, batch=8, lr=3e-4, crop=16 * 1024, betas=(0.8, 0.95), warmup=20, final_lr=0.05, bf16=True, log_every=50,
    save_every=400, max_minutes=4.0,
    phases={"decoder": PhaseRecipe(), "discriminator": PhaseRecipe(every=2, betas=(0.5, 0.9), skip_above=0.0)},
)  # fmt: skip

# The second autoencoder is trained in the phases of the decoder, but from initial weights.
_STACKED_PHASES = {"stacked": _DEMO_DECODER.phases["decoder"], "discriminator": _DEMO_DECODER.phases["discriminator"]}
_DEMO_STACKED = replace(_DEMO_DECODER, steps=1000, lr=1e-3, phases=_STACKED_PHASES)

_TEST_SPECTRAL = SpectralConfig(
    n_fft=256, hop_fft=64, stride=4, floor=0.2, width=16, latent=8, encoder_blocks=1, decoder_dilations=(1,), books=2, bins=32,
    phase_frames=16,
)  # fmt: skip

# ---- spectral: one GPU

_SPECTRAL = SpectralConfig(
    width=512, books=8, bins=1024, encoder_blocks=4, decoder_dilations=(1, 2, 4, 1), fine_blocks=2, floor=0.03
)
_SPECTRAL_CODEC = Recipe(
    steps=100_000, batch=32, lr=1e-3, muon=1e-3, crop=96 * 1024, weight_decay=0.01, warmup=200, schedule="cosine",
    final_lr=0.02, bf16=True, delay_quantiser=0.1, log_every=100, save_every=2000,
)  # fmt: skip

# ---- recordings: two cores, an hour

# The floor is low, because in real music 41 % of the bins from 2 to 5 kHz lie below .2.
# Quantisation starts late, because with an early start the latents collapse to two or three dimensions.
_RECORDINGS = SpectralConfig(books=8, floor=0.03, gain=True, n_fft=2048, hop_fft=512, stride=2)
_RECORDINGS_CODEC = replace(_DEMO_SPECTRAL_CODEC, steps=4500, delay_quantiser=0.4, max_minutes=18.0)
_RECORDINGS_TOKENS = replace(_DEMO_TOKENS, steps=2600, song_starts=0.1, drop_labels=0.1, max_minutes=34.0)


def _recordings(codec: SpectralConfig, width: int, depth: int, times: float = 1.0) -> Preset:
    """Configure a preset for recordings with a prior of this width and depth; `times` multiplies steps and minutes."""
    crop = _DEMO_SPECTRAL_CODEC.crop // _DEMO_SPECTRAL.hop * codec.hop
    first, second = (
        replace(recipe, steps=round(recipe.steps * times), max_minutes=recipe.max_minutes * times)
        for recipe in (replace(_RECORDINGS_CODEC, crop=crop), _RECORDINGS_TOKENS)
    )
    prior, decoder = _tokens(codec, 430, width, depth, heads=4, max_seconds=600.0), replace(_DEMO_DECODER, crop=crop // 3)
    return Preset(codec, {TOKENS: first}, {TOKENS: prior}, {TOKENS: second}, more_recipes={"decoder": {TOKENS: decoder}})


# ---- shipped: 12 MB in float16

_SHIPPED = SpectralConfig(width=208)

PRESETS: dict[str, Preset] = {
    "demo": Preset(
        codec=_DEMO,
        priors={
            "prior_2": _top(_DEMO, n_ctx=512, width=128, heads=4, order=("dense", "cross", "dense", "dense"), turns=1,
                    encoder=_lyric_encoder(tokens=64, width=128, depth=1, m_mlp=4.0), timing_bins=32, max_seconds=60.0),
            "prior_1": _upsampler(_DEMO, 1, n_ctx=256, width=96, heads=4, depth=2, m_mlp=4.0),
            "prior_0": _upsampler(_DEMO, 0, n_ctx=256, width=96, heads=4, depth=2, m_mlp=4.0),
            "masked": _masked(_DEMO, n_ctx=128, width=128, heads=4, depth=4, head_width=64, local=3,
                       encoder=_lyric_encoder(tokens=32, width=128, depth=1, m_mlp=4.0), timing_bins=32, max_seconds=60.0),
            "tokens": _tokens(_DEMO_SPECTRAL, n_ctx=430, width=192, depth=4, heads=4, max_seconds=100.0),
            "masked_tokens": _masked_tokens(_DEMO_SPECTRAL, n_ctx=128, width=128, heads=4, depth=4, head_width=64, local=2,
                       encoder=_lyric_encoder(tokens=64, width=128, depth=1, m_mlp=4.0), max_seconds=100.0),
        },
        more_codecs=(_DEMO_SPECTRAL,),
        codec_recipes={
            "vq.2": _DEMO_CODEC,
            "vq.1": replace(_DEMO_CODEC, steps=2300, batch=8, max_minutes=1.7),
            "vq.0": replace(_DEMO_CODEC, steps=3000, batch=8, crop=1536, bf16=False, max_minutes=1.3),
            TOKENS: _DEMO_SPECTRAL_CODEC,
        },
        more_recipes={"decoder": {TOKENS: _DEMO_DECODER}},
        prior_recipes={
            "prior_2": _DEMO_PRIOR,
            "prior_1": replace(_DEMO_PRIOR, steps=1300, batch=8, lr=5e-3, max_minutes=1.85),
            "prior_0": replace(_DEMO_PRIOR, steps=1300, batch=8, lr=5e-3, max_minutes=1.85),
            "masked": replace(_DEMO_PRIOR, steps=2400, batch=2, lr=4e-3, max_minutes=6.0),
            "tokens": _DEMO_TOKENS,
            "masked_tokens": replace(_DEMO_PRIOR, steps=1400, batch=4, lr=4e-3, max_minutes=4.5),
        },
    ),
    "small": Preset(
        codec=_SMALL,
        priors={
            "prior_2": _top(_SMALL, n_ctx=2048, width=768, heads=12, order=("dense", "dense", "cross", "dense"), turns=6,
                    encoder=_lyric_encoder(tokens=256, width=384, depth=4, m_mlp=4.0), timing_bins=128, max_seconds=600.0),
            "prior_1": _upsampler(_SMALL, 1, n_ctx=2048, width=512, heads=8, depth=12, m_mlp=4.0),
            "prior_0": _upsampler(_SMALL, 0, n_ctx=2048, width=512, heads=8, depth=12, m_mlp=4.0),
            "masked": _masked(_SMALL, n_ctx=512, width=512, heads=8, depth=12, head_width=256, local=4,
                       encoder=_lyric_encoder(tokens=128, width=384, depth=4, m_mlp=4.0), timing_bins=128, max_seconds=600.0),
        },
        codec_recipes=dict.fromkeys(_SMALL.spec.names, _SMALL_CODEC),
        prior_recipes=dict.fromkeys(("prior_2", "prior_1", "prior_0", "masked"), _SMALL_PRIOR),
    ),
    "test": Preset(
        codec=_TEST,
        priors={
            "prior_2": _top(_TEST, n_ctx=32, width=16, heads=2, order=("dense", "cross"), turns=1,
                    encoder=_lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), timing_bins=8, max_seconds=60.0),
            "prior_1": _upsampler(_TEST, 1, n_ctx=32, width=16, heads=2, depth=1, m_mlp=2.0),
            "prior_0": _upsampler(_TEST, 0, n_ctx=32, width=16, heads=2, depth=1, m_mlp=2.0),
            "masked": _masked(_TEST, n_ctx=32, width=16, heads=2, depth=2, head_width=16, local=1,
                       encoder=_lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), timing_bins=8, max_seconds=60.0),
        },
        codec_recipes=dict.fromkeys(_TEST.spec.names, _TEST_CODEC),
        prior_recipes=dict.fromkeys(("prior_2", "prior_1", "prior_0", "masked"), _TEST_PRIOR),
    ),
    "spectral": Preset(
        codec=_SPECTRAL,
        codec_recipes={TOKENS: _SPECTRAL_CODEC},
        more_recipes={"decoder": {TOKENS: replace(_DEMO_DECODER, steps=50_000, batch=32, lr=1e-4, crop=48 * 1024, max_minutes=0.0)}},
        priors={TOKENS: _tokens(_SPECTRAL, n_ctx=512, width=768, depth=12, heads=12, max_seconds=600.0, dropout=0.05)},
        prior_recipes={TOKENS: replace(_SMALL_PRIOR, steps=100_000, lr=1e-3, muon=2e-3, final_lr=0.0, song_starts=0.1)},
    ),
    "test_spectral": Preset(
        codec=_TEST_SPECTRAL,
        codec_recipes={TOKENS: replace(_TEST_CODEC, crop=4096)},
        more_recipes={"decoder": {TOKENS: replace(_TEST_CODEC, crop=4096, phases=_DEMO_DECODER.phases)}},
        priors={
            TOKENS: _tokens(_TEST_SPECTRAL, n_ctx=32, width=16, depth=1, heads=2, max_seconds=60.0),
            "masked_tokens": _masked_tokens(_TEST_SPECTRAL, n_ctx=32, width=16, heads=2, depth=2, head_width=16, local=1,
                       encoder=_lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), max_seconds=60.0),
        },
        prior_recipes=dict.fromkeys((TOKENS, "masked_tokens"), _TEST_PRIOR),
    ),
    "recordings_small": _recordings(_RECORDINGS, width=192, depth=4, times=0.5),
    "recordings": _recordings(_RECORDINGS, width=256, depth=4),
    "recordings_large": _recordings(replace(_RECORDINGS, width=384), width=384, depth=6, times=8.0),
    "recordings_44k": _recordings(
        replace(_RECORDINGS, sample_rate=44100, channels=2, n_fft=4096, hop_fft=1024), width=256, depth=4, times=2.0
    ),
    "shipped": Preset(
        _SHIPPED, {TOKENS: replace(_DEMO_SPECTRAL_CODEC, steps=10_000, max_minutes=30.0)},
        {TOKENS: _tokens(_SHIPPED, n_ctx=430, width=160, depth=4, heads=4, max_seconds=100.0)},
        {TOKENS: replace(_DEMO_TOKENS, steps=7000, max_minutes=28.0)},
        more_recipes={"decoder": {TOKENS: replace(_DEMO_DECODER, steps=2000, max_minutes=14.0)}},
    ),
    **{name: Preset(codec, dict.fromkeys(codec.spec.names, _PUBLISHED_CODEC), {}, {})
       for name, codec in ((name, vqvae_config(settings)) for name, settings in VQVAES.items())},
}  # fmt: skip


def _with_wavenets(levels: Preset, wavenets: Mapping[str, PriorConfig], recipe: Recipe) -> Preset:
    """Add a codec of mu-law samples and WaveNets of these samples to the three levels of a preset."""
    names = set(levels.codec.spec.names)
    priors = {name: prior for name, prior in levels.priors.items() if set(prior.spec.writes) <= names}
    return replace(
        levels, more_codecs=(MuLawConfig(levels.codec.spec.sample_rate),), more_recipes={}, priors={**priors, **wavenets},
        codec_recipes={name: levels.codec_recipes[name] for name in levels.codec.spec.names},
        prior_recipes={**{name: levels.prior_recipes[name] for name in priors}, **dict.fromkeys(wavenets, recipe)},
    )  # fmt: skip


# The receptive field is 93 ms, and a window is four times as long. In training a quarter of its samples have a shorter past.
PRESETS["wavenet"] = _with_wavenets(
    PRESETS["demo"], _wavenets(MuLawConfig(), _DEMO, 8192, StackConfig(10, 2, 64, 64, 128), 600.0, ("tempo", "density")),
    Recipe(steps=200_000, batch=8, lr=1e-3, warmup=200, final_lr=0.1, bf16=True, drop_labels=0.05, log_every=50, save_every=1000),
)  # fmt: skip
PRESETS["test_wavenet"] = _with_wavenets(
    PRESETS["test"], _wavenets(MuLawConfig(), _TEST, 512, StackConfig(4, 2, 8, 8, 8), 60.0), _TEST_PRIOR
)
_NSYNTH = Recipe(
    steps=200_000,
    batch=8,
    lr=2e-4,
    warmup=200,
    schedule="linear",
    decay_from=0.5,
    ema=0.9999,
    bf16=True,
    log_every=50,
    save_every=1000,
)
PRESETS["nsynth"] = _nsynth(
    NSynthConfig(), 8192, StackConfig(10, 3, 128, 128, 128), _NSYNTH, PRESETS["wavenet"].prior_recipes["wavenet"],
    timing_bins=32,
)  # fmt: skip
PRESETS["nsynth_small"] = _nsynth(
    NSynthConfig(width=32, cycle=8, repeats=1), 2048, StackConfig(9, 1, 32, 32, 64),
    replace(_NSYNTH, steps=6000, lr=3e-3, warmup=20, ema=0.0, bf16=False, max_minutes=45.0), PRESETS["wavenet"].prior_recipes["wavenet"],
    timing_bins=32,
)  # fmt: skip
PRESETS["test_nsynth"] = _nsynth(
    NSynthConfig(width=8, cycle=4, repeats=1), 1024, StackConfig(4, 2, 8, 8, 8), _TEST_CODEC, _TEST_PRIOR
)
PRESETS["recordings_levels"] = replace(
    PRESETS["demo"],
    codec=replace(_DEMO, **FOR_RECORDINGS),
    codec_recipes={
        name: replace(recipe, gain_db=RECORDINGS_GAIN_DB) if name in _DEMO.spec.names else recipe
        for name, recipe in PRESETS["demo"].codec_recipes.items()
    },
)
_TEST_44K = replace(_TEST_SPECTRAL, sample_rate=44100, channels=2, floor=0.03, gain=True)
PRESETS["test_44k"] = replace(
    PRESETS["test_spectral"], codec=_TEST_44K,
    priors={TOKENS: _tokens(_TEST_44K, n_ctx=32, width=16, depth=1, heads=2, max_seconds=60.0)},
    prior_recipes={TOKENS: _TEST_PRIOR},
)  # fmt: skip
PRESETS["test_both"] = replace(
    PRESETS["test"], more_codecs=PRESETS["test_spectral"].codecs,
    codec_recipes={**PRESETS["test"].codec_recipes, **PRESETS["test_spectral"].codec_recipes},
    more_recipes=PRESETS["test_spectral"].more_recipes,
    priors={**PRESETS["test"].priors, **PRESETS["test_spectral"].priors},
    prior_recipes={**PRESETS["test"].prior_recipes, **PRESETS["test_spectral"].prior_recipes},
)  # fmt: skip
_TEST_MUSIKA = replace(_TEST_SPECTRAL, stacked=2, stacked_width=16, stacked_latent=8, stacked_blocks=1)
_GAN_PHASES = {"generator": PhaseRecipe(ema=0.995), "critic": PhaseRecipe()}
_MUSIKA_GAN = Recipe(
    steps=12_000, batch=16, lr=2e-3, betas=(0.5, 0.9), warmup=20, schedule="constant", clip=0.0, skip_above=0.0, drop_labels=0.25,
    log_every=50, save_every=1000, max_minutes=6.0, phases=_GAN_PHASES,
)  # fmt: skip
PRESETS["test_musika"] = replace(
    PRESETS["test_spectral"], codec=_TEST_MUSIKA,
    more_recipes={"stacked": {STACKED: replace(_TEST_CODEC, crop=4096, phases=_STACKED_PHASES)}},
    priors={
        "gan": _gan(_TEST_MUSIKA, patch=8, spacing=16, coordinates=8, style=8, widths=(16, 12), critic_widths=(12, 16), embedding=4),
        TOKENS: PRESETS["test_spectral"].priors[TOKENS],
    },
    prior_recipes={"gan": replace(_TEST_PRIOR, phases=_GAN_PHASES), TOKENS: _TEST_PRIOR},
)  # fmt: skip
_MUSIKA = replace(_DEMO_SPECTRAL, stacked=2, stacked_width=192, stacked_latent=32)
PRESETS["musika"] = replace(
    PRESETS["demo"], codec=_MUSIKA, more_codecs=(), codec_recipes={TOKENS: _DEMO_SPECTRAL_CODEC},
    more_recipes={"stacked": {STACKED: _DEMO_STACKED}},
    priors={
        "gan": _gan(_MUSIKA, coordinates=32, style=32, widths=(128, 96, 64, 48), critic_widths=(64, 96, 128, 128), embedding=16),
        TOKENS: PRESETS["demo"].priors[TOKENS],
    },
    prior_recipes={"gan": _MUSIKA_GAN, TOKENS: _DEMO_TOKENS},
)  # fmt: skip
_LATENT_PHASES = {"autoencoder": PhaseRecipe(), "discriminator": _DEMO_DECODER.phases["discriminator"]}
_TEST_LATENT = LatentConfig(
    strides=(8, 8), widths=(8, 12), depth=1, out_width=4, latent=4, periods=(2, 3), windows=(256,), discriminator_width=2
)
PRESETS["test_melody"] = replace(
    PRESETS["test_spectral"], more_codecs=(_TEST_LATENT,),
    codec_recipes={TOKENS: PRESETS["test_spectral"].codec_recipes[TOKENS], LATENT: replace(_TEST_CODEC, crop=4096, phases=_LATENT_PHASES)},
    priors={
        TOKENS: PRESETS["test_spectral"].priors[TOKENS],
        "diffusion": _diffusion(_TEST_SPECTRAL, _TEST_LATENT, window=64, segment=8, width=16, layers=2, heads=2, angle_width=8),
    },
    prior_recipes=dict.fromkeys((TOKENS, "diffusion"), _TEST_PRIOR),
)  # fmt: skip
PRESETS["melody"] = replace(
    PRESETS["demo"], codec=_DEMO_SPECTRAL, more_codecs=(LatentConfig(),),
    codec_recipes={
        TOKENS: _DEMO_SPECTRAL_CODEC,
        LATENT: Recipe(
            steps=3000, batch=8, lr=1e-3, crop=8192, betas=(0.8, 0.99), warmup=50, final_lr=0.05, bf16=True, log_every=50, save_every=400,
            max_minutes=6.0, phases=_LATENT_PHASES,
        ),
    },
    priors={
        TOKENS: PRESETS["demo"].priors[TOKENS],
        "diffusion": _diffusion(_DEMO_SPECTRAL, LatentConfig(), window=512, segment=32, width=96, layers=4, heads=4),
    },
    prior_recipes={
        TOKENS: _DEMO_TOKENS,
        "diffusion": Recipe(
            steps=3000, batch=4, lr=1.5e-3, muon=4e-3, weight_decay=0.01, warmup=50, final_lr=0.05, ema=0.99, bf16=False, drop_labels=0.1,
            log_every=50, save_every=400, max_minutes=10.0,
        ),
    },
)  # fmt: skip
OTHERS: Registry[Preset] = Registry("preset", "jukebox.presets", {})
