"""The device that a command runs on: its `--device`, and the GPU of a rank. torch is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError

if TYPE_CHECKING:
    import torch


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


def device_of(model: Any) -> torch.device:
    """The device that the parameters of a model are on; the CPU where it has none."""
    import torch

    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def device_of_rank(device: str, rank: int) -> str:
    """Distributes the ranks of one machine over its GPUs if `device` is cuda without a number."""
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device
