"""Presets of the spectral codec and its prior of tokens alone: for one GPU, for recordings, and for the model of the package."""

from __future__ import annotations

from dataclasses import replace

from jukebox.model.presets.demo import DEMO_DECODER, DEMO_SPECTRAL, DEMO_SPECTRAL_CODEC, DEMO_TOKENS
from jukebox.model.presets.levels import SMALL_PRIOR
from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import token_prior
from jukebox.model.recipe import Recipe
from vqvae.spectral.config import TOKENS, SpectralConfig

_SPECTRAL = SpectralConfig(
    width=512, books=8, bins=1024, encoder_blocks=4, decoder_dilations=(1, 2, 4, 1), fine_blocks=2, floor=0.03
)

_SPECTRAL_CODEC = Recipe(
    steps=100_000, batch=32, lr=1e-3, muon=1e-3, crop=96 * 1024, weight_decay=0.01, warmup=200, schedule="cosine",
    final_lr=0.02, bf16=True, delay_quantiser=0.1, log_every=100, save_every=2000,
)  # fmt: skip

# The floor is low, because in real music 41 % of the bins from 2 to 5 kHz lie below .2.
# Quantisation starts late, because with an early start the latents collapse to two or three dimensions.
_RECORDINGS = SpectralConfig(books=8, floor=0.03, gain=True, n_fft=2048, hop_fft=512, stride=2)
_RECORDINGS_CODEC = replace(DEMO_SPECTRAL_CODEC, steps=4500, delay_quantiser=0.4, max_minutes=18.0)
_RECORDINGS_TOKENS = replace(DEMO_TOKENS, steps=2600, song_starts=0.1, drop_labels=0.1, max_minutes=34.0)


def _recordings(codec: SpectralConfig, width: int, depth: int, times: float = 1.0) -> Preset:
    """Configure a preset for recordings with a prior of this width and depth; `times` multiplies steps and minutes."""
    crop = DEMO_SPECTRAL_CODEC.crop // DEMO_SPECTRAL.hop * codec.hop
    first, second = (
        replace(recipe, steps=round(recipe.steps * times), max_minutes=recipe.max_minutes * times)
        for recipe in (replace(_RECORDINGS_CODEC, crop=crop), _RECORDINGS_TOKENS)
    )
    # Without timing: among some hundred songs the length of a song identifies it (docs/log.md, 2026-12-01).
    prior = token_prior(codec, 430, width, depth, heads=4, max_seconds=600.0, timing_bins=0)
    decoder = replace(DEMO_DECODER, crop=crop // 3)
    return Preset(codec, {TOKENS: first}, {TOKENS: prior}, {TOKENS: second}, more_recipes={"decoder": {TOKENS: decoder}})


_SHIPPED = SpectralConfig(width=208)

PRESETS: dict[str, Preset] = {
    "spectral": Preset(
        codec=_SPECTRAL,
        codec_recipes={TOKENS: _SPECTRAL_CODEC},
        more_recipes={"decoder": {TOKENS: replace(DEMO_DECODER, steps=50_000, batch=32, lr=1e-4, crop=48 * 1024, max_minutes=0.0)}},
        priors={TOKENS: token_prior(_SPECTRAL, n_ctx=512, width=768, depth=12, heads=12, max_seconds=600.0, dropout=0.05)},
        prior_recipes={TOKENS: replace(SMALL_PRIOR, steps=100_000, lr=1e-3, muon=2e-3, final_lr=0.0, song_starts=0.1)},
    ),
    "recordings_small": _recordings(_RECORDINGS, width=192, depth=4, times=0.5),
    "recordings": _recordings(_RECORDINGS, width=256, depth=4),
    "recordings_large": _recordings(replace(_RECORDINGS, width=384), width=384, depth=6, times=8.0),
    "recordings_44k": _recordings(
        replace(_RECORDINGS, sample_rate=44100, channels=2, n_fft=4096, hop_fft=1024), width=256, depth=4, times=2.0
    ),
    "shipped": Preset(
        _SHIPPED, {TOKENS: replace(DEMO_SPECTRAL_CODEC, steps=10_000, max_minutes=30.0)},
        {TOKENS: token_prior(_SHIPPED, n_ctx=430, width=160, depth=4, heads=4, max_seconds=100.0)},
        {TOKENS: replace(DEMO_TOKENS, steps=7000, max_minutes=28.0)},
        more_recipes={"decoder": {TOKENS: replace(DEMO_DECODER, steps=2000, max_minutes=14.0)}},
    ),
}  # fmt: skip
