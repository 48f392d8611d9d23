"""Log a training run to a progress bar, to a file with a JSON line every few steps, and to wandb if a project is given.

The file log.jsonl is always written. A resumed run first removes the lines after its checkpoint. So the file equals the file of
an uninterrupted run. Values stay on the device until a line is due. Then the values of all steps since the last line are
transferred together. Values that are not finite are detected then. With several ranks, rank 0 writes the means over all ranks.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError
from data_prep.files import write_bytes
from launch.cli.progress import progress

if TYPE_CHECKING:
    from torch import Tensor


class NotFinite(UserError):
    """Error for a loss or gradient that became nan or infinite. The message names the term and the step."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.jsonl, the oldest first. An incomplete last line is ignored."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Log:
    """The log of one run in `folder`. The caller calls `add` every step, `flush` when a line is due, and `close` at the end."""

    def __init__(
        self, folder: Path, name: str, steps: int, done: int = 0, wandb: str = "", writes: bool = True,
        mean: Callable[[Tensor], Tensor] | None = None, limit: float = 0.0,
    ) -> None:  # fmt: skip
        """Open the log. `writes` is True on the rank that writes. `mean` computes the mean of a tensor over all ranks.

        `limit` is the time in seconds after which the training ends although steps are left (0: none).
        """
        self.path, self.mean = folder / "log.jsonl", mean
        folder.mkdir(parents=True, exist_ok=True)
        if writes:
            self._cut(done)
        self.file = self.path.open("a") if writes else open(os.devnull, "w")  # noqa: SIM115
        self.waiting: list[tuple[int, dict[str, Tensor | float]]] = []
        self.wandb = start_wandb(wandb, folder, name) if wandb and writes else None
        self.bar = progress(steps, name, unit="step", done=done, silent=not writes, limit=limit)

    def _cut(self, done: int) -> None:
        kept = [line for line in read_log(self.path) if line["step"] <= done]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, step: int, values: dict[str, Tensor | float]) -> None:
        """Store the values of step `step` (counted from 1) without waiting for the device."""
        self.waiting.append((step, {k: v.detach() if hasattr(v, "detach") else v for k, v in values.items()}))  # type: ignore[union-attr]
        self.bar.update()

    def flush(
        self, extra: dict[str, float], derive: Callable[[dict[str, float]], dict[str, float]] | None = None
    ) -> dict[str, float]:
        """Write and return a line with the means since the last line, `extra`, and the values that `derive` computes from both.

        Raises NotFinite if a value is not finite.
        """
        if not self.waiting:
            return {}
        last = self.waiting[-1][0]
        columns: dict[str, list[tuple[int, Any]]] = {}
        for step, values in self.waiting:
            for name, value in values.items():
                columns.setdefault(name, []).append((step, value))
        self.waiting = []
        line: dict[str, float] = {"step": last}
        for name, numbers in self._over_ranks({n: _to_floats([v for _, v in c]) for n, c in columns.items()}).items():
            for (step, _), number in zip(columns[name], numbers):
                if not math.isfinite(number):
                    raise NotFinite(f"{name} became {number} at step {step}")
            line[name] = sum(numbers) / len(numbers)
        line |= extra
        line |= derive(line) if derive else {}
        self.file.write(json.dumps({k: v if k == "step" else float(f"{v:.7g}") for k, v in line.items()}) + "\n")
        self.file.flush()
        self.bar.set_postfix({name: f"{line[name]:.4g}" for name in ("loss", "lr") if name in line}, refresh=False)
        if self.wandb is not None:
            self.wandb.log({k: v for k, v in line.items() if k != "step"}, step=last)
        return line

    def _over_ranks(self, columns: dict[str, list[float]]) -> dict[str, list[float]]:
        """Return the means of the columns over all ranks, computed in one collective. Every rank has the same columns."""
        if self.mean is None:
            return columns
        import torch

        flat = iter(self.mean(torch.tensor([v for column in columns.values() for v in column], dtype=torch.float64)).tolist())
        return {name: [next(flat) for _ in column] for name, column in columns.items()}

    def show(self, step: int, files: Sequence[str]) -> None:
        """Send example files to wandb; a no-op without a wandb project."""
        if self.wandb is not None and files:
            import wandb

            kinds = {".wav": wandb.Audio, ".png": wandb.Image}
            named = {f"examples/{Path(file).stem.split('_')[-1]}": kinds[Path(file).suffix](file) for file in files}
            self.wandb.log(named, step=step)

    def close(self) -> None:
        self.bar.close()
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()


def _to_floats(column: list[Any]) -> list[float]:
    """Convert numbers and 0-dimensional tensors to floats, with one transfer from the device."""
    import torch

    if isinstance(column[0], torch.Tensor):
        return torch.stack([value.float() for value in column]).tolist()
    return [float(value) for value in column]


def start_wandb(project: str, folder: Path, name: str) -> Any:
    """Start a wandb run, or continue the run of a resumed training; UserError if wandb is not installed or cannot start."""
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
