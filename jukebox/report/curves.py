"""Training curves from log.jsonl as SVG and as one HTML page, without an account or a network.

A panel shows one quantity over the steps. Each part of the model has a faint line and its running mean. Codecs and priors have
different quantities, so each kind has separate panels. A quantity that spans two decades has a logarithmic axis. The page is
self-contained: it embeds the newest sounds and pictures of the training.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError
from jukebox.report.run_page import fill_page
from jukebox.report.spectrograms import read_lines

Curve = tuple[np.ndarray, np.ndarray]  # steps, values
COLOURS = ("#b5304f", "#2f7fb5", "#3f9a56", "#c9861a", "#7d57b8", "#138f8a", "#8a6d3b", "#666a73")
WIDTH, HEIGHT = 360, 210  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM, LINE = 52, 10, 40, 24, 13  # margins, height of a line of text
LEGEND_CHARACTERS = 52  # characters of a legend's line
POINTS = 120  # largest number of points of a curve
FIRST = ("bits", "loss", "spectral_convergence", "usage")  # the most important panels come first
# name in a log.jsonl -> (title with the unit, meaning); `explain` also finds names with a level, a book or a phase
NAMES = {
    "step": ("steps", "optimiser steps so far"),
    "minutes": ("minutes", "training time so far, of all runs of this training together"),
    "loss": ("loss", "what the optimiser lowers: the sum of all terms"),
    "held_out_loss": ("loss on held-out songs", "if it rises while the loss falls, the prior overfits"),
    "held_out_bits": ("bits per code of held-out songs", "if they rise while the bits fall, the prior overfits"),
    "bits": ("bits per code", "bits per code of the prior (per frame with several books); lower is better"),
    "bits_book": ("bits per code", "the same, of one book of a frame"),
    "lyric_bits": ("bits per character", "bits per character of the lyrics"),
    "lr": ("learning rate", "how far a step moves the weights"),
    "gradient_norm": ("norm of the gradient", "its length before clipping; it jumps at outliers, or where the learning rate is too high"),
    "gradient_square": ("square of the gradient's norm", "of the whole batch"),
    "gradient_square_of_parts": ("square of the gradient's norm", "of parts of the batch, on average; the noise scale follows from both"),
    "noise_scale": ("noise scale of the gradient, rows", "the batch size above which more rows per step help little"),
    "skipped": ("steps skipped", "steps so far that were skipped because their gradient was an outlier"),
    "data_wait": ("share of time waiting for data", "0: the data are always ready; 1: training only waits"),
    "share_of_peak": ("share of the machine's rate", "operations of training over those of a plain matrix product on this machine"),
    "codes_per_second": ("codes per second", "speed of training"),
    "seconds_per_second": ("seconds of sound per second", "speed of training"),
    "recons_loss": ("reconstruction loss", "difference of the waveforms, over the bandwidth of the corpus (no unit)"),
    "l1_loss": ("L1 loss", "mean absolute difference of the waveforms, over the bandwidth of the corpus (no unit)"),
    "l2_loss": ("L2 loss", "mean squared difference of the waveforms, over the bandwidth of the corpus (no unit)"),
    "linf_loss": ("L-infinity loss", "the largest differences of the waveforms, over the bandwidth of the corpus (no unit)"),
    "spectral_loss": ("spectral loss", "difference of the magnitude spectra, over the bandwidth of the corpus (no unit)"),
    "multispectral_loss": ("multi-scale spectral loss", "the same with several lengths of window (no unit)"),
    "spectral_convergence": ("spectral convergence", "norm of the difference of the spectra over that of the original: 0 equal, 1 silence"),
    "commit_loss": ("commitment loss", "squared distance of the encoder's output to its codes (no unit)"),
    "pitch_agreement": ("share of the true pitch, by seconds", "rows whose pitch is that of the true continuation"),
    "diversity_loss": ("diversity loss", "how unevenly the argmax bottleneck uses its codes (0: evenly)"),
    "log_loss": ("loss of log magnitudes", "mean difference of the logarithms of the spectra (nats)"),
    "root_loss": ("loss of root magnitudes", "mean difference of the square roots of the magnitudes (no unit)"),
    "mel_loss": ("loss of mel bands", "mean difference of the logarithms of the energy in mel bands (nats)"),
    "slope_loss": ("loss of slopes", "mean difference of how log magnitudes change over time and frequency (nats)"),
    "phase_loss": ("phase loss", "squared distance of the derivatives of the phases, weighted by magnitude (no unit)"),
    "entropy": ("entropy of the codes, nats", "how evenly the codebook is used; its logarithm at most"),
    "effective_dimension": ("effective dimension", "directions in which the latents vary; far below their width they have collapsed"),
    "reconstruction_loss": ("reconstruction loss", "the losses of the spectral codec's first phase together (no unit)"),
    "scales_loss": ("multi-scale spectral distance", "spectral convergence and distance of log magnitudes at several windows (no unit)"),
    "matching_loss": ("feature matching", "distance of the discriminators' hidden features, over the size of the true ones (no unit)"),
    "adversary_loss": ("adversarial loss", "minus the score that the discriminators give to what is decoded (no unit)"),
    "latent_loss": ("loss of latents", "mean difference of the first autoencoder's latents from what the second makes of them (no unit)"),
    "waveform_loss": ("distance of the waveforms", "mean absolute difference (no unit)"),
    "kl_loss": ("distance of the posterior", "from a normal distribution of deviation 1/3 (nats per number)"),
    "true_right": ("true patches classified correctly", "share of patches of true spectrograms that discriminators take for true"),
    "made_right": ("decoded patches classified correctly", "share of patches of decoded spectrograms that discriminators take for decoded"),
    "hinge_loss": ("hinge loss", "how far the critic's scores are from 1 for true windows and from -1 for generated ones (no unit)"),
    "gradient_penalty": ("gradient penalty", "squared gradient of the critic's scores on true windows (R1), before its weight"),
    "penalty_weight": ("weight of the gradient penalty", "rises while the critic is certain, falls while it is not"),
    "reconstruction_error": ("reconstruction by the critic", "squared error of true windows that are made again from its features"),
    "certainty": ("certainty of the critic", "half the distance of its scores of true and generated windows, 0 to 1"),
    "made_deviation": ("deviation of generated latents", "standard deviation; near 0 the generator has collapsed"),
    "true_deviation": ("deviation of true latents", "standard deviation of the windows of a batch"),
    "used_curr": ("codes used in a batch", "codes of the codebook that occur in a batch"),
    "usage": ("codes in use", "codes of the codebook whose running count is above the threshold of restarts"),
    "dk": ("movement of the codebook", "how far a step moves its vectors (root mean square)"),
    "fit": ("distance to the codes", "squared distance of the encoder's output to the nearest code"),
    "pn": ("size of the latents", "standard deviation of the encoder's output"),
}  # fmt: skip


def explain(name: str) -> tuple[str, str]:
    """Return title with unit, and meaning, of a name in a log. The meaning of an unknown name is empty."""
    bare, of = name, ""
    if found := re.fullmatch(r"(.+?)_?(book|l|)(\d+)", name):
        of = f", book {found[3]}" if found[2] == "book" else f", level {found[3]}"
        bare = next((each for each in (found[1], f"{found[1]}_{found[2]}") if each in NAMES), name)
    phase, _, rest = bare.partition("_")
    if bare not in NAMES and rest in NAMES:
        bare, of = rest, f"{of}, {phase}"
    title, meaning = NAMES.get(bare, (name.replace("_", " "), ""))
    return (title + of if bare != name else title), meaning


def read_parts(run: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Read the log lines of each part of a training; UserError if there are none.

    run: a folder with log.jsonl, or a model folder with training/PART/log.jsonl
    """
    run = Path(run)
    logs = [run / "log.jsonl"] if (run / "log.jsonl").is_file() else sorted((run / "training").glob("*/log.jsonl"))
    read = {log.parent.name: [line for line in read_lines(log) if "step" in line] for log in logs}
    parts = {part: lines for part, lines in read.items() if lines}
    if not parts:
        raise UserError(f"{run} holds no log.jsonl of a training; give a model folder, or its training/PART")
    return parts


