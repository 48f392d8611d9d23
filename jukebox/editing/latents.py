"""Interpolation (`morph`) and time stretching (`stretch`) of recordings by their latents.

The model needs a stream of latents that leads to audio: either the codec decodes the stream, or a prior of samples reads the
stream. Such a prior decodes in a run, so that the same command continues an interrupted decoding. Beside each wav file is a
codes file (.npz) with its latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from data_prep.audio.audio import read
from data_prep.audio.writers import format_of, write_audio
from data_prep.errors import UserError
from jukebox.device import choose_device, computing_on
from jukebox.model.code_file import Codes
from jukebox.model.folder import ModelFolder
from jukebox.model.info import ModelInfo
from jukebox.planning.sampling import check_memory, fitted
from jukebox.runs.request import RunSettings, StartPoint, new_request
from jukebox.runs.run import Run
from jukebox.runs.sources import read_sound
from jukebox.sampling import walk
from jukebox.song import Song
from vqvae.codec import as_tensor
from vqvae.streams import Stream

Latents = Float[np.ndarray, "n d"]


class LatentDecoding(NamedTuple):
    """Latents to decode, the path of their wav file, and the exact length of the audio in samples."""

    target: Path
    values: Latents
    samples: int


def latent_stream(info: ModelInfo) -> tuple[Stream, str]:
    """Return a trained stream of latents and the route that decodes the stream (empty: the codec decodes it).

    A stream that a route decodes has priority over a stream that its codec decodes. Raise UserError if the model has neither.
    """
    latents = [stream for stream in info.spec.streams if stream.bins is None and info.codes_hash(stream.name)]
    for stream in latents:
        for route in info.routes.values():
            below = (
                list(route.priors.values())[list(route.priors).index(stream.name) + 1 :] if stream.name in route.priors else []
            )
            if below and all(name in info.priors for name in below):
                return stream, route.name
    for stream in latents:
        if info.codec_of(stream.name).config.decodes:
            return stream, ""
    raise UserError(
        f"{info.folder} has no trained stream of latents that is decoded; train one, as with `jukebox train nsynth DATA --preset nsynth`"
    )


def encoded(model: ModelFolder, stream: Stream, path: str | Path, device: str) -> tuple[Latents, int]:
    """Return the latents of a recording and the number of its samples.

    Silence pads the recording to whole frames of all streams.
    """
    sound = read_sound(model.info, str(path), 0.0)
    if not (samples := sound.shape[1]):
        raise UserError(f"{path} has no sound in it; expected a recording")
    padded = np.pad(sound, [(0, 0), (0, -samples % model.spec.unit)])
    codec, audio = model.codec([stream.name]).to(device), torch.from_numpy(padded)[None].to(device)
    return codec.encode_long(audio, [stream.name])[stream.name][0].cpu().numpy(), samples


def morph(
    model: ModelFolder, first: str | Path, second: str | Path, alphas: Sequence[float], out: Path, settings: RunSettings
) -> list[Path]:
    """Interpolate the latents of two recordings, and write a wav file for each alpha, such as OUT/alpha_0.25.wav.

    The mixed latents are (1 - alpha) times the latents of `first` plus alpha times the latents of `second`. The longer
    recording is cut to the length of the shorter one.
    """
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise UserError(
            f"alpha {','.join(f'{alpha:g}' for alpha in alphas)}; expected numbers from 0 (the first recording) to 1"
        )
    (stream, route), device = latent_stream(model.info), choose_device(settings.machine.device)
    with computing_on(device):
        (x, n), (y, m) = (encoded(model, stream, path, device) for path in (first, second))
    if n != m:
        a, b = (samples / model.sample_rate for samples in (n, m))
        print(f"{first} is {a:.2f} s long, {second} {b:.2f} s: the first {min(a, b):.2f} s of both are mixed")
    frames = min(len(x), len(y))
    mixed = {alpha: (1 - alpha) * x[:frames] + alpha * y[:frames] for alpha in dict.fromkeys(alphas)}
    items = [LatentDecoding(out / f"alpha_{alpha:g}.wav", z.astype(np.float32), min(n, m)) for alpha, z in mixed.items()]
    return decoded(model, stream, route, items, out / "run", settings)


def stretch(model: ModelFolder, song: str | Path, factor: float, out: Path, settings: RunSettings) -> list[Path]:
    """Stretch a recording in time, and write a wav file that is exactly `factor` times as long.

    Each new frame has the latent of the recording at its time divided by `factor`.
    """
    if not 0 < factor <= 100:
        raise UserError(f"factor {factor:g}; expected a number above 0, at most 100: 2 makes the recording twice as long")
    format_of(out, model.spec.channels)
    (stream, route), device = latent_stream(model.info), choose_device(settings.machine.device)
    with computing_on(device):
        latents, samples = encoded(model, stream, song, device)
    longer, unit = max(1, round(factor * samples)), model.spec.unit
    frames = -(-longer // unit) * (unit // stream.hop)
    at = np.minimum((np.arange(frames) / factor).astype(np.int64), len(latents) - 1)
    return decoded(model, stream, route, [LatentDecoding(out, latents[at], longer)], out.with_name(f"{out.stem}.run"), settings)


def decoded(
    model: ModelFolder, stream: Stream, route: str, items: Sequence[LatentDecoding], folder: Path, settings: RunSettings
) -> list[Path]:  # fmt: skip
    """Decode latents of equal length to wav files, by the codec, or by a route in a run in `folder`; return the files."""
    info = model.info
    for target, values, samples in items:
        target.parent.mkdir(parents=True, exist_ok=True)
        hashes = {stream.name: info.codes_hash(stream.name)}
        Codes({stream.name: values}, info.sample_rate, samples, hashes).save(target.with_suffix(".npz"))
    made = _by_run(model, stream, route, items, folder, settings) if route else _by_codec(model, stream, items, settings)
    for (target, _, samples), audio in zip(items, made, strict=True):
        write_audio(target, audio[:, :samples], info.sample_rate)
    return [item.target for item in items]


def _by_codec(model: ModelFolder, stream: Stream, items: Sequence[LatentDecoding], settings: RunSettings) -> list[np.ndarray]:
    device = choose_device(settings.machine.device)
    codec = model.codec([stream.name]).to(device)
    with computing_on(device):
        values = (as_tensor(item.values)[None].to(device) for item in items)
        return [codec.decode_long(each, stream.name)[0].cpu().numpy() for each in values]


def _by_run(
    model: ModelFolder, stream: Stream, route: str, items: Sequence[LatentDecoding], folder: Path, settings: RunSettings
) -> list[np.ndarray]:  # fmt: skip
    """Return the audio of a run with the latents as given frames; an interrupted run continues."""
    info, frames = model.info, len(items[0].values)
    level = info.spec.names.index(stream.name)
    settings = replace(settings, options=replace(settings.options, route=route))
    levels = info.check_levels((), info.route(route), level)
    sources = [(str(item.target.with_suffix(".npz").resolve()), 0) for item in items]
    start = StartPoint("upsample", levels, {level: frames}, sources)
    asked = new_request(info, [Song()] * len(items), frames * stream.hop / info.sample_rate, settings, start)
    asked |= fitted(info, asked, settings.machine.max_memory)
    check_memory(info, asked)
    run = walk.resume(Run.create(folder, asked, join=True), model)
    return [read(run.audio_path(levels[-1], i))[0] for i in range(len(items))]
