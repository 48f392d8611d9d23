"""Presets of minimal sizes for tests; training takes seconds."""

from __future__ import annotations

from dataclasses import replace

from jukebox.model.presets.demo import DEMO_DECODER
from jukebox.model.presets.melody import LATENT_PHASES
from jukebox.model.presets.musika import GAN_PHASES, STACKED_PHASES
from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import (
    diffusion_prior,
    gan_prior,
    lyric_encoder,
    masked_prior,
    masked_token_prior,
    token_prior,
    top_prior,
    upsampler_prior,
    wavenet_priors,
)
from jukebox.model.presets.wavenet import nsynth, with_wavenets
from jukebox.model.recipe import Recipe
from priors.wavenet.config import StackConfig
from vqvae.jukebox.config import VQVAEConfig
from vqvae.latent.config import LATENT, LatentConfig
from vqvae.mulaw.config import MuLawConfig
from vqvae.nsynth.config import NSynthConfig
from vqvae.spectral.config import STACKED, TOKENS, SpectralConfig

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

_TEST_SPECTRAL = SpectralConfig(
    n_fft=256, hop_fft=64, stride=4, floor=0.2, width=16, latent=8, encoder_blocks=1, decoder_dilations=(1,), books=2, bins=32,
    phase_frames=16,
)  # fmt: skip
_TEST_44K = replace(_TEST_SPECTRAL, sample_rate=44100, channels=2, floor=0.03, gain=True)
_TEST_MUSIKA = replace(_TEST_SPECTRAL, stacked=2, stacked_width=16, stacked_latent=8, stacked_blocks=1)
_TEST_LATENT = LatentConfig(
    strides=(8, 8), widths=(8, 12), depth=1, out_width=4, latent=4, periods=(2, 3), windows=(256,), discriminator_width=2
)

TEST_PRESET = Preset(
    codec=_TEST,
    priors={
        "prior_2": top_prior(_TEST, n_ctx=32, width=16, heads=2, order=("dense", "cross"), turns=1,
                encoder=lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), timing_bins=8, max_seconds=60.0),
        "prior_1": upsampler_prior(_TEST, 1, n_ctx=32, width=16, heads=2, depth=1, m_mlp=2.0),
        "prior_0": upsampler_prior(_TEST, 0, n_ctx=32, width=16, heads=2, depth=1, m_mlp=2.0),
        "masked": masked_prior(_TEST, n_ctx=32, width=16, heads=2, depth=2, head_width=16, local=1,
                   encoder=lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), timing_bins=8, max_seconds=60.0),
    },
    codec_recipes=dict.fromkeys(_TEST.spec.names, _TEST_CODEC),
    prior_recipes=dict.fromkeys(("prior_2", "prior_1", "prior_0", "masked"), _TEST_PRIOR),
)  # fmt: skip
TEST_SPECTRAL_PRESET = Preset(
    codec=_TEST_SPECTRAL,
    codec_recipes={TOKENS: replace(_TEST_CODEC, crop=4096)},
    more_recipes={"decoder": {TOKENS: replace(_TEST_CODEC, crop=4096, phases=DEMO_DECODER.phases)}},
    priors={
        TOKENS: token_prior(_TEST_SPECTRAL, n_ctx=32, width=16, depth=1, heads=2, max_seconds=60.0),
        "masked_tokens": masked_token_prior(_TEST_SPECTRAL, n_ctx=32, width=16, heads=2, depth=2, head_width=16, local=1,
                   encoder=lyric_encoder(tokens=16, width=16, depth=1, m_mlp=2.0), max_seconds=60.0),
    },
    prior_recipes=dict.fromkeys((TOKENS, "masked_tokens"), _TEST_PRIOR),
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "test": TEST_PRESET,
    "test_spectral": TEST_SPECTRAL_PRESET,
    "test_wavenet": with_wavenets(
        TEST_PRESET, wavenet_priors(MuLawConfig(), _TEST, 512, StackConfig(4, 2, 8, 8, 8), 60.0), _TEST_PRIOR
    ),
    "test_nsynth": nsynth(
        NSynthConfig(width=8, cycle=4, repeats=1), 1024, StackConfig(4, 2, 8, 8, 8), _TEST_CODEC, _TEST_PRIOR
    ),
    "test_44k": replace(
        TEST_SPECTRAL_PRESET, codec=_TEST_44K,
        priors={TOKENS: token_prior(_TEST_44K, n_ctx=32, width=16, depth=1, heads=2, max_seconds=60.0)},
        prior_recipes={TOKENS: _TEST_PRIOR},
    ),
    "test_both": replace(
        TEST_PRESET, more_codecs=TEST_SPECTRAL_PRESET.codecs,
        codec_recipes={**TEST_PRESET.codec_recipes, **TEST_SPECTRAL_PRESET.codec_recipes},
        more_recipes=TEST_SPECTRAL_PRESET.more_recipes,
        priors={**TEST_PRESET.priors, **TEST_SPECTRAL_PRESET.priors},
        prior_recipes={**TEST_PRESET.prior_recipes, **TEST_SPECTRAL_PRESET.prior_recipes},
    ),
    "test_musika": replace(
        TEST_SPECTRAL_PRESET, codec=_TEST_MUSIKA,
        more_recipes={"stacked": {STACKED: replace(_TEST_CODEC, crop=4096, phases=STACKED_PHASES)}},
        priors={
            "gan": gan_prior(_TEST_MUSIKA, patch=8, spacing=16, coordinates=8, style=8, widths=(16, 12), critic_widths=(12, 16),
                             embedding=4),
            TOKENS: TEST_SPECTRAL_PRESET.priors[TOKENS],
        },
        prior_recipes={"gan": replace(_TEST_PRIOR, phases=GAN_PHASES), TOKENS: _TEST_PRIOR},
    ),
    "test_melody": replace(
        TEST_SPECTRAL_PRESET, more_codecs=(_TEST_LATENT,),
        codec_recipes={TOKENS: TEST_SPECTRAL_PRESET.codec_recipes[TOKENS], LATENT: replace(_TEST_CODEC, crop=4096, phases=LATENT_PHASES)},
        priors={
            TOKENS: TEST_SPECTRAL_PRESET.priors[TOKENS],
            "diffusion": diffusion_prior(_TEST_SPECTRAL, _TEST_LATENT, window=64, segment=8, width=16, layers=2, heads=2, angle_width=8),
        },
        prior_recipes=dict.fromkeys((TOKENS, "diffusion"), _TEST_PRIOR),
    ),
}  # fmt: skip
