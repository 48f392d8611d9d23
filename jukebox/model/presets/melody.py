"""Preset of MeLoDy: the spectral codec with its prior of tokens, a codec of latents, and a diffusion prior of latents."""

from __future__ import annotations

from dataclasses import replace

from jukebox.model.presets.demo import DEMO_DECODER, DEMO_PRESET, DEMO_SPECTRAL, DEMO_SPECTRAL_CODEC, DEMO_TOKENS
from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import diffusion_prior
from jukebox.model.recipe import PhaseRecipe, Recipe
from vqvae.latent.config import LATENT, LatentConfig
from vqvae.spectral.config import TOKENS

LATENT_PHASES = {"autoencoder": PhaseRecipe(), "discriminator": DEMO_DECODER.phases["discriminator"]}
_LATENT_CODEC = Recipe(
    steps=3000, batch=8, lr=1e-3, crop=8192, betas=(0.8, 0.99), warmup=50, final_lr=0.05, bf16=True, log_every=50, save_every=400,
    max_minutes=6.0, phases=LATENT_PHASES,
)  # fmt: skip
_DIFFUSION = Recipe(
    steps=3000, batch=4, lr=1.5e-3, muon=4e-3, weight_decay=0.01, warmup=50, final_lr=0.05, ema=0.99, bf16=False, drop_labels=0.1,
    log_every=50, save_every=400, max_minutes=10.0,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "melody": replace(
        DEMO_PRESET, codec=DEMO_SPECTRAL, more_codecs=(LatentConfig(),),
        codec_recipes={
            TOKENS: DEMO_SPECTRAL_CODEC,
            LATENT: _LATENT_CODEC,
        },
        priors={
            TOKENS: DEMO_PRESET.priors[TOKENS],
            "diffusion": diffusion_prior(DEMO_SPECTRAL, LatentConfig(), window=512, segment=32, width=96, layers=4, heads=4),
        },
        prior_recipes={
            TOKENS: DEMO_TOKENS,
            "diffusion": _DIFFUSION,
        },
    ),
}  # fmt: skip
