"""Read files of `torch.save`, from 2020 to today, without executing code in their pickles.

A pickle is a program that may call any Python function. This reader maps each name to one of a few known objects (a tensor
recipe, a storage type, an ordered dict) or to an inert placeholder. The placeholder accepts any call, items and state, and does
nothing. So a file may also contain optimiser states and settings of any class. There are two formats:

    zip (torch 1.6 and later)   a pickle and a record for every storage
    legacy (the 2020 files)     five pickles in sequence, then the storages

Tensors are recipes (`StoredTensor`) that are read on demand. Unused tensors, such as an optimiser's state, are never read. So
the conversion of a checkpoint of any size needs the memory of its largest tensor only.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from data_prep.errors import UserError
from data_prep.files import stand_in

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # magic number of a legacy file
_KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
STORAGES = {f"{kind}Storage": getattr(torch, f"{kind}Tensor").dtype for kind in _KINDS}


class Placeholder(dict):
    """Placeholder for an object of an unknown class. It stores items and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return Placeholder()

    def ignore(self, *args: Any) -> None:
        pass

    append = extend = add = ignore
    __hash__ = object.__hash__  # type: ignore[assignment]  # a value of an enumeration may be a key of a dict


@dataclass(frozen=True)
class Storage:
    """A storage in the file. It has `size` values, and `key` is its name in the file."""

    dtype: torch.dtype
    key: str
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read: a view of a storage. Offset and stride count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Content of a file: plain values, placeholders and unread tensors. `tensor` reads a tensor."""

    content: Any
    path: Path
    read: Callable[[Storage, int, int], Tensor]  # (storage, offset, count) -> values

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read the tensor; UserError if it exceeds its storage or the file is too short."""
        span = 1 + sum((size - 1) * step for size, step in zip(stored.shape, stored.stride, strict=True))
        try:
            if 0 in stored.shape:
                return torch.empty(stored.shape, dtype=stored.storage.dtype)
            if stored.offset + span > stored.storage.size:
                raise ValueError(f"{stored.offset + span} numbers of a storage of {stored.storage.size}")
            return self.read(stored.storage, stored.offset, span).as_strided(stored.shape, stored.stride)
        except (RuntimeError, ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path}: a tensor cannot be read ({error}); {_AGAIN}") from error


_AGAIN = "the file is cut short or damaged: download or copy it again"


def open_checkpoint(path: str | Path) -> PublishedCheckpoint:
    """Open a file of `torch.save` in either format; UserError for other or truncated files."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if instead := stand_in(path):
        raise UserError(f"{path} is {instead}; download or copy it again")
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _open_zip(path, file) if is_zip else _open_legacy(path, file)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can cause any error
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a file of torch.save ({reason}); {_AGAIN}") from error


def stored_tensors(checkpoint: PublishedCheckpoint, entry: str = "model") -> dict[str, StoredTensor]:
    """Return the unread tensors under `entry` (empty: of the whole file) by name, without `module.` of wrapped models.

    Raise UserError if there is no such entry, or if it contains anything but tensors.
    """
    content, path = checkpoint.content, checkpoint.path
    if not isinstance(content, Mapping) or (entry and not isinstance(content.get(entry), Mapping)):
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{path} has no {entry!r}; expected a checkpoint with the weights under that name, not {found}")
    tensors = content[entry] if entry else content
    if isinstance(tensors, Placeholder):
        raise UserError(f"{path}: {entry!r} is an object of an unknown class; expected a dict of tensors")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            kind = "an object of an unknown class" if isinstance(value, Placeholder) else f"a {type(value).__name__}"
            raise UserError(f"{path}: {entry}[{name!r}] is {kind}; among the weights only tensors are read")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def state_dict(checkpoint: PublishedCheckpoint, entry: str = "model") -> dict[str, Tensor]:
    """Read all tensors under `entry`; UserError as in `stored_tensors`."""
    return {name: checkpoint.tensor(stored) for name, stored in stored_tensors(checkpoint, entry).items()}


class _Unpickler(pickle.Unpickler):
    """Maps known names to objects and all other names to placeholders. It imports and calls nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        return known.get((module, name)) or type(name, (Placeholder,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, *rest = pid
        if kind == "module":  # legacy format: a class with its source
            return rest[0]
        dtype, key, _, size = rest[:4]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or (len(rest) > 4 and rest[4] is not None):
            raise pickle.UnpicklingError(f"a storage of an unknown kind, {key!r}")
        return Storage(dtype, str(key), _whole(size))


def _load(file: BinaryIO, unpickler: Callable[[BinaryIO], pickle.Unpickler] = _Unpickler) -> Any:
    """Load the pickle that begins at the position of `file`.

    First check that the memo table is not longer than the file. A damaged index would allocate a huge table.
    """
    start, end = file.tell(), file.seek(0, io.SEEK_END)
    file.seek(start)
    for word, argument, _ in pickletools.genops(file):
        if word.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > end:  # index in the memo table
            raise pickle.UnpicklingError(f"object {argument} is to be remembered, of {end} bytes")
    file.seek(start)
    return unpickler(file).load()


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return StoredTensor(storage, _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, stride)))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise pickle.UnpicklingError(f"{value!r} where a size is expected")
    return value


