"""What a training run says: a progress bar, a line of json for every few steps, and wandb when a project is named.

The jsonl file is the record and is always written; a resumed run first cuts the lines behind its checkpoint, so that
the file of a run that was killed reads like that of one that was not. Values stay on the device until a line is due:
the numbers of all steps since the last line then come over together, which is also when one that is not finite is
found.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data_prep.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class NotFinite(UserError):
    """A loss or gradient became nan or infinite; the message names the term and the step."""


def progress(total: float, what: str, unit: str = "it", done: float = 0) -> tqdm[Any]:
    """A bar with rate and time left; in a log file it writes a line every ten seconds, not ten a second."""
    every = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, initial=done, desc=what, unit=unit, mininterval=every, dynamic_ncols=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl, oldest first; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Log:
    """The record of one run in `folder`: `add` every step, `flush` when a line is due, `close` at the end."""

    def __init__(self, folder: Path, name: str, steps: int, done: int = 0, wandb: str = "") -> None:
        self.path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._cut(done)
        self.file = self.path.open("a")
        self.waiting: list[tuple[int, dict[str, Tensor | float]]] = []
        self.wandb = start_wandb(wandb, folder, name) if wandb else None
        self.bar = progress(steps, name, unit="step", done=done)

    def _cut(self, done: int) -> None:
        kept = [line for line in read_log(self.path) if line["step"] <= done]
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(fresh, self.path)

    def add(self, step: int, values: dict[str, Tensor | float]) -> None:
        """Keeps the values of step `step` (counted from 1) without waiting for the device."""
        self.waiting.append((step, {k: v.detach() if hasattr(v, "detach") else v for k, v in values.items()}))  # type: ignore[union-attr]
        self.bar.update()

    def flush(self, extra: dict[str, float]) -> dict[str, float]:
        """Writes the means since the last line, and `extra`; NotFinite where a value was none."""
        if not self.waiting:
            return {}
        last = self.waiting[-1][0]
        columns: dict[str, list[tuple[int, Any]]] = {}
        for step, values in self.waiting:
            for name, value in values.items():
                columns.setdefault(name, []).append((step, value))
        self.waiting = []
        line: dict[str, float] = {"step": last}
        for name, column in columns.items():
            numbers = _to_floats([value for _, value in column])
            for (step, _), number in zip(column, numbers):
                if not math.isfinite(number):
                    raise NotFinite(f"{name} became {number} at step {step}")
            line[name] = sum(numbers) / len(numbers)
        line |= extra
        self.file.write(json.dumps({k: v if k == "step" else float(f"{v:.7g}") for k, v in line.items()}) + "\n")
        self.file.flush()
        self.bar.set_postfix({"loss": f"{line['loss']:.4g}", "lr": f"{line['lr']:.2g}"}, refresh=False)
        if self.wandb is not None:
            self.wandb.log({k: v for k, v in line.items() if k != "step"}, step=last)
        return line

    def close(self) -> None:
        self.bar.close()
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()


def _to_floats(column: list[Any]) -> list[float]:
    """Floats of numbers or of 0-dimensional tensors, the tensors in one transfer from their device."""
    import torch

    if isinstance(column[0], torch.Tensor):
        return torch.stack([value.float() for value in column]).tolist()
    return [float(value) for value in column]


def start_wandb(project: str, folder: Path, name: str) -> Any:
    """A wandb run that a resumed training continues; UserError when wandb is not installed or cannot start."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"--wandb {project} was given, but wandb is not installed: pip install 'jukebox-music[train]', or leave "
            "the flag away (log.jsonl is written in any case)"
        ) from error
    run_id = f"{folder.resolve().parent.parent.name}-{name}"
    try:
        return wandb.init(project=project, name=name, id=run_id, resume="allow", dir=str(folder))
    except Exception as error:
        raise UserError(
            f"--wandb {project}: wandb could not start ({error}); `wandb login` first, or WANDB_MODE=offline"
        ) from error
