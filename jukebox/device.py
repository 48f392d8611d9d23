"""The device that a command runs on: its `--device`, the GPU of a rank, and the memory that is left.

torch is imported when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data_prep.errors import UserError

# of a control group: its folder's place, its limit, what it uses, and what of that are files that can be dropped
GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def choose_device(name: str) -> str:
    """The device for `auto` (cuda if there is a GPU, else cpu), cpu, cuda or cuda:N; UserError for a GPU that is not there."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"there is no GPU here for --device {name}; use --device cpu (its results differ from a GPU's)")
    return name


def device_of_rank(device: str, rank: int) -> str:
    """Distributes the ranks of one machine over its GPUs if `device` is cuda without a number."""
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device


def available_memory() -> int:
    """Bytes of memory that are left to this process: what the system has, and what its control groups allow."""
    left = [1 << 62]
    with suppress(AttributeError, ValueError, OSError):
        left.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, KeyError):
        left.append(1024 * _numbers(Path("/proc/meminfo"))["MemAvailable:"])
    with suppress(OSError, ValueError):
        left += _left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(0, min(left))


def _left_in_groups(groups: Path, root: Path) -> Iterator[int]:
    """The bytes that the control groups of a process, and those above them, leave it."""
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        place, limit, used, droppable = GROUPS.get(controllers, GROUPS[""])
        group = root / place / path.strip("/")
        for folder in (group, *group.parents) if controllers in GROUPS else ():
            with suppress(OSError, ValueError, KeyError):  # no limit is "max"; a container does not see its own path
                files = _numbers(folder / "memory.stat")[droppable]
                yield int((folder / limit).read_text()) - int((folder / used).read_text()) + files


def _numbers(path: Path) -> dict[str, int]:
    """The number behind each name of a file of the system's."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
