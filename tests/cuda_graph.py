"""CUDA graphs on a CPU: a recording of operations that, like a real graph, holds the addresses of its inputs and not the tensors."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass  # a tuple would be taken for a tree of tensors
class Address:
    """Where a tensor from outside of the graph lies."""

    storage: StorageWeakRef
    like: tuple[Any, ...]  # dtype, offset, size, stride

    def tensor(self) -> Tensor:
        """The tensor; AssertionError where its memory was freed."""
        storage, (dtype, *place) = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata), self.like
        assert storage is not None, "a captured graph uses memory that was freed"
        return torch.empty(0, dtype=dtype).set_(storage, *place)


class Graph(TorchDispatchMode):
    """What is done while it is entered takes effect only by `replay`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.own: set[int] = set()  # storages that were made inside
        self.before: list[tuple[Tensor, Tensor]] = []

    def _address(self, x: Tensor) -> Tensor | Address:
        if x.untyped_storage()._cdata in self.own:
            return x
        return Address(StorageWeakRef(x.untyped_storage()), (x.dtype, x.storage_offset(), x.size(), x.stride()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = {x.untyped_storage()._cdata for x in inputs}
        if func._schema.is_mutable:
            self.before += [(x, x.clone()) for x in inputs]
        made = func(*args, **(kwargs or {}))
        self.own |= {x.untyped_storage()._cdata for x in tree_leaves(made) if isinstance(x, Tensor)} - given
        self.calls.append((func, *(tree_map_only(Tensor, self._address, x) for x in (args, kwargs or {}, made))))
        return made

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        for x, old in reversed(self.before):
            x.copy_(old)
        self.before.clear()

    def replay(self) -> None:
        for func, *recorded in self.calls:
            args, kwargs, made = (tree_map_only(Address, Address.tensor, x) for x in recorded)
            new = func(*args, **kwargs)
            for x, y in zip(tree_leaves(made), tree_leaves(new), strict=True):
                if isinstance(x, Tensor) and x.data_ptr() != y.data_ptr():
                    x.copy_(y)


def stub_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put such graphs in place of torch's; what is done on a device is recorded in the list that is returned."""
    done, stream = [], SimpleNamespace(wait_stream=lambda other: None)

    @contextmanager
    def device(name):
        done.append(f"enter {name}")
        yield
        done.append(f"leave {name}")

    monkeypatch.setattr(Graph, "replay", lambda self, plain=Graph.replay: done.append("replay") or plain(self))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: done.append("capture") or graph)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    return done
