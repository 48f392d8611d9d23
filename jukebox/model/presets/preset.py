"""A preset: the codecs and named priors of a model, with the training recipe of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jukebox.model.recipe import Recipe
from jukebox.model.routes import Routes, derive_routes
from priors.conditioning.vocabulary import PLAIN
from priors.spec import PriorConfig
from vqvae.streams import CodecConfig


@dataclass(frozen=True)
class Preset:
    """Codecs and named priors of a model, with the training recipe of each stream and each prior.

    `codec` is the first codec of the model, and `more_codecs` are its further codecs. `symbols` are the characters of the
    lyric vocabulary.
    """

    codec: CodecConfig
    codec_recipes: Mapping[str, Recipe]  # stream -> recipe
    priors: Mapping[str, PriorConfig]
    prior_recipes: Mapping[str, Recipe]
    symbols: str = PLAIN
    more_codecs: tuple[CodecConfig, ...] = ()
    more_recipes: Mapping[str, Mapping[str, Recipe]] = field(default_factory=dict)  # of other tasks: kind -> part -> recipe

    @property
    def codecs(self) -> tuple[CodecConfig, ...]:
        return (self.codec, *self.more_codecs)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams of all codecs, in the order of levels."""
        return tuple(name for codec in self.codecs for name in codec.spec.names)

    @property
    def routes(self) -> Routes:
        """The routes that the priors of the preset form."""
        return derive_routes([codec.spec.streams for codec in self.codecs], self.priors)

    def parts(self, kind: str) -> dict[str, Recipe]:
        """Return the recipe of each trainable part of a kind of codec, prior or task; the coarsest part is first."""
        if kind in self.more_recipes:
            return dict(self.more_recipes[kind])
        for codec in self.codecs:
            if codec.kind == kind:
                names = [stream for stream in reversed(codec.spec.names) if stream in self.codec_recipes]
                return {stream: self.codec_recipes[stream] for stream in names}
        names = [name for name, config in self.priors.items() if config.kind == kind]
        return {name: self.prior_recipes[name] for name in names}

    def with_bottleneck(self, bottleneck: str) -> Preset:
        """Return the preset with this bottleneck in each codec that has the setting `bottleneck`."""
        first, *more = [replace(c, bottleneck=bottleneck) if hasattr(c, "bottleneck") else c for c in self.codecs]  # type: ignore[call-arg]
        return replace(self, codec=first, more_codecs=tuple(more))

    def level_of(self, part: str) -> int:
        """The level of a stream, or of the coarsest stream that a prior writes."""
        config = self.priors.get(part)
        return self.streams.index(config.spec.writes[-1] if config else part)
