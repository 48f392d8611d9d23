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
from pathlib import Path

from data_prep.errors import UserError
from jukebox.model.info import CONFIG, ModelInfo
from jukebox.model.presets import demo, levels, melody, minimal, musika, spectral, wavenet
from jukebox.model.presets.preset import Preset
from jukebox.model.settings import PRIORS, SETS, VQVAES, prior_config, vqvae_config
from priors.spec import PriorConfig
from vqvae.registry import Registry
from vqvae.streams import CodecConfig

__all__ = ["OTHERS", "PRESETS", "SETS", "Preset", "find", "read_info", "shapes"]

PRESETS: dict[str, Preset] = {
    name: preset
    for module in (demo, levels, spectral, wavenet, musika, melody, minimal)
    for name, preset in module.PRESETS.items()
}
OTHERS: Registry[Preset] = Registry("preset", "jukebox.presets", {})  # of other packages


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
