"""Exports for other programs: audio with tags and cue markers, and held-out songs with a model's reconstructions.

A 16-bit wav or an mp3 has the samples of the run's wav file. An export of 24 bits, floats or flac decodes the codes again, so
that samples are rounded only once. A take that is joined to a recording, or is an edit, is exported from the file of that take
at the recording's sample rate.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import read
from data_prep.audio.writers import write_audio
from data_prep.errors import UserError
from data_prep.files import replacing
from data_prep.metadata.exported import Cue, write_export
from jukebox.evaluation.held_out import read_wave, split_rows
from jukebox.params import MachineOptions
from jukebox.report.lyric_files import lines_of
from jukebox.runs.request import RunSettings, sampled
from jukebox.runs.run import Run
from jukebox.sampling.prompt import joined_path
from jukebox.sampling.walk import resume
from jukebox.song import song_of
from vqvae.codec import as_tensor

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder

MOST_CUES = 500


def result_path(run: Run, take: int) -> Path:
    """Return the audio file of take number `take` (from 1); raise UserError if the run lacks the take or its audio."""
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
    """Return the samples of a take and their sample rate.

    With `model` the codes are decoded again if the take's file is a 16-bit wav file of the run. Other files are read.
    """
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
    """Return the tags of a take: title, artist, model, seed and request. No tag contains a path of this machine."""
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
    """Return at most MOST_CUES cue markers: end of the prompt, start and end of each edit, and start of each lyric line."""
    cues: list[Cue] = []
    if request["prompt"]:
        cues.append((request["prompt"]["seconds"], "prompt ends"))
    if recording := request.get("recording"):
        for span in recording["spans"]:
            at = [(sample - min(0, recording["spans"][0][0])) / recording["rate"] for sample in span]
            cues += [(at[0], f"{request['verb']} begins"), (at[1], f"{request['verb']} ends")]
    cues += [(line[0].start, " ".join(word.text for word in line)) for line in lines_of(folder, request, take)]
    return sorted(cues)[:MOST_CUES]


def export_pairs(model: ModelFolder, data: Path, folder: Path, songs: int, seconds: float, device: str) -> Path:
    """Export held-out songs as wav files for metrics of other programs, and return the path of their table, pairs.csv.

    Each file has the first `seconds` of a song. The folder reference/ has the original audio. The folder of each decodable
    stream (vq.0/ ..) has the reconstructions. If the model has a complete route, generated/ has songs that the run
    generated.run samples from the same conditions.
    """
    rows = split_rows(data, "test", songs)
    waves = [read_wave(data, row, model.spec, seconds) for row in rows]
    names = [f"{number:03d}.wav" for number in range(len(rows))]
    made: dict[str, list[np.ndarray]] = {"reference": [wave.numpy() for wave in waves]}
    for stream in model.decodable_streams():
        codec = model.codec([stream])
        made[stream] = [codec.decode_long(codec.encode_long(wave[None], [stream])[stream], stream)[0].numpy() for wave in waves]
    length = min(wave.shape[1] for wave in waves) / model.sample_rate
    settings = RunSettings(machine=MachineOptions(device=device))
    try:
        asked = sampled(model.info, [song_of(row) for row in rows], length, settings)
    except UserError as error:
        print(f"nothing is generated: {error}")
    else:
        run = resume(Run.create(folder / "generated.run", asked, join=True), model)
        made["generated"] = [samples_of(run, take)[0] for take in range(1, run.n_samples + 1)]
    for kind, audio in made.items():
        for name, samples in zip(names, audio, strict=True):
            write_audio(folder / kind / name, samples, model.sample_rate, "FLOAT")
    with replacing(folder / "pairs.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["song", "artist", "genres", "lyrics", *made])
        for row, name in zip(rows, names):
            genres = ", ".join(row.genres)
            table.writerow([Path(row.path).name, row.artist, genres, row.lyrics or "", *(f"{kind}/{name}" for kind in made)])
    return folder / "pairs.csv"
