"""The file run.json of a run folder: read and checked, converted from version 2, and written.

A path in it is relative to the folder if both share a parent folder other than the root. This module imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import write_json

VERSION = 3
MOST_SECONDS = 1e9  # longest song in seconds: its samples are counted in 64 bits
REQUEST = "run.json"
NEEDED = ("verb", "model", "seed", "seconds", "total_seconds", "sample_rate", "hops", "levels", "hop_fractions", "params", "samples",
          "batches", "cuts", "given", "sources", "machine", "versions", "route", "priors")  # fmt: skip
LOWER = {"autoregressive": "jukebox", "masked": "masked"}  # words of version 2 for routes
# fields of version 2 parameters that masked and autoregressive priors have
OF_MASKED = ("temperature", "top_k", "top_p", "passes", "noise")
OF_AUTOREGRESSIVE = ("temperature", "top_k", "top_p", "guidance", "published")


def machine(threads: int) -> dict:
    """Return the properties of the machine on which bit-equal codes depend."""
    processor = platform.processor() or platform.machine()
    return {"system": platform.platform(), "processor": processor, "threads": threads}


def versions() -> dict:
    """Return the versions of Python and of the installed packages among torch, numpy and this package."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "jukebox-music"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_request(path: Path) -> dict:
    """Read and check a run.json, and make its paths absolute; UserError describes an error in the file."""
    if not path.is_file():
        raise UserError(
            f"{path.parent} holds no {REQUEST}; expected a run folder made by `jukebox sample` or `jukebox continue`"
        )
    try:
        request = json.loads(path.read_text(encoding="utf-8"))
        version = request["version"]
        if version == 2:
            request = as_version_3(request)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"it cannot be read: {error}") from error
    if version not in (2, VERSION):
        raise UserError(f"{path} is of version {version}, this program writes {VERSION}: sample it again")
    if missing := [name for name in NEEDED if name not in request]:
        raise damaged(path, f"it has no {', '.join(missing)}")
    try:
        request = _map_paths(request, lambda text: str((path.parent / text).resolve()) if text else text)
        _check_places(path, request)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"a value is of another form than expected ({error})") from error
    return request


def _check_places(path: Path, request: dict) -> None:
    """Raise UserError if the places in a request are invalid.

    A run writes only into its folder, and an edit writes its results only into the parent folder. Levels, lengths and batches
    must be consistent.
    """
    beside = path.parent.resolve().parent
    for name in request.get("outputs", ()):
        if Path(name).parent != beside:
            raise UserError(
                f"{path} is to write {name}, outside of {beside}; a run from elsewhere may not: correct its `outputs`, or do not use it"
            )
    levels, batches, samples = request["levels"], request["batches"], request["samples"]
    if not levels or not all(type(level) is int and 0 <= level < len(request["hops"]) for level in levels):
        raise damaged(path, f"its levels are {levels}")
    if not (0 < request["seconds"] <= MOST_SECONDS and 0 <= request["total_seconds"] <= MOST_SECONDS):
        raise damaged(path, f"it is of {request['seconds']} seconds, in a song of {request['total_seconds']}")
    if not samples or sorted(sample for batch in batches for sample in batch) != list(range(len(samples))):
        raise damaged(path, f"its {len(samples)} samples are not those of its batches")


def as_version_3(request: dict) -> dict:
    """Convert a request of version 2, whose field `lower` determines the prior and the parameters of each level."""
    lower, first = request.pop("lower", "autoregressive"), len(request["hops"]) - 1
    masked = {level for level in request["levels"] if lower == "masked" and level < first}
    priors = {str(level): "masked" if level in masked else f"prior_{level}" for level in request["levels"]}
    params = {}
    for level, values in request.pop("how").items():
        names = OF_MASKED if lower == "masked" and int(level) < first else OF_AUTOREGRESSIVE
        params[level] = {name: values[name] for name in names if name in values}
    return request | {"version": VERSION, "route": LOWER[lower], "priors": priors, "params": params}


def _map_paths(request: dict, change: Callable[[str], str]) -> dict:
    """Return the request with `change` applied to all paths."""
    sources = [[change(path), row] for path, row in request["sources"]]
    more: dict[str, Any] = {}
    if "recording" in request:
        more["recording"] = {**request["recording"], "path": change(request["recording"]["path"])}
    if "outputs" in request:
        more["outputs"] = [change(path) for path in request["outputs"]]
    return request | {"model": change(request["model"]), "sources": sources} | more


def write_request(folder: Path, request: dict) -> None:
    """Write run.json; a path becomes relative to the folder if both share a parent folder other than the root."""
    own = folder.resolve()

    def relative(text: str) -> str:
        common = os.path.commonpath([own, text]) if os.path.isabs(text) else ""
        return os.path.relpath(text, own) if len(Path(common).parts) > 1 else text

    write_json(folder / REQUEST, _map_paths(request, relative))


def asked_fields(request: dict) -> dict:
    """Return the fields of a request that are equal in all ranks of one command."""
    later = ("machine", "versions", "model_hash", "cuts", "device", "compiled", "findings")
    return {k: v for k, v in json.loads(json.dumps(request)).items() if k not in later}


def damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged: {reason}; restore it from a copy, or delete the folder and sample it again")
