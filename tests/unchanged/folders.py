"""The frozen model, runs and numbers on disk: copies to work in, and the codes of a run. No import from the project."""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FROZEN = HERE / "frozen.json"
FIRST = 16  # codes of each file that frozen.json contains beside the hash, to see at once where a difference begins


def copy_frozen(folder: Path, source: Path = HERE) -> Path:
    """Copy the model, the runs and the prompt into `folder` and make the paths in every run.json absolute."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / "model", folder / "model")
    shutil.copy(source / "prompt.wav", folder / "prompt.wav")
    for run in sorted((source / "runs").iterdir()):
        shutil.copytree(run, folder / "runs" / run.name)
        rewrite_paths(folder / "runs" / run.name, lambda path: str((folder / path).resolve()))
    return folder


def rewrite_paths(run: Path, change: Any) -> None:
    """Apply `change` to the paths of model, sources and prompt in the run.json of a run folder."""
    path = run / "run.json"
    request = json.loads(path.read_text(encoding="utf-8"))
    request["model"] = change(request["model"])
    request["sources"] = [[change(source), row] for source, row in request["sources"]]
    if request["prompt"]:
        request["prompt"]["path"] = change(request["prompt"]["path"])
    path.write_text(json.dumps(request, indent=1) + "\n", encoding="utf-8")


def codes_path(run: Path, level: int, sample: int) -> Path:
    """The codes file of a level and sample."""
    return run / "codes" / f"level_{level}_sample_{sample}.u16"


def codes_in(run: Path) -> dict[str, dict[str, Any]]:
    """Name of every codes file of a run -> number of codes, the first codes, and the SHA-256 of the file."""
    return {path.stem: _codes(path) for path in sorted((run / "codes").glob("level_*_sample_*.u16"))}


def _codes(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    first = array("H", data[: 2 * FIRST])
    return {"codes": len(data) // 2, "first": first.tolist(), "sha256": hashlib.sha256(data).hexdigest()}


def arguments_in(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a sampling case of frozen.json; its paths are relative to `folder`."""
    arguments = dict(case["arguments"])
    for name in ("model", "run"):
        if name in arguments:
            arguments[name] = folder / arguments[name]
    if "prompts" in arguments:
        arguments["prompts"] = [folder / prompt for prompt in arguments["prompts"]]
    return arguments
