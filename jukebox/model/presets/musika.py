"""Preset of Musika: the spectral codec with a second autoencoder, and the GAN of its latents."""

from __future__ import annotations

from dataclasses import replace

from jukebox.model.presets.demo import DEMO_DECODER, DEMO_PRESET, DEMO_SPECTRAL, DEMO_SPECTRAL_CODEC, DEMO_TOKENS
from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import gan_prior
from jukebox.model.recipe import PhaseRecipe, Recipe
from vqvae.spectral.config import STACKED, TOKENS

# The second autoencoder is trained in the phases of the decoder, but from initial weights.
STACKED_PHASES = {"stacked": DEMO_DECODER.phases["decoder"], "discriminator": DEMO_DECODER.phases["discriminator"]}
DEMO_STACKED = replace(DEMO_DECODER, steps=1000, lr=1e-3, phases=STACKED_PHASES)
GAN_PHASES = {"generator": PhaseRecipe(ema=0.995), "critic": PhaseRecipe()}
_MUSIKA_GAN = Recipe(
    steps=12_000, batch=16, lr=2e-3, betas=(0.5, 0.9), warmup=20, schedule="constant", clip=0.0, skip_above=0.0, drop_labels=0.25,
    log_every=50, save_every=1000, max_minutes=6.0, phases=GAN_PHASES,
)  # fmt: skip
_MUSIKA = replace(DEMO_SPECTRAL, stacked=2, stacked_width=192, stacked_latent=32)

PRESETS: dict[str, Preset] = {
    "musika": replace(
        DEMO_PRESET, codec=_MUSIKA, more_codecs=(), codec_recipes={TOKENS: DEMO_SPECTRAL_CODEC},
        more_recipes={"stacked": {STACKED: DEMO_STACKED}},
        priors={
            "gan": gan_prior(_MUSIKA, coordinates=32, style=32, widths=(128, 96, 64, 48), critic_widths=(64, 96, 128, 128), embedding=16),
            TOKENS: DEMO_PRESET.priors[TOKENS],
        },
        prior_recipes={"gan": _MUSIKA_GAN, TOKENS: DEMO_TOKENS},
    ),
}  # fmt: skip
