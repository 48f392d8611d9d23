"""The audio of a prompt, which a run stores unchanged and joins with the sampled audio.

    prompt.flac                        samples of the recording up to the end of the prompt (prompt_2.flac: of a second source)
    audio/joined_level_0_sample_0.flac these samples, then the new audio at the recording's rate and channels

The joined audio is a pure function of the codes and the prompt. Both files are wav if the recording holds floats, or was
decoded from a lossy format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from data_prep.audio.audio import probe, read
from data_prep.audio.splice import Piece, copy_excerpt, splice
from jukebox.runs.run import Run, saving
from jukebox.sampling.layout import MARGIN, Layout, after_recording, render

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

FADE = 0.02  # seconds of the transition from the codec's version of the recording's edge to the new audio


def copy_prompts(run: Run) -> None:
    """Store the prompt audio of each source that is a recording, or a run with prompt audio."""
    if not run.request["given"] or run.request.get("inpaints"):
        return
    level, given = next(iter(run.request["given"].items()))
    samples = given * run.request["hops"][int(level)]
    with saving(run.folder), FileLock(run.folder / ".lock"):
        for number, (path, row) in enumerate(_sources(run)):
            source = _recording(Path(path), row)
            if source and not _prompt(run, number):
                rate = probe(source).sample_rate
                copy_excerpt(source, run.folder / _name(number), samples * rate // run.request["sample_rate"])


def prompt_of(run: Run, sample: int) -> Path | None:
    """Path of the prompt audio of a sample; None without prompt audio."""
    sources = run.request["sources"]
    return _prompt(run, _sources(run).index(tuple(sources[sample]))) if sample < len(sources) else None


def joined_path(run: Run, sample: int) -> Path | None:
    """Path of the file that joins prompt and new audio of a sample; None without prompt audio."""
    prompt, level = prompt_of(run, sample), run.finest
    return run.folder / "audio" / f"joined_level_{level}_sample_{sample}{prompt.suffix}" if prompt else None


def write_joined(model: ModelFolder, run: Run, samples: Sequence[int], device: str) -> list[Path]:
    """Join prompt and new audio of finished samples, decoded from the finest sampled level; return the new files."""
    written = []
    level = run.finest
    stream, total = run.stream(level), run.total(level)
    for sample in samples:
        target, prompt = joined_path(run, sample), prompt_of(run, sample)
        if run.request.get("inpaints") or not (target and prompt) or target.exists() or run.count(level, [sample]) < total:
            continue
        info, rate = probe(prompt), model.sample_rate
        end = total * stream.hop * info.sample_rate // rate
        layout = Layout(info.frames, info.sample_rate, rate, model.spec.unit, after=end - info.frames)
        fade = min(round(FADE * info.sample_rate), info.frames, end - info.frames)
        codec, ratio = model.codec([stream.name]).to(device), model.spec.unit // stream.hop
        first = max(0, layout.touched(info.frames - fade, end)[0] - math.ceil(MARGIN * layout.per_second))
        codes = run.codes(level, [sample], first * ratio)[0]
        blocks = render(codec, codes, stream.name, first, layout, info.frames - fade, end)
        finite = (np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0) for block in blocks)
        old, _ = read(prompt, start=(info.frames - fade) / info.sample_rate)
        target.parent.mkdir(exist_ok=True)
        with saving(run.folder):
            splice(prompt, target, [Piece(info.frames, end, 0, after_recording(finite, old[:, :fade]))], info.frames)
        written.append(target)
    return written


def _sources(run: Run) -> list[tuple[str, int]]:
    return list(dict.fromkeys((path, row) for path, row in run.request["sources"]))


def _name(number: int) -> str:
    return "prompt" if number == 0 else f"prompt_{number + 1}"


def _prompt(run: Run, number: int) -> Path | None:
    return next((path for path in run.prompt_paths if path.stem == _name(number)), None)


def _recording(path: Path, row: int) -> Path | None:
    """Path of the recording of a source: the file itself, or the prompt audio of a run; None for other sources."""
    if path.is_dir():
        return prompt_of(Run.open(path), row)
    return None if path.suffix == ".npz" or not path.is_file() else path
