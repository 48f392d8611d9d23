"""The device of a command: `--device`, one GPU per rank, exact arithmetic, and available memory.

torch is imported only in the functions that need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError

if TYPE_CHECKING:
    import torch

# files of a Linux control group (v2: "", v1: "memory"): folder, limit, usage, and the entry of droppable file cache
GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def choose_device(name: str) -> str:
    """Return the torch device of a `--device`: auto (cuda if there is a GPU, else cpu), cpu, cuda or cuda:N.

    Raise UserError for a name that torch does not know, and for a GPU that the machine lacks.
    """
    if name == "cpu":
        return name
    import torch

    if name.split(":")[0] not in ("auto", "cuda") and not _is_device(name):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"there is no GPU here for --device {name}; use --device cpu (its results differ from a GPU's)")
    if name.startswith("cuda:") and name[5:] not in map(str, range(count := torch.cuda.device_count())):
        raise UserError(f"there is no GPU {name[5:]} for --device {name}; there are {count}, from cuda:0 to cuda:{count - 1}")
    return name


def _is_device(name: str) -> bool:
    import torch

    try:
        return bool(torch.device(name))
    except RuntimeError:
        return False


def device_of(model: Any) -> torch.device:
    """Return the device of a model's parameters; the CPU if the model has no parameters."""
    import torch

    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def device_of_rank(device: str, rank: int) -> str:
    """Return the device of a rank: `cuda` becomes the GPU whose number is `rank` modulo the number of GPUs."""
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device


def choose_own_device(name: str, rank: int, ranks: int) -> str:
    """Return the device of process `rank` of `ranks`; several processes on `cuda` use different GPUs.

    Raise UserError as in `choose_device`, and if several processes would use one GPU (cuda:N).
    """
    device = choose_device(name)
    if ranks > 1 and device.startswith("cuda:"):
        raise UserError(f"--device {device} is one GPU for {ranks} processes; use --device cuda, which gives each its own")
    return device_of_rank(device, rank) if ranks > 1 else device


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Make a GPU the current device, and make matrix products and convolutions exact, so that codes are reproducible.

    Exact arithmetic uses no TF32 in place of float32, and adds no partial sums in bfloat16 or float16. The settings apply to
    the whole process and are restored afterwards.
    """
    import torch

    settings = _exact_settings()
    old = [getattr(owner, name) for owner, name, _ in settings]
    with ExitStack() as stack:
        if device.startswith("cuda"):
            stack.enter_context(torch.cuda.device(device))
        try:
            for owner, name, value in settings:
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name, _), value in zip(settings, old, strict=True):
                setattr(owner, name, value)


def _exact_settings() -> list[tuple[Any, str, Any]]:
    """Return torch's settings for exact arithmetic as (owner, name, value).

    From torch 2.9 on each operation has a separate float32 setting. torch forbids a mix of these with the older settings.
    """
    from torch import backends

    parts: Any = backends  # the stubs lack the newer settings
    matmul, cudnn, mkldnn = parts.cuda.matmul, parts.cudnn, parts.mkldnn
    sums = [(matmul, f"allow_{dtype}_reduced_precision_reduction", False) for dtype in ("bf16", "fp16")]
    if not hasattr(cudnn, "conv"):
        return [*sums, (matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    return [
        *sums,
        *((owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv)),
    ]


def available_memory() -> int:
    """Bytes of memory available to this process: the minimum over the system and the control groups of the process."""
    left = [1 << 62]
    with suppress(AttributeError, ValueError, OSError):
        left.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, KeyError):
        left.append(1024 * _numbers(Path("/proc/meminfo"))["MemAvailable:"])
    with suppress(OSError, ValueError):
        left += _left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(0, min(left))


def _left_in_groups(groups: Path, root: Path) -> Iterator[int]:
    """Yield the bytes that each control group of a process, and each of its parents, still allows."""
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        place, limit, used, droppable = GROUPS.get(controllers, GROUPS[""])
        group = root / place / path.strip("/")
        for folder in (group, *group.parents) if controllers in GROUPS else ():
            with suppress(OSError, ValueError, KeyError):  # a missing limit is "max"; a container does not see its own path
                files = _numbers(folder / "memory.stat")[droppable]
                yield int((folder / limit).read_text()) - int((folder / used).read_text()) + files


def _numbers(path: Path) -> dict[str, int]:
    """Read a kernel file such as /proc/meminfo: name -> number."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
