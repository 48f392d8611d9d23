"""HTML page of a run: players, spectrograms, lyrics that follow the sound, settings and speed. Functions are pure.

The page opens from disk without a server or network. page.html beside this file has the style, and a small script for the
playhead and the highlighted words. Axes, the end of the prompt and the playhead are HTML over a picture, so that they stay
sharp on a phone. All external text is escaped.
"""

from __future__ import annotations

import html
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np


class Sounding(NamedTuple):
    """One wav of the run. Paths are relative to the page."""

    wav: str
    png: str | None  # the spectrogram, if there is one
    seconds: float
    sample_rate: int
    note: str = ""  # reason why there is no spectrogram


class SampleFiles(NamedTuple):
    """Files of a sample, as paths relative to the page; empty if there is none."""

    original: str = ""  # the recording that the sample continues or changes
    result: str = ""  # the recording with the new audio
    lyrics: tuple[str, ...] = ()  # files of timed words


Json = Mapping[str, Any]  # an object of run.json, of progress.jsonl or of alignment.json
Sounds = Mapping[tuple[int, int], Sounding]  # by (level, sample)
Speeds = Mapping[int | str, Mapping[str, float]]  # result of `speeds`


def top_hz(sample_rate: int) -> float:
    """Highest frequency of a spectrogram: 11025 Hz, or half the sample rate if that is lower."""
    return min(11025.0, sample_rate / 2)


def mel(hz: float) -> float:
    """Convert hertz to mel."""
    return 2595 * float(np.log10(1 + hz / 700))


def hertz_labels(sample_rate: int) -> list[tuple[float, str]]:
    """Return (position from the bottom 0..1, label) of each frequency label of a spectrogram."""
    marks = [(200, "200 Hz"), (500, "500"), (1000, "1 kHz"), (2000, "2"), (4000, "4"), (8000, "8 kHz")]
    return [(mel(hz) / mel(top_hz(sample_rate)), label) for hz, label in marks if hz < 0.97 * top_hz(sample_rate)]


def reached(lines: Sequence[Mapping[str, Any]], sample: int) -> int:
    """Number of codes of a sample according to lines of progress. A line without samples applies to all samples."""
    totals = [line.get("codes_total") or 0 for line in lines if sample in line.get("samples", [sample])]
    return max(totals, default=0)


def speeds(request: Mapping[str, Any], progress: Sequence[Mapping[str, Any]]) -> dict[int | str, dict[str, float]]:
    """Return by level: share done (0..1), seconds taken, seconds of music (of all samples), and music per second.

    If all levels are done, the key "all" has the figures of all levels together.
    """
    songs, levels, longest = len(request["samples"]), sorted(request["levels"]), max(request["hops"])
    out: dict[int | str, dict[str, float]] = {}
    for level in levels:
        lines = [line for line in progress if line.get("level") == level]
        made = [line for line in lines if line.get("took")]  # without the codes of a prompt, which took no time
        took, music = (sum(float(line.get(k) or 0) for line in made) for k in ("took", "music_seconds"))
        alignment = min(reached(lines, song) for song in range(songs)) * request["hops"][level]
        wanted = request["seconds"] * request["sample_rate"]
        done = 1.0 if alignment > wanted - longest else alignment / wanted  # lengths are rounded down to whole coarse codes
        out[level] = {"done": done, "took": took, "music": songs * music, "speed": songs * music / took if took else 0}
    if out and min(row["done"] for row in out.values()) == 1:
        took, music = sum(row["took"] for row in out.values()), out[levels[0]]["music"]
        out["all"] = {"done": 1.0, "took": took, "music": music, "speed": music / took if took else 0.0}
    return out


def lyrics_html(lyrics: str, word_times: Sequence[Sequence[Any]]) -> str:
    """Return the escaped lyrics. Each timed text is a span with start and end in seconds."""
    out, at = [], 0
    for text, start, end in word_times:
        place = lyrics.find(text, at) if text else -1
        if place < 0 or not (isinstance(start, int | float) and isinstance(end, int | float) and start < end):
            continue
        word = f'<span data-start="{start:.3f}" data-end="{end:.3f}">{html.escape(text)}</span>'
        out += [html.escape(lyrics[at:place]), word]
        at = place + len(text)
    return "".join(out) + html.escape(lyrics[at:])


