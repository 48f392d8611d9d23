"""What leaves a run for other programs: its audio with tags and cue markers.

16-bit samples are those of the run's wav file. 24 bits, floats and flac are decoded from the codes once more, so that nothing is rounded
twice; where a take is joined to a recording, or is an edit, its file at the recording's own rate is what there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import read
from data_prep.errors import UserError
from data_prep.metadata.exported import Cue, write_export
from jukebox.report.lyric_files import lines_of
from jukebox.runs.run import Run
from jukebox.sampling.prompt import joined_path

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

MOST_CUES = 500


def result_path(run: Run, take: int) -> Path:
    """The file of take number `take` (from 1); UserError where there is no such take, or it has no audio yet."""
    if not 1 <= take <= run.n_samples:
        raise UserError(f"there is no take {take} in {run.folder.name}; it has 1 to {run.n_samples}")
    if run.request.get("inpaints"):
        path = Path(run.request["outputs"][take - 1])
    else:
        joined = joined_path(run, take - 1)
        path = joined if joined and joined.is_file() else run.audio_path(run.finest, take - 1)
    if not path.is_file():
        raise UserError(f"take {take} of {run.folder.name} has no audio yet; finish the run with `jukebox resume`")
    return path


def samples_of(run: Run, take: int, model: ModelFolder | None = None) -> tuple[Float[np.ndarray, "c n"], int]:
    """The samples of a take and their rate; with a model decoded from the codes, where the file has been rounded to 16 bits."""
    from vqvae.codec import as_tensor

    path = result_path(run, take)
    if model is None or path != run.audio_path(run.finest, take - 1):
        return read(path)
    level, stream = run.finest, run.stream(run.finest)
    codes = run.codes(level, [take - 1])[0]
    audio = model.codec([stream.name]).decode_long(as_tensor(codes)[None], stream.name, len(codes) * stream.hop)
    return np.nan_to_num(audio[0].cpu().numpy(), nan=0.0, posinf=1.0, neginf=-1.0), model.sample_rate


def export_take(run: Run, path: Path, form: str, take: int = 1, model: ModelFolder | None = None) -> None:
    """Write a take in one of the forms of `data_prep/metadata/exported.py`, with its tags and cue markers."""
    audio, rate = samples_of(run, take, model if form in ("wav24", "wav32f", "flac") else None)
    write_export(path, audio, rate, form, tags_of(run.request, take), cues_of(run.folder, run.request, take))


def tags_of(request: Mapping[str, Any], take: int) -> dict[str, str]:
    """Title, artist, model, seed and the request of a take; no path of this machine."""
    song = request["samples"][take - 1]
    named = (
        "verb",
        "route",
        "seed",
        "seconds",
        "total_seconds",
        "params",
        "levels",
        "hop_fractions",
        "priors",
        "model_hash",
        "versions",
    )
    asked = {name: request[name] for name in named if name in request} | {"song": song, "take": take}
    model = Path(request["model"]).name
    return {
        "title": f"{request['verb']}, seed {request['seed']}, take {take}", "artist": song["artist"] or "Jukebox",
        "jukebox_model": model, "jukebox_seed": str(request["seed"]), "jukebox_request": json.dumps(asked, ensure_ascii=False),
    }  # fmt: skip


def cues_of(folder: Path, request: Mapping[str, Any], take: int) -> list[Cue]:
    """Where the prompt ends, where an edit begins and ends, and where each line of the lyrics begins."""
    cues: list[Cue] = []
    if request["prompt"]:
        cues.append((request["prompt"]["seconds"], "prompt ends"))
    if recording := request.get("recording"):
        for span in recording["spans"]:
            at = [(sample - min(0, recording["spans"][0][0])) / recording["rate"] for sample in span]
            cues += [(at[0], f"{request['verb']} begins"), (at[1], f"{request['verb']} ends")]
    cues += [(line[0].start, " ".join(word.text for word in line)) for line in lines_of(folder, request, take)]
    return sorted(cues)[:MOST_CUES]
