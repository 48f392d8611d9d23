"""Speed of live generation, compared with the three autoregressive levels in the same run: `jukebox bench live`.

Without MODEL there are three sizes with random weights. They are the preset test_musika, the preset musika compared with the
levels of demo, and a full-size codec and GAN compared with the levels of small. The speed in seconds of music per second covers
30 s and 240 s of music from latents to samples. The memory is the peak of a process after one and after ten minutes of music.
The levels are timed by the steps of one full window each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.bench.alternate import write_rows

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from jukebox.model.presets import Preset

SHORT, LONG, MINUTES = 30.0, 240.0, (1, 10)


class Size(NamedTuple):
    """A preset with a live route, and the preset with the three levels to compare with (empty: none)."""

    name: str
    preset: str
    levels: str = ""


SIZES = (Size("test", "test_musika"), Size("two cores", "musika", "demo"), Size("full", "full", "small"))


def bench_live(
    model: str, repeats: int, threads: int, seed: int, out: str, sizes: tuple[Size, ...] = SIZES,
    lengths: tuple[float, float] = (SHORT, LONG), minutes: tuple[float, float] = MINUTES,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of the table, one per size, or one for MODEL."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    print(f"{torch.get_num_threads()} CPU threads, {repeats} repeats; load average before {os.getloadavg()[0]:.2f}")
    rows = []
    for size in (Size(model, model),) if model else sizes:
        with tempfile.TemporaryDirectory() as folder:
            opened = random_model(Path(folder) / "model", preset_of(size.preset), seed) if not model else open_model(model)
            row = {"size": size.name, **speed(opened, lengths, repeats, seed), **memory(opened, minutes)}
        if size.levels:
            row["levels_music_seconds_per_second"] = levels_speed(size.levels, seed)
            row["times_faster"] = row["long"] / row["levels_music_seconds_per_second"]
        print(
            "; ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()),
            flush=True,
        )
        rows.append(row | {"threads": torch.get_num_threads(), "repeats": repeats, "torch": torch.__version__})
    return write_rows(rows, out)


def preset_of(name: str) -> Preset:
    """Return the preset of that name. `full` is the preset spectral with a second autoencoder and a GAN of default sizes."""
    from jukebox.model.presets import find
    from priors.conditioning.config import LabelConfig
    from priors.gan.config import GanConfig
    from vqvae.spectral.config import STACKED, SpectralConfig

    if name != "full":
        return find(name)
    codec = find("spectral").codec
    assert isinstance(codec, SpectralConfig)
    codec = replace(codec, stacked=2, stacked_width=512)
    gan = GanConfig(STACKED, codec.stacked_latent, codec.hop * codec.stacked, codec.sample_rate, labels=LabelConfig(1, 1))
    return replace(find("spectral"), codec=codec, priors={"gan": gan})


def random_model(folder: Path, preset: Preset, seed: int) -> ModelFolder:
    """Create a model folder with random weights for the live route of a preset."""
    import torch

    from jukebox.model.folder import ModelFolder, build_codec, build_prior

    torch.manual_seed(seed)
    model, codec = ModelFolder.create(folder, preset.codec), build_codec(preset.codec)
    codec.initialise(0.1 * torch.randn(4, preset.codec.spec.channels, 1 << 15), torch.Generator())
    model.save_codec(codec)
    model.save_prior("gan", build_prior(preset.priors["gan"]))
    return model


def open_model(model: str) -> ModelFolder:
    from jukebox.model.folder import ModelFolder

    return ModelFolder.from_pretrained(model)


def speed(model: ModelFolder, lengths: tuple[float, float], repeats: int, seed: int) -> dict[str, float]:
    """Return the seconds of music per second for both lengths, the ratio of their times, and the longest wait for a block."""
    from jukebox.sampling.live import LiveMusic
    from jukebox.song import Song

    music, took, waits = LiveMusic(model, Song(), seed=seed), {}, [0.0]
    list(music.blocks(seconds=music.patch_seconds))  # a warm-up, because the first call allocates memory
    for length in lengths:
        times = []
        for _ in range(repeats):
            began = last = time.perf_counter()
            for i, _ in enumerate(music.blocks(seconds=length)):
                now = time.perf_counter()
                waits.append((now - last) * (i > 0))  # the first block does not count, because no music is playing yet
                last = now
            times.append(time.perf_counter() - began)
        took[length] = min(times)
    short, long = lengths
    return {
        "short": short / took[short], "long": long / took[long], "time_ratio": took[long] / took[short], "length_ratio": long / short,
        "longest_wait": max(waits),
    }  # fmt: skip


def memory(model: ModelFolder, minutes: tuple[float, float]) -> dict[str, float]:
    """Return the peak memory of a process after the first and after the second length, in MB."""
    command = [sys.executable, "-m", "launch.bench.live", str(model.folder), json.dumps(minutes)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    return {"first_mb": found[0], "second_mb": found[1], "memory_ratio": found[1] / found[0]}


def levels_speed(name: str, seed: int) -> float:
    """Return the seconds of music per second of a preset's three autoregressive levels in sequence, with random weights."""
    from jukebox.model.folder import build_prior
    from jukebox.model.presets import find
    from launch.bench.bench import measure
    from priors.autoregressive import native

    seconds = 0.0  # seconds of computation per second of music
    priors: Mapping[str, Any] = find(name).priors
    for level in (2, 1, 0):
        prior: Any = build_prior(priors[f"prior_{level}"]).eval()
        prior.compiled = native.why_not("float32", "cpu") is None
        seconds += prior.config.sample_rate / prior.config.hop / measure(prior, 1, 1.0, seed)[0]
    return 1 / seconds


def main(folder: str, minutes: list[float]) -> None:
    """Print the peak memory of this process after each of the lengths."""
    import resource

    from jukebox.sampling.live import LiveMusic
    from jukebox.song import Song

    music, peaks = LiveMusic(open_model(folder), Song()), []
    for length in minutes:
        for _ in music.blocks(seconds=60.0 * length):
            pass
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