def table_html(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Return a table of escaped text. The first column has the names of the rows."""

    def cells(row: Sequence[object]) -> str:
        return "".join(f"<{t}>{html.escape(str(c))}</{t}>" for t, c in zip(["th"] + ["td"] * (len(row) - 1), row))

    head = f"<thead><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def clock(seconds: float) -> str:
    """Format seconds: 12.5 becomes "12.5 s", 75 becomes "1:15"."""
    return f"{seconds:.3g} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def picture_html(sound: Sounding, alt: str, prompt: float) -> str:
    """Return a spectrogram with frequency labels, time labels, and a line at the end of the prompt (seconds; 0: no prompt)."""
    length = sound.seconds
    labels = hertz_labels(sound.sample_rate)
    hertz = "".join(f'<span class="hz" style="bottom:{100 * p:.1f}%">{label}</span>' for p, label in labels)
    step = next((s for s in (0.5, 1, 2, 5, 10, 15, 30, 60) if length / s <= 8 * max(1, length / 75)), 120)
    marks = np.arange(0, length - step / 3, step)
    seconds = "".join(f'<span style="left:{100 * t / length:.2f}%">{clock(t)}</span>' for t in marks)
    line = ""
    if 0 < prompt < length:
        side = " early" if prompt < length / 4 else ""
        line = f'<i class="prompt{side}" style="left:{100 * prompt / length:.2f}%"><b>prompt ends, {clock(prompt)}</b></i>'
    wide = f' style="width:max(100%, {14 * length:.0f}px)"' if length > 75 else ""
    return (
        f'<div class="plate"><div class="scroll"><div{wide}><div class="picture" data-seconds="{length:.3f}">'
        f'<img src="{html.escape(str(sound.png))}" alt="{html.escape(alt)}">{line}<i class="head"></i></div>'
        f'<div class="ticks">{seconds}</div></div></div><div class="axis">{hertz}</div></div>'
    )


def level_html(request: Json, level: int, sample: int, sound: Sounding | None, row: Mapping[str, float]) -> str:
    """Return spectrogram, player and progress of one level of one sample. `row` is the level's row of `speeds`."""
    done, hop = row["done"], request["hops"][level]
    ranks = {max(request["hops"]): "coarsest", min(request["hops"]): "finest"}
    about = f"{ranks.get(hop, 'between')}, a code every {hop} samples ({1000 * hop / request['sample_rate']:.2g} ms)"
    if sound is None:
        about += ", no audio yet"
    elif sound.note or done < 1:
        about += f", {html.escape(sound.note) or f'{clock(sound.seconds)} so far'}"
    if row["speed"]:
        about += f"; {row['speed']:.3g} seconds of music per second"
    parts = [f'<figcaption><b>Level {level}</b> <span class="soft">{about}</span></figcaption>']
    if sound is not None and sound.png:
        prompt = (request.get("prompt") or {}).get("seconds") or 0.0
        parts.append(picture_html(sound, f"spectrogram of level {level}, take {sample + 1}", prompt))
    if sound is not None:
        parts[0] = parts[0].replace("</figcaption>", f"{download_html(sound.wav)}</figcaption>")
        parts.append(player_html(sound.wav, f"level {level} of take {sample + 1}"))
    parts += [warning_html(each["text"]) for each in request.get("findings", ()) if _is_of(each, level, sample)]
    if done < 1:
        parts.append(f'<progress max="1" value="{done:.3f}" aria-label="share done"></progress>')
    return "<figure>" + "\n".join(parts) + "</figure>"


def words_of(song: Mapping[str, Any], alignment: Mapping[str, Any] | None) -> tuple[list[list[Any]], str]:
    """Return [text, start, end] of each highlighted word, and a note with the source of the times.

    Aligned times are preferred to requested ones.
    """
    if alignment is not None:
        times = [[word["word"], word["start"], word["end"]] for word in alignment["words"]]
        missed = f"; {len(alignment['left_out'])} words were not found" if alignment["left_out"] else ""
        doubt = "" if alignment.get("credible", True) else " The alignment is not credible: the words may not be sung at all."
        return times, f"Words are highlighted at the times found by the alignment{missed}.{doubt}"
    times = song.get("word_times") or []
    return times, "Words are highlighted at the requested times." if times else ""


def player_html(path: str, label: str) -> str:
    """Return a player of a file. `path` is relative to the page."""
    return f'<audio controls preload="metadata" src="{html.escape(quote(os.fsencode(path)))}" aria-label="{html.escape(label)}"></audio>'


def download_html(path: str) -> str:
    """Return a link that downloads a file."""
    return f' <a class="soft" download href="{html.escape(quote(os.fsencode(path)))}">download</a>'


def lyric_links_html(paths: Sequence[str]) -> str:
    """Return links that download the files of timed words."""
    links = (
        f'<a class="soft" download href="{html.escape(quote(path))}">{html.escape(path.partition(".")[2])}</a>'
        for path in paths
    )
    return f'<p class="soft">Words in time: {" ".join(links)}</p>' if paths else ""


def warning_html(text: str) -> str:
    """Return a paragraph with a warning."""
    return f'<p class="warning">\N{WARNING SIGN} {html.escape(text)}</p>'


def _is_of(finding: Json, level: int | None, sample: int) -> bool:
    return finding.get("level") == level and finding.get("sample", sample) == sample


def pair_html(request: Json, files: SampleFiles, sample: int) -> str:
    """Return players of the result and of the recording that it continues or changes, if their files exist."""
    inpaints, number = request.get("inpaints"), f"take {sample + 1}"
    about = (
        "the recording with the new audio in it"
        if inpaints
        else "the unchanged recording, then the new audio at its sample rate"
    )
    given = "the whole recording" if inpaints else "the prompt: the part of the recording that is kept"
    return "".join(
        f'<figure><figcaption><b>{name}</b> <span class="soft">{what}</span>{download_html(path)}</figcaption>'
        f"{player_html(path, f'{name.lower()} of {number}')}</figure>"
        for name, what, path in (("Result", about, files.result), ("Original", given, files.original))
        if path
    )


def levels_html(request: Json, sample: int, sounds: Sounds, speed: Speeds) -> str:
    """Return the finest level with audio, and the other levels folded."""
    encodes = request.get("encodes", [])
    sampled = [level for level in reversed(request["levels"]) if level not in encodes]
    order = [*sampled, *encodes]
    first = next((level for level in order if (level, sample) in sounds), order[0])
    figures = {level: level_html(request, level, sample, sounds.get((level, sample)), speed[level]) for level in order}
    others = "".join(figures[level] for level in order if level != first)
    return figures[first] + (f"<details><summary>Other levels</summary>{others}</details>" if others else "")


def sample_html(
    request: Json, sample: int, sounds: Sounds, speed: Speeds, alignment: Json | None = None, files: SampleFiles | None = None
) -> str:  # fmt: skip
    """Return the section of one sample: artist and genre, audio, other levels folded, and lyrics.

    alignment: the sample's alignment in alignment.json, if there is one
    """
    song = request["samples"][sample]
    genres = ", ".join(song.get("genres") or []) or "no genre"
    name = f"{song.get('artist') or 'no artist'} · {genres}"
    title = f"Take {sample + 1}: {name}" if len(request["samples"]) > 1 else name
    figures = pair_html(request, files or SampleFiles(), sample)
    if request.get("inpaints"):
        level = request["levels"][-1]
        figures += "".join(warning_html(each["text"]) for each in request.get("findings", ()) if _is_of(each, level, sample))
    else:
        figures += levels_html(request, sample, sounds, speed)
    lyrics = song.get("lyrics") or ""
    times, note = words_of(song, alignment) if lyrics else ([], "No lyrics were given.")
    words = f'<div class="lyrics" lang="und" dir="auto">{lyrics_html(lyrics, times)}</div>' if lyrics else ""
    figures += lyric_links_html(files.lyrics if files else ())
    return (
        f'<section class="sample{" worded" if lyrics else ""}"><header><h2>{html.escape(title)}</h2>'
        f'<p class="soft">{note}{_branch_line(request, sample)}</p></header><div>{figures}</div>{words}</section>'
    )


def _branch_line(request: Json, sample: int) -> str:
    """Return a line with the command that continues this take."""
    if request.get("inpaints") or "folder" not in request:
        return ""
    command = f"jukebox branch {shlex.quote(request['folder'])} --take {sample + 1}"
    return f" To continue this take: <code>{html.escape(command)}</code>"


def plain(value: object) -> str:
    """Format the value of a setting as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of each setting. If the levels differ, the value lists each level."""
    rows = [("model", PurePath(request["model"]).name)] if "model" in request else []  # its path is in run.json
    rows += [(k, plain(request[k])) for k in ("seed", "seconds", "total_seconds") if k in request]
    params = request.get("params") or request.get("how") or {}  # runs of version 2 have `how`
    if params and all(isinstance(choice, Mapping) for choice in params.values()):  # level -> name -> value
        levels = [str(level) for level in sorted(request["levels"]) if str(level) in params]
        for name in dict.fromkeys(name for level in levels for name in params[level]):
            values = [plain(params[level].get(name)) for level in levels]
            each = ", ".join(f"{value} (level {level})" for level, value in zip(levels, values))
            rows.append((name, values[0] if len(set(values)) == 1 else each))
    else:
        rows += [(name, plain(value)) for name, value in params.items()]
    return [(name.replace("_", " "), value) for name, value in rows]


def page_html(
    request: Json, progress: Sequence[Json], sounds: Sounds, alignment: Sequence[Json] = (), files: Mapping[int, SampleFiles] | None = None
) -> str:  # fmt: skip
    """Return the whole page of a run.

    request: content of run.json
    progress: lines of progress.jsonl
    sounds: wavs by (level, sample)
    alignment: alignment of each sample, if there is one
    files: files of each sample
    """
    speed, count = speeds(request, progress), len(request["samples"])
    verb = {
        "sample": "A song from artist, genre and lyrics",
        "continue": "A recording, continued",
        "upsample": "Upsampled",
        "branch": "A song with another continuation",
        "edit": "A range of a recording, sampled again",
        "vary": "A recording, varied",
        "extend": "A recording with more before and after it",
        "compress": "A recording from few of its codes",
    }
    title = verb.get(request["verb"], str(request["verb"]))
    prompt = request.get("prompt")
    summary = [clock(request["seconds"]), f"seed {request['seed']}", f"{request['sample_rate']} Hz"]
    names = [prompt["path"]] if prompt and isinstance(prompt["path"], str) else prompt["path"] if prompt else []
    summary += [f"the first {clock(prompt['seconds'])} from {plain([PurePath(path).name for path in names])}"] if prompt else []
    summary += [f"{speed['all']['speed']:.3g} seconds of music per second"] if "all" in speed else []
    badge = "" if "all" in speed else ' <span class="badge">unfinished: load the page again later</span>'
    aligned = [*alignment, *[None] * (count - len(alignment))]
    samples = "\n".join(sample_html(request, i, sounds, speed, aligned[i], (files or {}).get(i)) for i in range(count))
    wrong = "".join(warning_html(each["text"]) for each in request.get("findings", ()) if "level" not in each)
    marked = len(request.get("findings", ()))
    badge += f' <span class="badge">{marked} warning{"s" * (marked > 1)}</span>' if marked else ""
    names = {level: f"level {level}" for level in request["levels"]} | {"all": "all levels"}
    rates = [
        (names[k], f"{100 * r['done']:.0f} %", clock(r["took"]), f"{r['speed']:.3g}" if r["took"] else "")
        for k, r in speed.items()
    ]
    together = f", {count} samples together" if count > 1 else ""
    tables = (
        f"<div><h2>Settings</h2>{table_html(settings(request))}</div>"
        f"<div><h2>Speed</h2>{table_html(rates, ('', 'done', 'took', f'seconds of music per second{together}'))}"
    )
    where = [(f"{part}: {k}", plain(v)) for part in ("machine", "versions", "model_hash") for k, v in _items(request.get(part))]
    if where:
        tables += f"<details><summary>Machine, versions, model</summary>{table_html(where)}</details>"
    body = (
        f'<header><h1>{html.escape(title)}{badge}</h1><p class="soft">{html.escape(" · ".join(summary))}</p>{wrong}</header>\n'
        f'<div class="samples">{samples}</div>\n<section><div class="tables">{tables}</div></div>'
        f'<p class="soft">Everything that was asked for: <a href="run.json">run.json</a></p></section>'
    )
    return fill_page(f"{title} · seed {request['seed']}", ' class="many"' if count > 1 else "", body)


def fill_page(title: str, kind: str, body: str) -> str:
    """Fill page.html with a title (escaped here), an attribute `kind` of the body element, and the content `body`."""
    template = resources.files("jukebox.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=html.escape(title), kind=kind, body=body)


def _items(part: object) -> list[tuple[object, object]]:
    return list(part.items()) if isinstance(part, Mapping) else [("", part)] if part else []
