"""Presets of WaveNets: of samples from conditions or from codes, and the NSynth autoencoder with its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jukebox.model.presets.demo import DEMO, DEMO_PRESET
from jukebox.model.presets.preset import Preset
from jukebox.model.presets.priors import wavenet_priors
from jukebox.model.recipe import Recipe
from priors.conditioning.config import LabelConfig
from priors.spec import PriorConfig
from priors.wavenet.config import StackConfig, WaveNetConfig
from vqvae.mulaw.config import BINS, MULAW, SILENCE, MuLawConfig
from vqvae.nsynth.config import EMBEDDING, NSynthConfig


def with_wavenets(levels: Preset, wavenets: Mapping[str, PriorConfig], recipe: Recipe) -> Preset:
    """Add a codec of mu-law samples and WaveNets of these samples to the three levels of a preset."""
    names = set(levels.codec.spec.names)
    priors = {name: prior for name, prior in levels.priors.items() if set(prior.spec.writes) <= names}
    return replace(
        levels, more_codecs=(MuLawConfig(levels.codec.spec.sample_rate),), more_recipes={}, priors={**priors, **wavenets},
        codec_recipes={name: levels.codec_recipes[name] for name in levels.codec.spec.names},
        prior_recipes={**{name: levels.prior_recipes[name] for name in priors}, **dict.fromkeys(wavenets, recipe)},
    )  # fmt: skip


def nsynth(codec: NSynthConfig, window: int, stack: StackConfig, recipe: Recipe, prior: Recipe, timing_bins: int = 0) -> Preset:
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


_WAVENET = Recipe(
    steps=200_000, batch=8, lr=1e-3, warmup=200, final_lr=0.1, bf16=True, drop_labels=0.05, log_every=50, save_every=1000
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

PRESETS: dict[str, Preset] = {
    # The receptive field is 93 ms, and a window is four times as long. In training a quarter of its samples have a shorter past.
    "wavenet": with_wavenets(
        DEMO_PRESET, wavenet_priors(MuLawConfig(), DEMO, 8192, StackConfig(10, 2, 64, 64, 128), 600.0, ("tempo", "density")),
        _WAVENET,
    ),
    "nsynth": nsynth(
        NSynthConfig(), 8192, StackConfig(10, 3, 128, 128, 128), _NSYNTH, _WAVENET, timing_bins=32,
    ),
    "nsynth_small": nsynth(
        NSynthConfig(width=32, cycle=8, repeats=1), 2048, StackConfig(9, 1, 32, 32, 64),
        replace(_NSYNTH, steps=6000, lr=3e-3, warmup=20, ema=0.0, bf16=False, max_minutes=45.0), _WAVENET, timing_bins=32,
    ),
}  # fmt: skip
