"""The page of the demo: every song and continuation of both routes with a player, a spectrogram and its labels."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jukebox.report.run_page import Sounding, clock, fill_page, picture_html, table_html
from jukebox.runs.run import Run

FIGURES = ("frechet", "peakiness", "onsets", "chroma_change", "loudness_db")


def sound_html(run: Run, level: int, sample: int, title: str, page: Path) -> str:
    """Return picture and player of one wav of a run; paths are relative to the page."""
    wav = run.audio_path(level, sample)
    picture = run.folder / "images" / f"{wav.stem}.png"
    prompt = (run.request["prompt"] or {}).get("seconds", 0.0)
    seconds = run.total(level) * run.request["hops"][level] / run.request["sample_rate"]
    found = Sounding(
        wav.relative_to(page.parent).as_posix(),
        picture.relative_to(page.parent).as_posix(),
        seconds,
        run.request["sample_rate"],
    )
    about = f"route {run.request['route']}, {run.stream(level).name}, {clock(seconds)}"
    return (
        f'<figure><figcaption><b>{html.escape(title)}</b> <span class="soft">{html.escape(about)}</span></figcaption>'
        f'{picture_html(found, title, prompt)}<audio controls preload="metadata" src="{html.escape(found.wav)}" '
        f'aria-label="{html.escape(title)}"></audio></figure>'
    )


def write_page(page: Path, runs: Mapping[str, Path], sound: Sequence[Mapping[str, Any]], head: str = "Demo") -> None:
    """Write the page of runs (title -> folder) with the finest level of each run, and the table of their figures."""
    parts = []
    for title, folder in runs.items():
        run = Run.open(folder)
        request = run.request["samples"][0]
        words = html.escape(request.get("lyrics") or "")
        figures = "".join(sound_html(run, run.finest, i, title, page) for i in range(run.n_samples))
        link = f'<a href="{html.escape(folder.name)}/index.html">page of the run</a>'
        parts.append(
            f'<section class="sample worded"><header><h2>{html.escape(title)}</h2><p class="soft">{link}</p></header>'
            f'<div>{figures}</div><div class="lyrics">{words}</div></section>'
        )
    rows = [[row["what"], *(f"{row[name]:.2f}" for name in FIGURES)] for row in sound]
    table = f"<h2>Figures</h2>{table_html(rows, ('', *(name.replace('_', ' ') for name in FIGURES)))}"
    body = f'<header><h1>{html.escape(head)}</h1></header><div class="samples">{"".join(parts)}</div><section>{table}</section>'
    page.write_text(fill_page(f"Jukebox {head.lower()}", "", body), encoding="utf-8")
