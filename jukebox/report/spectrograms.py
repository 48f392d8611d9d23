"""Pictures: the page of a run with a spectrogram for every level and sample, and spectrograms for the docs.

`write_page` reads only the run folder (run.json, progress.jsonl, alignment.json, audio/*.wav), so it can be called after every
window, after a kill, and years later. Pictures depend on the audio alone and are drawn again when the audio is newer. Their
frequency axis is mel up to 11 kHz. Each row is the mean power between its two edges, from the cumulative sum of the spectrum,
so that no row is empty and no partial is skipped.
"""

from __future__ import annotations

import io
import json
import os
import wave
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.errors import UserError
from data_prep.files import write_bytes
from jukebox.report.lyric_files import lines_of, read_alignment, write_lyric_files
from jukebox.report.run_page import SampleFiles, Sounding, hertz_labels, mel, page_html, top_hz

RANGE_DB = 75.0


def read_wav(path: Path) -> tuple[Float[np.ndarray, "c t"], int]:
    """A 16-bit PCM wav as (channels, frames) in -1..1, and its sample rate; wave.Error or EOFError if it is none."""
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise wave.Error(f"{path} has {8 * file.getsampwidth()} bits a sample, 16 were expected")
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return samples.reshape(-1, file.getnchannels()).T.astype(np.float32) / 32768, file.getframerate()


