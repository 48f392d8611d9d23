"""Frame-wise controls, such as tempo in beats per minute, as channels of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

CHANNELS = 2  # channels of a control: the scaled value, and a flag that the value is known
# control -> function that scales a value to a range of about -1 to 1
SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "tempo": lambda beats: (beats / 120).log2(),  # beats per minute
    "density": lambda notes: notes / 4 - 1,  # notes per second
}


def control_channels(controls: Mapping[str, Float[Tensor, "b t"]], names: Sequence[str], rows: int, frames: int) -> Tensor:
    """Return the controls `names` as channels (b, t, c). A value that is missing or 0 is unknown.

    A control with a single frame applies to all frames.
    """
    channels = []
    for name in names:
        values = controls.get(name, torch.zeros(1, 1))
        known = values > 0
        scaled = torch.where(known, SCALES[name](values.clamp(min=1e-3)), 0.0)
        channels.append(torch.stack([scaled, known.to(scaled)], dim=-1).expand(rows, frames, CHANNELS))
    return torch.cat(channels, dim=-1) if channels else torch.zeros(rows, frames, 0)
