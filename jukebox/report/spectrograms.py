"""Spectrograms, and the page of a run with a spectrogram for every level and sample.

`write_page` reads only the run folder (run.json, progress.jsonl, alignment.json, audio/*.wav), so it can be called after every
window, after a kill, and years later. Spectrograms depend on the audio alone and are drawn again if the audio is newer. Their
frequency axis is mel up to 11 kHz. Each row is the mean power between two frequencies, computed from the cumulative sum of the
spectrum, so that no row is empty and no partial is skipped.
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
    """Read a 16-bit PCM wav: (channels, frames) in -1..1, and the sample rate; wave.Error or EOFError for other files."""
    with wave.open(str(path), "rb") as file:
        if file.getsampwidth() != 2:
            raise wave.Error(f"{path} has {8 * file.getsampwidth()} bits a sample, 16 were expected")
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return samples.reshape(-1, file.getnchannels()).T.astype(np.float32) / 32768, file.getframerate()


def spectrogram(
    audio: Float[np.ndarray, "*c t"], sample_rate: int, columns: int = 1200, rows: int = 256
) -> Float[np.ndarray, "rows columns"]:
    """Spectrogram in dB below its maximum (0..-75), even in time and on the mel scale up to 11 kHz. Row 0 is the lowest."""
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
    return np.clip(db - max(db.max(), 0.0), -RANGE_DB, 0)  # at least 0 dB (some 40 dB below a sine): silence stays dark


def as_png(values: Float[np.ndarray, "rows columns"], low: float, high: float) -> bytes:
    """Draw a matrix as PNG without axes, in colours from `low` to `high`, row 0 lowest. Equal matrices have equal bytes."""
    from matplotlib.image import imsave

    png = io.BytesIO()
    imsave(png, values, vmin=low, vmax=high, cmap="magma", origin="lower", format="png", metadata={"Software": "jukebox"})
    return png.getvalue()


def picture(audio: Float[np.ndarray, "*c t"], sample_rate: int) -> bytes:
    """Draw a spectrogram as PNG without axes. It has 1200 columns, and up to 6000 if the audio is longer than 50 s."""
    seconds = np.shape(audio)[-1] / sample_rate
    return as_png(spectrogram(audio, sample_rate, int(np.clip(24 * seconds, 1200, 6000))), -RANGE_DB, 0)


def plot_spectrogram(
    audio: Float[np.ndarray, "*c t"], sample_rate: int, path: Path, title: str = "", mark: float | None = None
) -> Path:
    """Draw a spectrogram with axes to `path` (PNG), with a dashed line at `mark` seconds, and return `path`."""
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
    figure.savefig(png, format="png", metadata={"Software": "jukebox"})  # equal figures have equal bytes
    write_bytes(Path(path), png.getvalue())
    return Path(path)


def heat(values: Float[np.ndarray, "rows columns"], path: Path) -> Path:
    """Draw a matrix to `path` (PNG) without axes, row 0 lowest, and return `path`.

    Colours range from the 1st to the 99th percentile of the values. Small matrices are enlarged.
    """
    low, high = np.quantile(values, [0.01, 0.99])
    larger = [max(1, round(size / of)) for size, of in zip((256, 768), values.shape, strict=True)]
    drawn = values.repeat(larger[0], axis=0).repeat(larger[1], axis=1)
    write_bytes(Path(path), as_png(drawn, low, max(high, low + 1e-9)))
    return Path(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a jsonl file. Incomplete lines are ignored, and a missing file is empty."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def show(run: Path, wav: Path) -> Sounding:
    """Return the data of one wav for the page, and draw its spectrogram if it is missing or older than the audio."""
    png = run / "images" / f"{wav.stem}.png"
    try:
        written = wav.stat().st_mtime_ns  # read first: audio replaced in the meantime is newer than its picture
        with wave.open(str(wav), "rb") as file:
            seconds, rate = file.getnframes() / file.getframerate(), file.getframerate()
        if not png.exists() or png.stat().st_mtime_ns < written:
            write_bytes(png, picture(*read_wav(wav)))
            os.utime(png, ns=(written, written))
    except (wave.Error, EOFError, ZeroDivisionError) as error:
        return Sounding(f"audio/{wav.name}", None, 0.0, 0, f"no picture: {error or 'the file is cut'}")
    return Sounding(f"audio/{wav.name}", f"images/{png.name}", seconds, rate)


def _files(run: Path, request: dict[str, Any], sample: int) -> SampleFiles:
    """Return the existing files of a sample: the recording that it continues or changes, and the result.

    The files of timed words are written here.
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
    """Write RUN/index.html, the spectrograms and the files of timed words, and return the path of the page.

    The sources are run.json, progress.jsonl, alignment.json and the existing wavs. UserError without a readable run.json.
    """
    run = Path(run)
    try:
        request = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{run} holds no run.json that can be read ({error}); give the --out folder of a run") from error
    request["folder"] = run.resolve().name
    if "model" in request:
        request["model"] = (run / request["model"]).resolve().name  # the page shows no path of the machine
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
