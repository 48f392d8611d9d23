"""Registries of kinds: `config.json` names a kind, and a registry imports the class of the kind on first use.

A table lists the kinds of this project. Other packages add kinds by Python entry points, for example

    [project.entry-points."jukebox.codecs.config"]
    toy = "toy_codec:ToyConfig"
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from vqvae.streams import CodecConfig

T = TypeVar("T")


class Registry(Generic[T]):
    """Map from kinds to classes.

    `what` names the objects in error messages. `table` maps each kind to "module:class". Other packages add kinds by the
    entry-point group `group`.
    """

    def __init__(self, what: str, group: str, table: Mapping[str, str]) -> None:
        self.what, self.group, self.table = what, group, table

    def kinds(self) -> list[str]:
        """Return all known kinds: first the kinds of this project, then the kinds of other packages by name."""
        others = {entry.name for entry in metadata.entry_points(group=self.group)} - self.table.keys()
        return [*self.table, *sorted(others)]

    def load(self, kind: str, package: str = "") -> T:
        """Import and return the class of `kind`.

        Raises ValueError if the kind is unknown. The message advises to install `package`, if given.
        """
        others = () if kind in self.table else metadata.entry_points(group=self.group, name=kind)
        target = self.table.get(kind) or next((entry.value for entry in others), None)
        if target is None:
            advice = f"install the package {package}" if package else "install the package that provides it"
            raise ValueError(f"unknown kind of {self.what} {kind!r}; expected {', '.join(self.kinds())}, or {advice}")
        module, _, name = target.partition(":")
        return getattr(importlib.import_module(module), name)

    def package(self, kind: str) -> str:
        """Return the distribution that provides `kind`, or an empty string if no other package provides the kind."""
        entry = next(iter(metadata.entry_points(group=self.group, name=kind)), None)
        return entry.dist.name if entry and entry.dist and kind not in self.table else ""


CODEC_CONFIGS: Registry[type[CodecConfig]] = Registry("codec", "jukebox.codecs.config", {
    "vqvae": "vqvae.jukebox.config:VQVAEConfig",
    "spectral": "vqvae.spectral.config:SpectralConfig",
    "mulaw": "vqvae.mulaw.config:MuLawConfig",
    "nsynth": "vqvae.nsynth.config:NSynthConfig",
    "latent": "vqvae.latent.config:LatentConfig",
})  # fmt: skip
CODECS: Registry[Any] = Registry("codec", "jukebox.codecs.model", {
    "vqvae": "vqvae.jukebox.vqvae:VQVAE",
    "spectral": "vqvae.spectral.model:SpectralCodec",
    "mulaw": "vqvae.mulaw.codec:MuLawCodec",
    "nsynth": "vqvae.nsynth.codec:NSynthCodec",
    "latent": "vqvae.latent.model:LatentCodec",
})  # fmt: skip
