"""Substitutes for optional packages of the GPU check, so that most of its parts need only torch and numpy.

The shapes of jaxtyping are for readers and type checkers, and its substitute ignores them. The substitute of fire passes
checked values on. The substitute of safetensors only reads, for the golden files. A part that writes a model raises
ImportError.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor


def fill_in() -> None:
    """Install the substitute modules for jaxtyping, fire and safetensors if they are missing."""
    modules: dict[str, dict[str, Any]] = {
        "jaxtyping": dict.fromkeys(("Bool", "Complex", "Float", "Int", "Shaped"), AnyShape),
        "fire": {"Fire": call_verb},
        "fire.decorators": {"SetParseFns": parse_with},
        "safetensors": {"safe_open": missing, "SafetensorError": ValueError},
        "safetensors.torch": {"save_file": missing, "load_file": load_file},
    }
    absent = {name for name in modules if "." not in name and not find_spec(name)}
    for name in (name for name in modules if name.partition(".")[0] in absent):
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(modules[name])


class AnyShape:
    """Makes `Float[Tensor, "b t"]` equal to `Tensor`."""

    def __class_getitem__(cls, item: tuple[type, str]) -> type:
        return item[0]


def parse_with(**parse: Callable[[str], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda verb: lambda **texts: verb(**{name: parse[name](text) for name, text in texts.items()})


def call_verb(verb: Callable[..., Any], command: Sequence[str], name: str) -> None:
    verb(**dict(word[2:].split("=", 1) for word in command))


def missing(*_: Any, **__: Any) -> NoReturn:
    raise ModuleNotFoundError("No module named 'safetensors'", name="safetensors")


def load_file(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file: the length of its header, the header as JSON, and the bytes of the tensors."""
    import torch

    data, tensors, dtypes = path.read_bytes(), {}, {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, stop = (start + offset for offset in entry["data_offsets"])
            tensors[name] = torch.frombuffer(bytearray(data[first:stop]), dtype=dtypes[entry["dtype"]]).view(entry["shape"])
    return tensors
