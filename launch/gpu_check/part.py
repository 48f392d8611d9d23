"""One part of the GPU check in a separate process: `python -m launch.gpu_check.part JOB`.

The rows of the part are lines of JSON on stdout; other output goes to stderr.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from jukebox.model.folder import hollow, is_norm
from jukebox.model.settings import PRIORS, VQVAES, prior_config
from launch.bench.alternate import best_seconds
from launch.cli.commands import load
from priors.autoregressive.config import AutoregressiveConfig
from priors.spec import PriorConfig

# replaces published settings, but keeps every attention pattern of the published models
TINY = {
    "n_ctx": 64, "prior_width": 64, "prior_depth": 20, "heads": 2, "blocks": 8, "y_bins": (5, 9), "cond_width": 16, "cond_depth": 2,
    "prime_width": 32, "prime_depth": 3,
}  # fmt: skip


def published(name: str, tiny: bool) -> AutoregressiveConfig:
    """Return the configuration of a published prior, or of a tiny prior with the same structure."""
    return prior_config(PRIORS[name] | (TINY if tiny else {}), VQVAES["vqvae"])


@dataclass(frozen=True)
class Part:
    """Context of a part: its device, whether models are tiny, and the function that writes its rows."""

    device: torch.device
    tiny: bool
    write: Callable[[dict[str, Any]], None]

    def figure(
        self, name: str, value: float, unit: str, dtype: str = "bfloat16", *, at_least: float = math.nan, at_most: float = math.nan
    ) -> None:  # fmt: skip
        """Write a figure, and its target if it has one."""
        aims = {f">= {at_least:g}": value >= at_least, f"<= {at_most:g}": value <= at_most}
        aim = next((aim for aim in aims if "nan" not in aim), "")
        number = value if math.isfinite(value) else None
        self.write({"dtype": dtype, "figure": name, "value": number, "unit": unit, "aim": aim or None, "met": aims.get(aim)})

    def prior(self, config: PriorConfig, dtype: torch.dtype = torch.bfloat16, std: float = 0.02) -> Any:
        """Create a prior with random weights on the device; its norms are float32, as in a loaded prior."""
        prior = hollow(config)
        state = {
            name: torch.empty(p.shape, device=self.device, dtype=torch.float32 if is_norm(name) else dtype).normal_(std=std)
            for name, p in prior.state_dict().items()
        }
        prior.load_state_dict(state, assign=True)
        return prior.eval().requires_grad_(False)

    def seconds(self, function: Callable[[], object]) -> float:
        """Return the seconds of the fastest of several calls."""
        return best_seconds(function, 0.0 if self.tiny else 2.0)


def main(job: dict[str, Any]) -> int:
    """Run a part; return the exit code, which is 1 if the part fails."""
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def write(row: dict[str, Any]) -> None:
        print(json.dumps(job["row"] | row), file=rows, flush=True)

    torch.manual_seed(0)
    try:
        load(job["target"])(Part(torch.device(job["device"]), job["tiny"], write))
    except ModuleNotFoundError as error:
        write({"skipped": f"{error.name} is not installed"})
    except Exception as error:
        traceback.print_exc()
        write({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
