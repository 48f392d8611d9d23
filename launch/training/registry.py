"""Training tasks by kind of codec or prior, and the words for them on the command line."""

from __future__ import annotations

from typing import Any

from vqvae.registry import Registry

TASKS: Registry[Any] = Registry("training task", "jukebox.tasks", {
    "vqvae": "launch.training.tasks:VQVAETask",
    "spectral": "launch.training.tasks:SpectralTask",
    "autoregressive": "launch.training.tasks:PriorTask",
    "tokens": "launch.training.tasks:PriorTask",
    "masked": "launch.training.tasks:MaskedTask",
})  # fmt: skip
ALIASES = {"prior": "autoregressive"}
