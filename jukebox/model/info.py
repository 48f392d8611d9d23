"""What config.json says of a model, without opening it: enough to write a request before anything heavy is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import file_hash
from data_prep.labels import Labels
from jukebox.sampling.windows import codes_of


def by_level(config: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What a config.json says of the priors that write one level each, by level."""
    return {p["level"]: p for p in config["priors"] if "level" in p}


def threads_for(width: int, asked: int) -> int:
    """CPU threads as asked; by itself one for priors that are not wide, whose steps are too short to be shared."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or (1 if width < 512 else int(os.environ.get("OMP_NUM_THREADS") or cores))


@dataclass(frozen=True)
class ModelInfo:
    """What config.json says of a model, without opening it."""

    folder: Path
    sample_rate: int
    channels: int
    hops: tuple[int, ...]
    priors: Mapping[int, int]  # level -> width
    masked: bool = False  # whether there is a prior that fills holes in all levels

    @staticmethod
    def read(folder: str | Path) -> ModelInfo:
        """The facts of a model folder; UserError where it is none."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {path.name}; expected a model folder: train one with `jukebox train`, or give another path"
            )
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            codec = config["codec"]["config"]
            hops = tuple(accumulate((s**d for s, d in zip(codec["strides_t"], codec["downs_t"], strict=True)), mul))
            priors = {level: p["config"]["trunk"]["width"] for level, p in by_level(config).items()}
            masked = any(p.get("kind") == "masked" for p in config["priors"])
            return ModelInfo(path.parent.resolve(), codec["sample_rate"], codec["channels"], hops, priors, masked)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a model configuration of this version ({error!r}); train or import it again"
            ) from error

    @property
    def labels(self) -> Labels:
        path = self.folder / "labels.json"
        return Labels.load(path) if path.is_file() else Labels()

    def codes(self, seconds: float, level: int) -> int:
        return codes_of(seconds, self.sample_rate, self.hops[level], self.hops[-1])

    def threads(self, asked: int) -> int:
        return threads_for(max(self.priors.values(), default=0), asked)

    def check_levels(self, levels: Sequence[int], given: int | None = None, lower: str = "") -> list[int]:
        """Levels to fill, the coarsest first; all below `given`, which needs no prior, or from the top on.

        Where `lower` is masked those below the top need the masked prior, and none of their own.
        """
        top = len(self.hops) - 1 if given is None else given
        levels = sorted(set(levels) or set(range(top + 1)), reverse=True)
        if levels != list(range(top, levels[-1] - 1, -1)) or levels[-1] < 0:
            raise UserError(f"levels {levels}; expected level {top} and those below it without a gap, as in 2,1")
        filled = [level for level in levels if lower == "masked" and level + 1 < len(self.hops) and level != given]
        if filled and not self.masked:
            raise UserError(
                f"{self.folder} has no masked prior; run `jukebox train masked DATA --out {self.folder}` first"
            )
        for level in levels:
            if level not in self.priors and level != given and level not in filled:
                raise UserError(
                    f"{self.folder} has no prior for level {level}; run `jukebox train prior --level {level}`, sample --levels above it"
                    + (", or give --lower masked" if self.masked and level + 1 < len(self.hops) else "")
                )
        return levels


def check_weights(request: Mapping[str, Any], info: ModelInfo) -> None:
    """Refuse to go on with other weights than those that drew the codes there are."""
    known = request.get("model_hash") or {}
    changed = [
        name
        for name, old in known.items()
        if not (info.folder / name).is_file() or file_hash(info.folder / name) != old
    ]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of {info.folder} changed since this run was sampled; its codes would not fit: sample again"
        )
