"""Registry of training tasks by kind of codec or prior, and aliases of kinds on the command line."""

from __future__ import annotations

from typing import Any

from vqvae.registry import Registry

TASKS: Registry[Any] = Registry("training task", "jukebox.tasks", {
    "vqvae": "launch.training.tasks.codec:VQVAETask",
    "spectral": "launch.training.tasks.codec:SpectralTask",
    "decoder": "launch.training.tasks.decoder:DecoderTask",
    "stacked": "launch.training.tasks.decoder:StackedTask",
    "latent": "launch.training.tasks.latent:LatentTask",
    "autoregressive": "launch.training.tasks.prior:PriorTask",
    "tokens": "launch.training.tasks.prior:PriorTask",
    "masked": "launch.training.tasks.prior:PriorTask",
    "wavenet": "launch.training.tasks.prior:PriorTask",
    "nsynth": "launch.training.tasks.nsynth:NSynthTask",
    "gan": "launch.training.tasks.gan:GanTask",
    "diffusion": "launch.training.tasks.diffusion:DiffusionTask",
})  # fmt: skip
ALIASES = {"prior": "autoregressive"}
