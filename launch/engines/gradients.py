"""Gradient statistics of a training: detection of spikes, and noise scale of the gradient."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Spikes:
    """Decides which updates to skip: updates with a gradient norm of more than `above` times the median (0: none).

    The norm is the norm of the global batch, so all ranks decide equally. The median includes the norms of spikes. So if
    gradients grow permanently, updates continue after MEMORY / 2 steps.
    """

    MEMORY, YOUNG = 64, 16

    def __init__(self, above: float) -> None:
        self.above, self.skipped = above, 0
        self.norms: deque[float] = deque(maxlen=self.MEMORY)

    def allows(self, norm: float) -> bool:
        """Whether to make an update with a gradient of norm `norm`. Skipped updates are counted."""
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
    """Measures the mean squared norm of the gradients of this rank's parts of a batch, before averaging, while `on` is True.

    This value and the norm of the mean gradient determine the noise of the gradient (McCandlish et al. 2018, "An empirical
    model of large-batch training", appendix A.1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], parts: int, device: torch.device) -> None:
        self.parts, self.total, self.on = parts, torch.zeros((), device=device), True
        for p in parameters:
            p.register_hook(self._add)

    def _add(self, gradient: Tensor) -> None:
        if self.on:
            self.total += gradient.detach().float().square().sum()

    def take(self) -> Tensor:
        """Return the mean over parts since the last call. The loss of each part had been divided by the number of parts."""
        total, self.total = self.total * self.parts, torch.zeros_like(self.total)
        return total


def noise_scale(part: float, whole: float, rows: int, parts: int) -> float:
    """Return the noise scale: the batch size in rows at which noise and signal of the gradient are equal; nan if undefined.

    `part` is the mean squared norm of the gradient of a part of the batch. `whole` is the squared norm for the batch of `rows`
    rows in `parts` parts.
    """
    small = rows / parts
    signal = (rows * whole - small * part) / (rows - small)
    noise = (part - whole) / (1 / small - 1 / rows)
    return noise / signal if signal > 0 and noise > 0 else math.nan
