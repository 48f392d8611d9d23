"""Audio quality of the routes of a model: held-out songs, rendered from their own coarsest sequence and compared with the originals.

A route gets the frames that its first stream has of the song, and its other priors sample the finer streams. A route with one
stream decodes it. So routes differ in what follows their first stream, not in what a language model composes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data_prep.audio.audio import read
from data_prep.errors import UserError
from jukebox.evaluation.held_out import hold_out
from jukebox.evaluation.metrics import frechet_distance, mel_distance, sound_features
from jukebox.evaluation.sound import coloured_noise
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder
from jukebox.params import MachineOptions, SamplingOptions, SamplingParams
from jukebox.runs.request import RunSettings, upsampled_codes
from jukebox.runs.run import Run
from jukebox.sampling.walk import resume
from jukebox.song import song_of

Audio = Float[Tensor, "c t"]
SONGS = 8
CONTROLS = ("another song", "noise of the same spectrum")


def render(model: ModelFolder, route: str, more: Mapping[str, Any], wave: Audio, song: Any, seed: int) -> Audio:
    """Render a song by a route from the song's own frames of the first stream of the route."""
    first, *others = model.info.routes[route].priors
    frames = model.codec([first]).encode_long(wave[None], [first])[first]
    if not others:
        return model.codec([first]).decode_long(frames, first, wave.shape[-1])[0]
    machine = MachineOptions(threads=torch.get_num_threads(), device="cpu")
    settings = RunSettings(SamplingOptions(route=route, seed=seed), SamplingParams(more=more), machine)
    with tempfile.TemporaryDirectory(prefix="jukebox_bench_") as folder:
        path = Path(folder) / "codes.npz"
        Codes({first: frames[0].numpy()}, model.sample_rate, wave.shape[-1], {first: model.info.codes_hash(first)}).save(path)
        run = Run.create(Path(folder) / "run", upsampled_codes(model.info, song, path, settings), join=True)
        run.shown = False  # no page
        resume(run, model, report=lambda _: None)
        return torch.from_numpy(read(run.audio_path(run.request["levels"][-1], 0))[0])


def quality_of(
    model: ModelFolder, data: str, arms: Mapping[str, tuple[str, Mapping[str, Any]]], seconds: float, seed: int
) -> dict[str, dict[str, float]]:
    """Arm -> mean mel distance in dB and pooled Frechet distance, over held-out songs of DATA; also of two controls.

    arms: name of an arm -> its route, and values of sampling parameters by name
    """
    held = hold_out(model, Path(data), SONGS, seconds)
    if len(held.rows) < 2:
        raise UserError(f"{data} has 1 held-out song; quality needs 2 or more: prepare it with a larger --test_share")
    songs = [song_of(row) for row in held.rows]

    def figures(rendered: Callable[[int], Audio]) -> dict[str, float]:
        made = [rendered(i)[..., : wave.shape[-1]].mean(0) for i, wave in enumerate(held.waves)]
        true = [wave[..., : len(audio)].mean(0) for wave, audio in zip(held.waves, made, strict=True)]
        mel = [mel_distance(x, y, model.sample_rate) for x, y in zip(true, made, strict=True)]
        pooled = [torch.cat([sound_features(x, model.sample_rate) for x in some]) for some in (true, made)]
        return {"mel": sum(mel) / len(mel), "frechet": frechet_distance(*pooled)}

    found = {
        name: figures(lambda i, route=route, more=more: render(model, route, more, held.waves[i], songs[i], seed))
        for name, (route, more) in arms.items()
    }
    other, noise = CONTROLS
    found[other] = figures(lambda i: held.waves[i - 1])
    found[noise] = figures(lambda i: torch.as_tensor(coloured_noise(held.waves[i].numpy(), seed + i)))
    return found
