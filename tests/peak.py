"""The peak memory of real sampling runs compared with their plan: `python -m tests.peak NAME [--stored bf16] [--keep DIR]
[flags of sample]`.

NAME is a preset or a published set. A model folder of that shape is written to DIR (or a temporary folder), with random weights
in float32, bf16 or fp16 that are never in memory together. Then `jukebox sample` runs on it in a separate process. The
measurement is the kernel's VmHWM, the peak resident memory. It includes private pages (RssAnon: caches, activations, the
interpreter) and pages of files (RssFile: the memory-mapped weights, and torch's libraries). File pages can be dropped and read
again, but every step of decoding reads all weights. So they count; a plan without them would predict a run that mostly reads
the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.labels import Labels
from jukebox.importers.convert import DTYPES, write_prior
from jukebox.importers.streamed import Lazy
from jukebox.model.folder import ModelFolder, build_codec, hollow
from jukebox.model.info import ModelInfo
from jukebox.model.presets import find, shapes
from jukebox.model.settings import PRIORS, VQVAES, prior_config
from jukebox.planning.sampling import Plan, plan_sampling
from priors.autoregressive.config import AutoregressiveConfig
from priors.conditioning.vocabulary import PUBLISHED, Characters
from priors.spec import PriorConfig


@dataclass(frozen=True)
class Peak:
    """The most bytes that a process had at once: in all, of its own, of mapped files; looked at every 20 ms."""

    all: int
    own: int
    mapped: int


def make_random(folder: Path, name: str, dtype: torch.dtype, levels: tuple[int, ...] = ()) -> ModelFolder:
    """A model folder of the shape `name` with random weights in `dtype`; of its priors only `levels` (none: all)."""
    info = ModelInfo.of_shapes(*shapes(name))
    lyric_tokens = next((p.config.lyrics.vocabulary for p in info.priors.values() if p.config.lyrics), 0)
    symbols = next((s for s in PUBLISHED.values() if len(s) + 1 == lyric_tokens), None)
    codec = info.codecs[0].config
    model = ModelFolder.create(folder, codec, Characters(symbols) if symbols else None)
    model.save_labels(Labels(("unknown", "ann"), ("unknown", "rock"), None))
    model.save_codec(build_codec(codec))
    for level in levels or info.levels_with_prior:
        entry = info.writer(info.stream(level).name)
        assert entry
        write_prior(folder / entry.file, random_weights(entry.config), dtype)
        model.name_prior(entry.name, entry.config)
    return model


def shrunk(name: str) -> AutoregressiveConfig:
    """A published prior with its patterns and conditions, but narrow and short; or the top prior of a preset."""
    if name not in PRIORS:
        config = find(name).priors["prior_2"]
        assert isinstance(config, AutoregressiveConfig)
        return config
    small: dict = {"n_ctx": 768, "blocks": 32, "prior_width": 128, "y_bins": (10, 10)}
    if "1b" in name:
        small |= {"prior_depth": 32, "n_tokens": 64}
    elif "lyrics" in name:
        small |= {"prior_depth": 19, "n_tokens": 64, "prime_width": 64, "prime_depth": 3, "heads": 2}
    else:
        small |= {"prior_depth": 6, "cond_width": 64}
    return prior_config({**PRIORS[name], **small}, VQVAES["vqvae"])


def random_weights(config: PriorConfig) -> dict[str, Lazy]:
    """The tensors of a prior, each drawn when it is read; small, as the published ones begin."""
    rng = torch.Generator().manual_seed(0)

    def lazy(shape: tuple[int, ...]) -> Lazy:
        return Lazy(shape, lambda: torch.empty(shape).normal_(std=0.02, generator=rng))

    return {name: lazy(tuple(tensor.shape)) for name, tensor in hollow(config).state_dict().items()}


def watch(*command: str) -> Peak:
    """Run a verb of the command line to its end and watch its memory; AssertionError with its output if it fails."""
    seen = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "launch.cli", *command], stdout=said, stderr=said)
        while process.poll() is None:
            for name in seen:  # not getrusage, which counts what the parent had when it forked
                seen[name] = max(seen[name], _status(process.pid, name))
            time.sleep(0.02)
        said.seek(0)
        assert process.returncode == 0, f"exit code {process.returncode}: {said.read()}"
    return Peak(*seen.values())


def _status(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def compare(model: Path, out: Path, *flags: str) -> tuple[Plan, Peak]:
    """Sample with these flags into the run folder `out`: the plan for the settings in run.json, and the peak."""
    peak = watch("sample", str(model), "--out", str(out), *flags)
    return plan_sampling(ModelInfo.read(model), json.loads((out / "run.json").read_text())), peak


def main(name: str, *flags: str) -> None:
    """Make, sample, compare, and print a line of a table."""
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    stored, keep = given.pop("--stored", "bf16"), given.pop("--keep", "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(keep or temporary) / f"{name}_{stored}"
        if not (folder / "config.json").is_file():
            levels = tuple(int(level) for level in given.get("--levels", "").split(",") if level)
            make_random(folder, name, DTYPES[stored], levels)
        plan, peak = compare(folder, Path(temporary) / "run", *(word for pair in given.items() for word in pair))
    print(f"{name} stored in {stored}, {plan.dtype}, {plan.batch} of {plan.samples} side by side")
    print(f"planned {plan.peak / 1e9:.3f} GB (level {plan.largest.level}), peak {peak.all / 1e9:.3f} GB, "
          f"{peak.all / plan.peak:.3f} of it")  # fmt: skip
    print(f"own pages {peak.own / 1e9:.3f} GB, mapped ones {peak.mapped / 1e9:.3f} GB")


if __name__ == "__main__":
    main(*sys.argv[1:])
