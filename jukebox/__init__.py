"""Songs: a codec and a prior for every level, joined. `from jukebox import Jukebox, Song` loads them when first named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jukebox.api import Jukebox
    from jukebox.song import Song

__all__ = ["Jukebox", "Song"]
__version__ = "0.1.0"

_HOMES = {"Jukebox": "jukebox.api", "Song": "jukebox.song"}


def __getattr__(name: str) -> Any:
    """The public name `name`, imported now; until then `import jukebox` costs next to nothing (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jukebox' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
