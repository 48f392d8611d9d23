"""Presets of the demo: both codecs and all priors of the paper's route and of tokens, trained in minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import (
    lyric_encoder,
    masked_prior,
    masked_token_prior,
    token_prior,
    top_prior,
    upsampler_prior,
)
from jukebox.model.recipe import PhaseRecipe, Recipe
from vqvae.jukebox.config import VQVAEConfig
from vqvae.spectral.config import TOKENS, SpectralConfig

DEMO = VQVAEConfig(
    sample_rate=22050, downs_t=(1, 1, 1), strides_t=(8, 4, 4),  # one strided convolution per stage: 3 times faster
    emb_width=64, bins=256,
    widths=((32,), (32, 96), (16, 64, 192)), depths=(3, 3, 3),  # stages at lower rates are wider
    mu=0.99, threshold=0.3, reset_restarted=True,
    linf=0.0, commit=0.02, relative_spectral=True,
    multispectral_stfts=((1024, 256, 1024), (512, 128, 512), (256, 64, 256)), spectral_stft=(1024, 256, 1024),
)  # fmt: skip

# Short crops, small batches and many steps: wider networks and longer crops were worse after the same time.
DEMO_CODEC = Recipe(
    steps=2600, batch=16, lr=2e-3, crop=2048, betas=(0.9, 0.99), warmup=50, schedule="linear", decay_from=0.6,
    bf16=True, delay_quantiser=0.15, log_every=50, max_minutes=3.0,
)  # fmt: skip
DEMO_PRIOR = Recipe(
    steps=1100, batch=4, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup=60, bf16=True,
    drop_labels=0.05, drop_lyrics=0.1, jitter_seconds=0.03, log_every=20, save_every=200, max_minutes=3.7,
)  # fmt: skip

# Settings for recordings, from `jukebox ablate treble`. Passages at -20 dB gain 4 dB of SNR, and loud passages lose 1.6 dB.
FOR_RECORDINGS: Mapping[str, Any] = {"flat_upsampling": True, "relative_waveform": True}
RECORDINGS_GAIN_DB = 30.0
DEMO_SPECTRAL = SpectralConfig()
DEMO_SPECTRAL_CODEC = Recipe(
    steps=1100, batch=8, lr=1.5e-3, muon=2e-3, crop=48 * 1024, weight_decay=0.01, warmup=20, schedule="cosine",
    final_lr=0.02, bf16=True, delay_quantiser=0.25, log_every=50, save_every=400, max_minutes=3.8,
)  # fmt: skip
DEMO_TOKENS = Recipe(
    steps=600, batch=6, lr=2e-3, muon=4e-3, weight_decay=0.02, warmup=40, final_lr=0.0, bf16=True,
    song_starts=0.5, drop_labels=0.05, drop_lyrics=0.1, log_every=20, save_every=200, max_minutes=4.3,
)  # fmt: skip

# A step of the discriminators costs twice a step of the decoder: the discriminators are trained in every second step.
DEMO_DECODER = Recipe(
    steps=1000, batch=8, lr=3e-4, crop=16 * 1024, betas=(0.8, 0.95), warmup=20, final_lr=0.05, bf16=True, log_every=50,
    save_every=400, max_minutes=4.0,
    phases={"decoder": PhaseRecipe(), "discriminator": PhaseRecipe(every=2, betas=(0.5, 0.9), skip_above=0.0)},
)  # fmt: skip
DEMO_PRESET = Preset(
    codec=DEMO,
    priors={
        "prior_2": top_prior(DEMO, n_ctx=512, width=128, heads=4, order=("dense", "cross", "dense", "dense"), turns=1,
                encoder=lyric_encoder(tokens=64, width=128, depth=1, m_mlp=4.0), timing_bins=32, max_seconds=60.0),
        "prior_1": upsampler_prior(DEMO, 1, n_ctx=256, width=96, heads=4, depth=2, m_mlp=4.0),
        "prior_0": upsampler_prior(DEMO, 0, n_ctx=256, width=96, heads=4, depth=2, m_mlp=4.0),
        "masked": masked_prior(DEMO, n_ctx=128, width=128, heads=4, depth=4, head_width=64, local=3,
                   encoder=lyric_encoder(tokens=32, width=128, depth=1, m_mlp=4.0), timing_bins=32, max_seconds=60.0),
        "tokens": token_prior(DEMO_SPECTRAL, n_ctx=430, width=192, depth=4, heads=4, max_seconds=100.0),
        "masked_tokens": masked_token_prior(DEMO_SPECTRAL, n_ctx=128, width=128, heads=4, depth=4, head_width=64, local=2,
                   encoder=lyric_encoder(tokens=64, width=128, depth=1, m_mlp=4.0), max_seconds=100.0),
    },
    more_codecs=(DEMO_SPECTRAL,),
    codec_recipes={
        "vq.2": DEMO_CODEC,
        "vq.1": replace(DEMO_CODEC, steps=2300, batch=8, max_minutes=1.7),
        "vq.0": replace(DEMO_CODEC, steps=3000, batch=8, crop=1536, bf16=False, max_minutes=1.3),
        TOKENS: DEMO_SPECTRAL_CODEC,
    },
    more_recipes={"decoder": {TOKENS: DEMO_DECODER}},
    prior_recipes={
        "prior_2": DEMO_PRIOR,
        "prior_1": replace(DEMO_PRIOR, steps=1300, batch=8, lr=5e-3, max_minutes=1.85),
        "prior_0": replace(DEMO_PRIOR, steps=1300, batch=8, lr=5e-3, max_minutes=1.85),
        "masked": replace(DEMO_PRIOR, steps=2400, batch=2, lr=4e-3, max_minutes=6.0),
        "tokens": DEMO_TOKENS,
        "masked_tokens": replace(DEMO_PRIOR, steps=1400, batch=4, lr=4e-3, max_minutes=4.5),
    },
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "demo": DEMO_PRESET,
    "recordings_levels": replace(
        DEMO_PRESET,
        codec=replace(DEMO, **FOR_RECORDINGS),
        codec_recipes={
            name: replace(recipe, gain_db=RECORDINGS_GAIN_DB) if name in DEMO.spec.names else recipe
            for name, recipe in DEMO_PRESET.codec_recipes.items()
        },
    ),
}
