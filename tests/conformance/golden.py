"""A golden: recorded outputs of the public 2020 reference, and the result of a comparison with one.

NAME.json holds settings and scalars, NAME.io.safetensors inputs, expected outputs and gradients, NAME.state.safetensors the
weights under their published names. tests/golden/README.md names their source.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor


class Check(NamedTuple):
    """One comparison: `error` is out beyond `limit`; limit None was not checked, and `what` has the reason."""

    what: str
    error: float = 0.0
    limit: float | None = None

    @property
    def ok(self) -> bool:
        return self.limit is None or self.error <= self.limit  # nan is out

    def __str__(self) -> str:
        if self.limit is None:
            return f"  --    {self.what}"
        return f"  {'ok  ' if self.ok else 'OUT '}  {self.what}: {self.error:.2g} (limit {self.limit:.2g})"


class Golden:
    """The files of one golden; each is read when it is first asked for."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name

    @cached_property
    def json(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))

    @property
    def has_io(self) -> bool:
        return (self.folder / f"{self.name}.io.safetensors").is_file()

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.io.safetensors")

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.state.safetensors")


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return math.inf
    return (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0


def apart_of_largest(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, as a share of the largest expected number."""
    return apart(ours, theirs) / max(theirs.abs().max().item(), 1e-12) if theirs.numel() else apart(ours, theirs)


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)
