"""Presets of the three-level codec for one GPU, and of the published codecs, which have no priors here."""

from __future__ import annotations

from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import lyric_encoder, masked_prior, top_prior, upsampler_prior
from jukebox.model.recipe import Recipe
from jukebox.model.settings import VQVAES, vqvae_config
from vqvae.jukebox.config import VQVAEConfig

_SMALL = VQVAEConfig(
    sample_rate=22050, downs_t=(1, 1, 1), strides_t=(8, 4, 4), emb_width=64, bins=1024,
    widths=((64,), (64, 128), (32, 128, 384)), depths=(4, 4, 4), mu=0.99, threshold=0.3, commit=0.02, relative_spectral=True,
    multispectral_stfts=((2048, 256, 2048), (1024, 128, 1024), (512, 64, 512)), spectral_stft=(2048, 256, 2048),
)  # fmt: skip
_SMALL_CODEC = Recipe(
    steps=200_000, batch=32, lr=3e-4, crop=8192, betas=(0.9, 0.99), warmup=500, schedule="linear", decay_from=0.6,
    bf16=True, delay_quantiser=0.02, log_every=100, save_every=2000,
)  # fmt: skip
SMALL_PRIOR = Recipe(
    steps=200_000, batch=16, lr=3e-4, weight_decay=0.01, warmup=2000, bf16=True,
    drop_labels=0.05, drop_lyrics=0.1, drop_times=0.05, jitter_seconds=0.03, log_every=50, save_every=1000,
)  # fmt: skip
_PUBLISHED_CODEC = Recipe(
    steps=400_000, batch=16, lr=3e-4, crop=65_536, betas=(0.9, 0.999), warmup=100, schedule="constant", ema=0.999,
    log_every=100, save_every=2000,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "small": Preset(
        codec=_SMALL,
        priors={
            "prior_2": top_prior(_SMALL, n_ctx=2048, width=768, heads=12, order=("dense", "dense", "cross", "dense"), turns=6,
                    encoder=lyric_encoder(tokens=256, width=384, depth=4, m_mlp=4.0), timing_bins=128, max_seconds=600.0),
            "prior_1": upsampler_prior(_SMALL, 1, n_ctx=2048, width=512, heads=8, depth=12, m_mlp=4.0),
            "prior_0": upsampler_prior(_SMALL, 0, n_ctx=2048, width=512, heads=8, depth=12, m_mlp=4.0),
            "masked": masked_prior(_SMALL, n_ctx=512, width=512, heads=8, depth=12, head_width=256, local=4,
                       encoder=lyric_encoder(tokens=128, width=384, depth=4, m_mlp=4.0), timing_bins=128, max_seconds=600.0),
        },
        codec_recipes=dict.fromkeys(_SMALL.spec.names, _SMALL_CODEC),
        prior_recipes=dict.fromkeys(("prior_2", "prior_1", "prior_0", "masked"), SMALL_PRIOR),
    ),
    **{name: Preset(codec, dict.fromkeys(codec.spec.names, _PUBLISHED_CODEC), {}, {})
       for name, codec in ((name, vqvae_config(settings)) for name, settings in VQVAES.items())},
}  # fmt: skip