def _open_zip(path: Path, file: BinaryIO) -> PublishedCheckpoint:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip file, but none of torch.save: it has {len(pickles)} data.pkl, expected 1")
        root = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise UserError(f"{path} is a zip file with compressed members, which torch.save does not write; {_AGAIN}")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != sys.byteorder.encode():
            raise UserError(f"{path} was written on a machine of another byte order; write it again on one like this")
        content = _load(io.BytesIO(archive.read(pickles[0])))

    def read(storage: Storage, start: int, count: int) -> Tensor:
        entry = entries[f"{root}data/{storage.key}"]
        size = storage.size * storage.dtype.itemsize
        if entry.file_size < size:
            raise ValueError(f"storage {storage.key} has {entry.file_size} bytes, expected {size}")
        with path.open("rb") as again:
            again.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", _exactly(again, 4))
            return _numbers(again, entry.header_offset + 30 + name + extra, storage.dtype, start, count)

    return PublishedCheckpoint(content, path, read)


def _open_legacy(path: Path, file: BinaryIO) -> PublishedCheckpoint:
    if _load(file) != MAGIC or _load(file) != PROTOCOL:
        raise UserError(f"{path} is no file of torch.save; expected a checkpoint such as vqvae.pth.tar")
    system = _load(file)
    if bool(system["little_endian"]) != (sys.byteorder == "little"):
        raise UserError(f"{path} was written on a machine of another byte order; write it again on one like this")
    seen: dict[str, Storage] = {}

    class Listing(_Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            found = super().persistent_load(pid)
            if isinstance(found, Storage) and seen.setdefault(found.key, found) != found:
                raise pickle.UnpicklingError(f"storage {found.key} is specified in two ways")
            return found

    content = _load(file, lambda opened: Listing(opened, encoding="utf-8"))
    places, end = {}, path.stat().st_size
    for key in _load(file):  # storages are in this order; the number of values is before each storage
        storage = seen[str(key)]
        (count,) = struct.unpack("<q", _exactly(file, 8))
        places[storage.key] = file.tell()
        file.seek(count * storage.dtype.itemsize, io.SEEK_CUR)
        if count != storage.size or file.tell() > end:
            raise EOFError(f"storage {key} has {count} numbers, expected {storage.size}, and the file {end} bytes")

    def read(storage: Storage, start: int, count: int) -> Tensor:
        with path.open("rb") as again:
            return _numbers(again, places[storage.key], storage.dtype, start, count)

    return PublishedCheckpoint(content, path, read)


def _numbers(file: BinaryIO, place: int, dtype: torch.dtype, start: int, count: int) -> Tensor:
    """Read `count` values from index `start` of the data at byte `place` into new memory."""
    file.seek(place + start * dtype.itemsize)
    return torch.frombuffer(_exactly(file, count * dtype.itemsize), dtype=dtype)


def _exactly(file: BinaryIO, count: int) -> bytearray:
    there = os.fstat(file.fileno()).st_size - file.tell()
    if count > there:  # checked before this memory is allocated
        raise EOFError(f"the file ends {count - there} bytes early")
    data = bytearray(count)
    if (got := file.readinto(data)) != count:  # type: ignore[attr-defined]
        raise EOFError(f"the file ends {count - got} bytes early")
    return data
