"""Write a safetensors file tensor by tensor: the header first, then each tensor as soon as it is read.

The file has eight bytes with the header's length, the header in json (name -> dtype, shape, offsets), and the data. Shapes are
known before any tensor is read, so a checkpoint of any size needs the memory of one tensor only. The dtype is converted in
blocks, so that the converted tensor is never in memory as a whole.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_prep.files import replacing

PIECE = 1 << 20  # values whose dtype is converted at a time
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Lazy:
    """A tensor of known shape that is read on demand."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def write_streamed(
    path: Path, tensors: Mapping[str, Lazy], dtype: Callable[[str], torch.dtype], done: Callable[[int], object] | None = None
) -> None:
    """Write `tensors` to `path` atomically. ValueError if a tensor has another shape than its header.

    dtype: returns the dtype of a tensor by name
    done: is called with the number of bytes after each tensor
    """
    # wide dtypes first, so that every tensor is aligned
    order = sorted(tensors, key=lambda name: (-dtype(name).itemsize, name))
    header, end = {}, 0
    for name in order:
        size = math.prod(tensors[name].shape) * dtype(name).itemsize
        header[name] = {"dtype": _NAMES[dtype(name)], "shape": list(tensors[name].shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            tensor = tensors[name].read()
            if tuple(tensor.shape) != tensors[name].shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; its header has {tensors[name].shape}")
            flat = tensor.detach().contiguous().view(-1)
            del tensor
            for start in range(0, len(flat), PIECE):
                file.write(flat[start : start + PIECE].to(dtype(name)).view(torch.uint8).numpy().tobytes())
            if done is not None:
                done(flat.numel() * dtype(name).itemsize)
            del flat  # frees memory before the next tensor is read
