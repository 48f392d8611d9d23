"""Public names of the Python API; each is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jukebox.api import Callbacks, Cancelled, Jukebox, Progress
    from jukebox.audio import Audio
    from jukebox.model.code_file import Codes
    from jukebox.params import EditOptions, KeptPrompt, MachineOptions, SamplingOptions, SamplingParams
    from jukebox.runs.run import Run
    from jukebox.song import Song
    from priors.autoregressive.config import AutoregressiveParams
    from priors.masked.config import MaskedParams

__all__ = [
    "Audio", "AutoregressiveParams", "Callbacks", "Cancelled", "Codes", "EditOptions", "Jukebox", "KeptPrompt", "MachineOptions",
    "MaskedParams", "Progress", "Run", "SamplingOptions", "SamplingParams", "Song",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("Callbacks", "Cancelled", "Jukebox", "Progress"), "jukebox.api"),
    **dict.fromkeys(("EditOptions", "KeptPrompt", "MachineOptions", "SamplingOptions", "SamplingParams"), "jukebox.params"),
    "AutoregressiveParams": "priors.autoregressive.config", "MaskedParams": "priors.masked.config",
    "Audio": "jukebox.audio", "Codes": "jukebox.model.code_file", "Run": "jukebox.runs.run", "Song": "jukebox.song",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the public name `name` on first use, so that `import jukebox` is fast (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jukebox' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
