"""Registries of the kinds of priors: configuration (no torch), model and sampling parameters."""

from __future__ import annotations

from typing import Any

from priors.spec import PriorConfig
from vqvae.registry import Registry

PRIOR_CONFIGS: Registry[type[PriorConfig]] = Registry("prior", "jukebox.priors.config", {
    "autoregressive": "priors.autoregressive.config:AutoregressiveConfig",
    "tokens": "priors.tokens.config:TokenConfig",
    "masked": "priors.masked.config:MaskedConfig",
    "wavenet": "priors.wavenet.config:WaveNetConfig",
    "gan": "priors.gan.config:GanConfig",
    "diffusion": "priors.diffusion.config:DiffusionConfig",
})  # fmt: skip
PRIORS: Registry[Any] = Registry("prior", "jukebox.priors.model", {
    "autoregressive": "priors.autoregressive.model:AutoregressivePrior",
    "tokens": "priors.tokens.model:TokenPrior",
    "masked": "priors.masked.model:MaskedPrior",
    "wavenet": "priors.wavenet.model:WaveNetPrior",
    "gan": "priors.gan.model:GanPrior",
    "diffusion": "priors.diffusion.model:DiffusionPrior",
})  # fmt: skip
PRIOR_PARAMS: Registry[Any] = Registry("prior", "jukebox.priors.params", {
    "autoregressive": "priors.autoregressive.config:AutoregressiveParams",
    "tokens": "priors.tokens.config:FrameParams",
    "masked": "priors.masked.config:MaskedParams",
    "wavenet": "priors.wavenet.config:WaveNetParams",
    "gan": "priors.gan.config:GanParams",
    "diffusion": "priors.diffusion.config:DiffusionParams",
})  # fmt: skip
