"""Gradient statistics of a training: updates to skip, and the noise scale of a batch."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Spikes:
    """Decides which updates to skip: those with a gradient norm far above the median.

    The norm is that of the whole batch, so that all ranks decide equally. All norms count for the median, also those of spikes.
    So if gradients grow permanently, updates continue after half of the memory.
    """

    MEMORY, YOUNG = 64, 16

    def __init__(self, above: float) -> None:
        self.above, self.skipped = above, 0
        self.norms: deque[float] = deque(maxlen=self.MEMORY)

    def allows(self, norm: float) -> bool:
        """Whether to make an update with a gradient of this norm; counts skipped ones."""
        usual = statistics.median(self.norms) if len(self.norms) >= self.YOUNG else math.inf
        self.norms.append(norm)
        spike = bool(self.above) and self.above * usual < norm
        self.skipped += spike
        return not spike

    def state(self) -> dict[str, Any]:
        return {"norms": list(self.norms), "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        self.norms.extend(state["norms"])
        self.skipped = state["skipped"]


class PartNorms:
    """The mean squared norm of the gradients of a batch's parts, on this rank, before they are averaged; measured while `on`.

    Together with the norm of their mean it gives the gradient's noise (McCandlish et al. 2018, "An empirical model of
    large-batch training", appendix A.1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], parts: int, device: torch.device) -> None:
        self.parts, self.total, self.on = parts, torch.zeros((), device=device), True
        for p in parameters:
            p.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        if self.on:
            self.total += gradient.detach().float().square().sum()

    def take(self) -> Tensor:
        """The mean since the last call; each part's loss had been divided by the number of parts."""
        total, self.total = self.total * self.parts, torch.zeros_like(self.total)
        return total


def noise_scale(part: float, whole: float, rows: int, parts: int) -> float:
    """The batch, in rows, at which noise and signal of the gradient are equal; nan if undefined.

    `part` and `whole` are mean squared norms of the gradients of a part of the batch and of the batch of `rows`.
    """
    small = rows / parts
    signal = (rows * whole - small * part) / (rows - small)
    noise = (part - whole) / (1 / small - 1 / rows)
    return noise / signal if signal > 0 and noise > 0 else math.nan
