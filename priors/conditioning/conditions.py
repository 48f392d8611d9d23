"""Conditions of a prior: artist, genres, timing, lyrics and the codes of the level above (paper, section 4).

All conditions are optional. Id 0 of artist and genre means "unknown"; a dropped artist or genre has this id too. Genre -1 is
padding. A timing row with total length 0 means "not given". Lyric id 0 is padding. A lyric time of nan means "not known".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Lyrics(NamedTuple):
    """A window of lyrics: the token ids, and the time at which each token is sung.

    Times are in seconds from the start of the window. A time of nan means "not known".
    """

    ids: Int[Tensor, "b n"]
    seconds: Float[Tensor, "b n"]


class SungFrames(NamedTuple):
    """The characters that are sung in a window, with the same number of characters per frame (0: no character).

    `left` is the share of the word that remains at each character.
    """

    ids: Int[Tensor, "b m"]
    left: Float[Tensor, "b m"]


@dataclass(frozen=True)
class Conditions:
    """The conditions of a batch by name. A field that is None is absent for all items."""

    artist: Int[Tensor, " b"] | None = None
    genres: Int[Tensor, "b g"] | None = None
    timing: Int[Tensor, "b 3"] | None = None  # length of the song, start of the window, length of the window, in samples
    lyrics: Lyrics | None = None
    above: Int[Tensor, "b s"] | None = None  # codes of the coarser level for the time span of this window
    sung: SungFrames | None = None
    controls: dict[str, Tensor] = field(default_factory=dict)

    def map(self, function) -> Conditions:
        """Return a copy of the conditions with `function` applied to every tensor."""

        def apply(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, dict):
                return {name: function(x) for name, x in value.items()}
            return type(value)(*map(function, value)) if isinstance(value, tuple) else function(value)

        return Conditions(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> Conditions:
        return self.map(lambda x: x.to(device))

    def rows(self, index: slice | Tensor) -> Conditions:
        """Return the conditions of the batch rows at `index`."""
        return self.map(lambda x: x[index])

    def without(self, *names: str) -> Conditions:
        """Return a copy of the conditions without the named ones."""
        return replace(self, **{name: None for name in names})


def stack(items: Sequence[Conditions]) -> Conditions:
    """Concatenate the conditions of single items to a batch. ValueError if a field is given for some of the items only."""
    joined = {}
    for f in fields(Conditions):
        values = [getattr(item, f.name) for item in items]
        if all(value is None for value in values):
            joined[f.name] = None
        elif any(value is None for value in values):
            raise ValueError(f"condition {f.name} is given for some items of the batch only; give it to all or to none")
        elif f.name == "controls":
            joined[f.name] = {name: torch.cat([value[name] for value in values]) for name in values[0]}
        elif isinstance(values[0], tuple):
            joined[f.name] = type(values[0])(*(torch.cat(parts) for parts in zip(*values, strict=True)))
        else:
            joined[f.name] = torch.cat(values)
    return Conditions(**joined)