def labelled(runs: Mapping[str, str | Path]) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Return label -> (folder, log lines) for the parts of several runs. Labels are as short as possible but unique."""
    found = {run: read_parts(folder) for run, folder in runs.items()}
    same = len({tuple(parts) for parts in found.values()}) == 1 and all(len(parts) == 1 for parts in found.values())
    out = {}
    for run, parts in found.items():
        for part, lines in parts.items():
            label = part if len(runs) == 1 else run if same else f"{run}/{part}"
            folder = Path(runs[run])
            out[label] = (folder if (folder / "log.jsonl").is_file() else folder / "training" / part, lines)
    return out


def curves_of(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Curve]]:
    """Return quantity -> part -> curve, in the order of the panels. A loss that is equal to the bits has no curve."""
    names = dict.fromkeys(name for lines in parts.values() for line in lines for name in line)
    found: dict[str, dict[str, Curve]] = {}
    for name in sorted(names, key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST)):
        for part, lines in parts.items():
            points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
            same = name == "loss" and all(line.get("bits") == line.get("loss") for line in lines)
            if points and name not in ("step", "minutes") and not same:
                steps, values = np.array(points, dtype=np.float64).T
                found.setdefault(name, {})[part] = (steps, values)
    return found


def chosen_curves(parts: Mapping[str, Sequence[Mapping[str, Any]]], only: Sequence[str]) -> dict[str, dict[str, Curve]]:
    """Return the curves of the quantities in `only` (empty: all); raise UserError if the logs have none of them."""
    curves = {name: each for name, each in curves_of(parts).items() if not only or name in only}
    if not curves:
        raise UserError(f"no log holds {', '.join(only)}; there are {', '.join(curves_of(parts))}")
    return curves


# ---- one panel


def short(value: float) -> str:
    """Format a number in few characters."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean of a curve over windows of 1/25 of its length. The result has the length of the curve."""
    width = max(1, len(values) // 25)
    padded = np.pad(values, (width // 2, (width - 1) // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, "valid")


def thin(curve: Curve) -> Curve:
    """Reduce a curve to at most POINTS points. Each point is the mean of a group of adjacent points."""
    groups = np.array_split(np.arange(len(curve[0])), min(POINTS, len(curve[0])))
    steps, values = ([part[group].mean() for group in groups] for part in curve)
    return np.array(steps), np.array(values)


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Return three to six round numbers between `low` and `high`, inclusive."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = max(1, len(powers) // 5)
        return [10.0**p for p in powers[::every] if low <= 10.0**p <= high]
    step = 10 ** math.floor(math.log10((high - low) / 2 or 1))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(curves: Iterable[Curve]) -> tuple[float, float, bool]:
    """Return the lowest and highest value of an axis, and whether it is logarithmic. Single spikes may leave the panel."""
    values = np.concatenate([thin(curve)[1] for curve in curves])
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    logarithmic = low > 0 and high > 100 * low
    if not logarithmic:
        low, high = (0.0 if 0 <= low < 0.3 * high else low), max(high, low + 1e-9)
    return low, high, logarithmic


def wrapped(ends: Mapping[str, str]) -> list[list[str]]:
    """The parts of a legend in lines of at most LETTERS characters, or of one part."""
    lines: list[list[str]] = []
    room = 0
    for part, text in ends.items():
        room -= len(text) + 2
        if room < 0:
            lines.append([])
            room = LEGEND_CHARACTERS - len(text)
        lines[-1].append(part)
    return lines


def panel_svg(name: str, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> str:
    """Draw one quantity of all parts as SVG elements of a panel, WIDTH by HEIGHT."""
    low, high, logarithmic = _range(curves.values())
    last = max(float(steps[-1]) for steps, _ in curves.values())
    ends = {part: f"{part} {short(smooth(values)[-1])}" for part, (_, values) in curves.items()}
    legend = wrapped(ends)
    top = TOP + LINE * (len(legend) - 1)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        up = np.log(max(value, low) / low) / np.log(high / low) if logarithmic else (value - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - top - BOTTOM) * min(max(float(up), 0.0), 1.0)

    def line(curve: Curve, style: str) -> str:
        points = " ".join(f"{x(s):.0f},{y(v):.1f}" for s, v in zip(*thin(curve), strict=True))
        return f'<polyline points="{points}" fill="none" {style}/>'

    out = [f'<text x="{LEFT}" y="13" font-weight="600">{html.escape(explain(name)[0])}</text>']
    for i, parts in enumerate(legend):
        words = "  ".join(f'<tspan fill="{colours[part]}">{html.escape(ends[part])}</tspan>' for part in parts)
        out.append(f'<text x="{LEFT}" y="{29 + LINE * i}">{words}</text>')
    for value in ticks(low, high, logarithmic):
        out.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="currentColor" opacity=".15"/>')
        out.append(f'<text x="{LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for step in ticks(0, last, False):
        out.append(f'<text x="{x(step):.0f}" y="{HEIGHT - 6}" text-anchor="middle">{short(step)}</text>')
    for part, curve in curves.items():
        out.append(line(curve, f'stroke="{colours[part]}" opacity=".3"'))
        out.append(line((curve[0], smooth(curve[1])), f'stroke="{colours[part]}" stroke-width="1.6"'))
    return "".join(out)


def figure_svg(parts: Mapping[str, Sequence[Mapping[str, Any]]], only: Sequence[str] = (), columns: int = 3) -> str:
    """Draw the quantities in `only` (empty: all) of some parts in a grid of panels, as one self-contained SVG."""
    curves = chosen_curves(parts, only)
    colours = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    panels = "".join(
        f'<g transform="translate({i % columns * WIDTH} {i // columns * HEIGHT})">{panel_svg(name, each, colours)}</g>'
        for i, (name, each) in enumerate(curves.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * WIDTH} {rows * HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="currentColor" color="#777">{panels}</svg>'
    )


# ---- the page


def kinds(parts: Iterable[str]) -> dict[str, list[str]]:
    """Group parts by kind: the levels of the codec, the priors, and other kinds."""
    found: dict[str, list[str]] = {}
    for part in sorted(parts, key=lambda part: "vqvae" not in part):
        kind = part.rpartition("/")[2].split("_")[0]
        found.setdefault({"vqvae": "The codec", "prior": "The priors"}.get(kind, kind), []).append(part)
    return found


def panels_html(parts: Mapping[str, Sequence[Mapping[str, Any]]], only: Sequence[str] = ()) -> str:
    """Return a panel for each quantity with its meaning. The page arranges panels in as many columns as fit."""
    colours = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
    figures = []
    for name, curves in chosen_curves(parts, only).items():
        style = 'font-family="system-ui, sans-serif" font-size="11" fill="currentColor"'
        svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {style}>{panel_svg(name, curves, colours)}</svg>'
        about = f"<code>{html.escape(name)}</code> {html.escape(explain(name)[1])}"
        figures.append(f'<figure>{svg}<p class="soft">{about}</p></figure>')
    return f'<div class="panels">{"".join(figures)}</div>'


def example_html(folder: Path) -> str:
    """Return HTML that embeds the newest sounds and pictures of a training and the original recording, from `folder`."""
    newest = max((path.name.split("_")[1] for path in folder.glob("step_*")), default="")
    out = []
    for path in (
        [*sorted(folder.glob(f"step_{newest}_*"), key=lambda p: p.suffix != ".wav"), *folder.glob("original.wav")]
        if newest
        else ()
    ):
        words = path.stem.removeprefix(f"step_{newest}_").replace("_", " ")
        what = html.escape(words if path.stem == words else f"{words}, step {int(newest)}")
        data = base64.b64encode(path.read_bytes()).decode()
        if path.suffix == ".wav":
            shown = f'<audio controls data-name="{html.escape(path.name)}" src="data:audio/wav;base64,{data}"></audio>'
        else:
            shown = f'<img alt="{what}" style="max-width:100%" src="data:image/png;base64,{data}">'
        out.append(f"<figure><figcaption>{what}</figcaption>{shown}</figure>")
    return "".join(out)


def _examples_html(examples: Mapping[str, str]) -> str:
    """Return a section with the newest examples: the songs of the finest level's prior first, other parts folded."""
    of_codec = {name: name.rpartition("/")[2].startswith(("vqvae", "spectral")) for name in examples}
    order = sorted(
        (name for name in examples if examples[name]),
        key=lambda name: (of_codec[name], name[-1] if name[-1].isdigit() else "0"),
    )
    shown = [f'<h2>{html.escape(name)}</h2><div class="panels">{examples[name]}</div>' for name in order]
    others = f"<details><summary>Other parts</summary>{''.join(shown[1:])}</details>" if shown[1:] else ""
    return f"<section>{shown[0]}{others}</section>"


def training_html(runs: Mapping[str, Path], only: Sequence[str] = ()) -> str:
    """Return the page of one or several trainings, given as name -> folder."""
    found = labelled(runs)
    parts = {label: lines for label, (_, lines) in found.items()}
    examples = {label: example_html(folder / "examples") for label, (folder, _) in found.items()}
    sections = [_examples_html(examples)] if any(examples.values()) else []
    for kind, names in kinds(parts).items():
        of_kind = {name: parts[name] for name in names}
        last = {name: parts[name][-1] for name in names}
        ends = "; ".join(f"{name}: {line['step']} steps, {line.get('minutes', 0):.1f} min" for name, line in last.items())
        head = f'<h2>{html.escape(kind)}</h2><p class="soft">{html.escape(ends)}</p>'
        sections.append(f"<section>{head}{panels_html(of_kind, only)}</section>")
    title = f"Training of {', '.join(runs)}"
    body = f"<header><h1>{html.escape(title)}</h1></header>\n" + "\n".join(sections)
    return fill_page(title, "", body)
