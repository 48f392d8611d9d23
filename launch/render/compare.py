"""`jukebox compare`: the same tokens rendered by each renderer of a model, as wav files and a small table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError, keeping
from data_prep.files import write_json
from launch.cli.usage import shared_flags
from priors.diffusion.config import DiffusionParams

if TYPE_CHECKING:
    from torch import Tensor

    from jukebox.model.folder import ModelFolder
    from launch.render.renderers import TokenSource

SOUND = ("onsets", "peakiness", "chroma_change")  # statistics of `sound_statistics`
CONTROL = "noise of the same spectrum"


@shared_flags
def compare(
    model: str, source: str, *, out: str, params: DiffusionParams, seconds: float = 20.0, take: int = 1, seed: int = 0, threads: int = 0
) -> list[dict[str, Any]]:  # fmt: skip
    """Render the same tokens by each renderer of a model: its phase decoder, Griffin-Lim, diffusion, and its other codecs.

    Other codecs re-encode the audio of the phase decoder. Distances are from the recording. For tokens of a run they are from
    the audio of the phase decoder. The control is noise with the spectrum of that. `compare.json` has the table, also with
    onsets per second, peakiness and change of pitch classes.

    model: the model folder
    source: a recording, or a run folder with tokens
    out: the folder for the wav files and compare.json
    seconds: maximum length of the audio, seconds
    take: number of the take, if the source is a run
    seed: seed of the random numbers of the diffusion
    threads: CPU threads; 0: all cores
    """
    if seconds <= 0 or params.steps < 1:
        raise UserError(f"--seconds {seconds:g}, --steps {params.steps}: expected more than 0, and at least 1")
    import torch

    from jukebox.evaluation.metrics import table
    from jukebox.evaluation.sound import coloured_noise
    from jukebox.model.folder import ModelFolder
    from launch.render.renderers import names_of, renderers

    if threads:
        torch.set_num_threads(threads)
    opened = ModelFolder.from_pretrained(model)
    tokens, true = read_source(opened, Path(source), seconds, take)
    ways, folder, rows = renderers(opened, tokens, params, seed), Path(out), []
    with keeping(f"what is rendered is in {folder}", lambda: rows):
        for name, file in names_of(ways).items():
            row, audio = render(name, ways[name], true, folder / file, opened.sample_rate)
            rows.append(row)
            true = audio if true is None else true
    assert true is not None
    rows.append({"renderer": CONTROL, **figures(true, torch.as_tensor(coloured_noise(true.numpy(), seed)), opened.sample_rate)})
    write_json(folder / "compare.json", {"source": source, **asdict(params), "seed": seed, "rows": rows})
    columns = {
        "renderer": "renderer", "mel": "mel, dB", "frechet": "Frechet", **{name: name for name in SOUND}, "passes": "passes",
        "decoder_passes": "of the decoder", "seconds": "seconds", "music_seconds_per_second": "music s/s",
    }  # fmt: skip
    print(table([list(columns.values()), *[[row.get(key) for key in columns] for row in rows]]))
    print(f"\nwritten to {folder}")
    return rows


def render(name: str, way: Any, true: Tensor | None, path: Path, rate: int) -> tuple[dict[str, Any], Tensor]:
    """Return the table row of a renderer and its audio, which is also written to a file.

    Distances are from `true`. If it is None, this audio is the reference of the other renderers.
    """
    import torch

    from data_prep.audio.audio import write_wav
    from launch.render.passes import counted

    began = time.perf_counter()
    with torch.no_grad(), counted() as passes:
        audio = way().cpu()
    took = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, audio.numpy(), rate)
    return {
        "renderer": name, "file": path.name, **figures(audio if true is None else true, audio, rate), "passes": passes.priors,
        "decoder_passes": passes.decoders, "seconds": took, "music_seconds_per_second": audio.shape[-1] / rate / took,
    }, audio  # fmt: skip


def figures(true: Tensor, made: Tensor, rate: int) -> dict[str, float | None]:
    """Return distances, and statistics of the rendered audio."""
    from jukebox.evaluation.metrics import sound_statistics

    statistics = sound_statistics(made, rate)
    return {**distances(true, made, rate), **{name: getattr(statistics, name) for name in SOUND}}


def distances(true: Tensor, made: Tensor, rate: int) -> Mapping[str, float | None]:
    """Return the mel distance in dB, and the Frechet distance of sound features. The latter is None for short audio."""
    from jukebox.evaluation.metrics import frechet_distance, mel_distance, sound_features

    length = min(true.shape[-1], made.shape[-1])
    x, y = (each[..., :length].mean(0) for each in (true, made))
    features = [sound_features(each, rate) for each in (x, y)]
    frechet = frechet_distance(*features) if min(map(len, features)) > 1 else None
    return {"mel": mel_distance(x, y, rate), "frechet": frechet}


def read_source(model: ModelFolder, path: Path, seconds: float, take: int) -> tuple[TokenSource, Tensor | None]:
    """Return the tokens of a run or of a recording, limited to `seconds`, and the audio of the recording (None for a run)."""
    import torch

    from data_prep.audio.audio import read
    from jukebox.runs.request import song_of_entry
    from jukebox.runs.run import Run
    from jukebox.song import Song
    from launch.render.renderers import TokenSource
    from vqvae.spectral.config import TOKENS

    stream = model.spec.stream(TOKENS)
    most = max(1, int(seconds * model.sample_rate) // stream.hop)
    if not path.is_dir():
        wave, _ = read(path, sample_rate=model.sample_rate, channels=model.spec.channels, seconds=seconds)
        audio = torch.from_numpy(wave[:, : wave.shape[1] // model.spec.unit * model.spec.unit])
        if not audio.shape[1]:
            raise UserError(f"{path} is shorter than one frame of {TOKENS}, {stream.hop} samples")
        codec = model.codec([TOKENS])
        return TokenSource(codec.encode_long(audio[None], [TOKENS])[TOKENS][0].numpy(), Song()), audio
    run = Run.open(path)
    level = next((level for level in run.request["levels"] if run.stream(level).name == TOKENS), None)
    if level is None or not 1 <= take <= run.n_samples or not run.count(level, [take - 1]):
        raise UserError(f"{path} has no {TOKENS} of take {take}; give a run that was sampled by a route through {TOKENS}")
    song = song_of_entry(run.request["samples"][take - 1], run.request["total_seconds"])
    return TokenSource(run.codes(level, [take - 1])[0][:most], song), None