def spectrogram(
    audio: Float[np.ndarray, "*c t"], sample_rate: int, columns: int = 1200, rows: int = 256
) -> Float[np.ndarray, "rows columns"]:
    """Decibels below the loudest spot (0..-75, row 0 the lowest), even in time and on the mel scale up to 11 kHz."""
    x = np.atleast_2d(audio).mean(0)
    size = 2 ** round(np.log2(0.12 * sample_rate))
    x = np.pad(x, (size // 2, size // 2 + 1))
    starts = np.linspace(0, len(x) - size - 1, columns).astype(int)
    window = np.hanning(size + 1)[:-1]
    bins = np.linspace(0, sample_rate / 2, size // 2 + 1)
    edges = 700 * (10 ** (np.linspace(0, mel(top_hz(sample_rate)), rows + 1) / 2595) - 1)
    power = np.empty((rows, columns))
    for i in range(0, columns, 256):  # in pieces, so that memory stays small
        frames = np.stack([x[s : s + size] for s in starts[i : i + 256]]) * window
        total = np.cumsum(np.abs(np.fft.rfft(frames)) ** 2, axis=1)
        between = np.stack([np.interp(edges, bins + bins[1] / 2, row, left=0.0) for row in total])
        power[:, i : i + 256] = (np.diff(between) / np.diff(edges)).T
    db = 10 * np.log10(power + 1e-12)
    return np.clip(db - max(db.max(), 0.0), -RANGE_DB, 0)  # 0: what is 40 dB below a full-scale sine stays dim


def as_png(values: Float[np.ndarray, "rows columns"], low: float, high: float) -> bytes:
    """A matrix as a bare PNG in colours from `low` to `high`, row 0 lowest; the same bytes for the same matrix."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, values, vmin=low, vmax=high, cmap="magma", origin="lower", format="png", metadata={"Software": "jukebox"})
    return png.getvalue()


def picture(audio: Float[np.ndarray, "*c t"], sample_rate: int) -> bytes:
    """A bare spectrogram as PNG: 1200 columns, more where the sound is longer than 50 s."""
    seconds = np.shape(audio)[-1] / sample_rate
    return as_png(spectrogram(audio, sample_rate, int(np.clip(24 * seconds, 1200, 6000))), -RANGE_DB, 0)


def plot_spectrogram(
    audio: Float[np.ndarray, "*c t"], sample_rate: int, path: Path, title: str = "", mark: float | None = None
) -> Path:
    """Draws a spectrogram with axes to `path` (PNG), a dashed line at `mark` seconds."""
    from matplotlib.figure import Figure

    seconds, labels = np.shape(audio)[-1] / sample_rate, hertz_labels(sample_rate)
    figure = Figure(figsize=(11, 3.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(spectrogram(audio, sample_rate), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, 1))
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
    axes.set(title=title, xlabel="seconds")
    if mark is not None:
        axes.axvline(mark, color="white", linestyle="--")
    figure.colorbar(image, label="dB", pad=0.01)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": "jukebox"})  # the same bytes for the same figure
    write_bytes(Path(path), png.getvalue())
    return Path(path)


def heat(values: Float[np.ndarray, "rows columns"], path: Path) -> Path:
    """Draws a matrix bare to `path` (PNG), row 0 lowest, from its hundredth to its last but one hundredth value; small ones larger."""
    low, high = np.quantile(values, [0.01, 0.99])
    larger = [max(1, round(size / of)) for size, of in zip((256, 768), values.shape, strict=True)]
    drawn = values.repeat(larger[0], axis=0).repeat(larger[1], axis=1)
    write_bytes(Path(path), as_png(drawn, low, max(high, low + 1e-9)))
    return Path(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file; an incomplete line is ignored."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def show(run: Path, wav: Path) -> Sounding:
    """Data of one wav for the page; draws its picture if it is missing or older than the audio."""
    png = run / "images" / f"{wav.stem}.png"
    try:
        written = wav.stat().st_mtime_ns  # before reading, so that audio replaced in the meantime stays newer than its picture
        with wave.open(str(wav), "rb") as file:
            seconds, rate = file.getnframes() / file.getframerate(), file.getframerate()
        if not png.exists() or png.stat().st_mtime_ns < written:
            write_bytes(png, picture(*read_wav(wav)))
            os.utime(png, ns=(written, written))
    except (wave.Error, EOFError, ZeroDivisionError) as error:
        return Sounding(f"audio/{wav.name}", None, 0.0, 0, f"no picture: {error or 'the file is cut'}")
    return Sounding(f"audio/{wav.name}", f"images/{png.name}", seconds, rate)


def _files(run: Path, request: dict[str, Any], sample: int) -> SampleFiles:
    """The recording that a sample continues or changes, and the result, if they exist; and its files of timed words, which are
    written now.
    """
    sources = list(map(tuple, request.get("sources", ())))
    number = list(dict.fromkeys(sources)).index(sources[sample]) if sample < len(sources) else 0
    original = next(iter(sorted(run.glob(f"prompt_{number + 1}.*" if number else "prompt.*"))), None)
    joined = next(iter(sorted((run / "audio").glob(f"joined_level_*_sample_{sample}.*"))), None)  # the finest level first
    result = f"audio/{joined.name}" if joined else ""
    if request.get("inpaints"):
        result = Path(request["outputs"][sample]).as_posix() if (run / request["outputs"][sample]).is_file() else ""
    lyrics = write_lyric_files(run / "lyrics" / f"take_{sample + 1}", lines_of(run, request, sample + 1))
    return SampleFiles(original.name if original else "", result, tuple(f"lyrics/{path.name}" for path in lyrics))


def write_page(run: Path) -> Path:
    """Writes RUN/index.html, pictures and files of words from run.json, progress.jsonl, alignment.json and the existing wavs;
    return its path.

    Raises UserError without a readable run.json.
    """
    run = Path(run)
    try:
        request = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{run} holds no run.json that can be read ({error}); give the --out folder of a run") from error
    request["folder"] = run.resolve().name
    if "model" in request:
        request["model"] = (run / request["model"]).resolve().name  # no path of the machine is on the page
    sounds = {}
    for level in request["levels"]:
        for sample in range(len(request["samples"])):
            wav = run / "audio" / f"level_{level}_sample_{sample}.wav"
            if wav.exists():
                sounds[level, sample] = show(run, wav)
    alignment = read_alignment(run)
    files = {sample: _files(run, request, sample) for sample in range(len(request["samples"]))}
    page = page_html(request, read_lines(run / "progress.jsonl"), sounds, alignment, files)
    write_bytes(run / "index.html", page.encode("utf-8", "replace"))
    return run / "index.html"
