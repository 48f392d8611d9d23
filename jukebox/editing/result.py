"""The result of an edit: its run is checked, its new audio is decoded and inserted into the recording, with tags and a page."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from data_prep.audio.audio import probe, read
from data_prep.audio.splice import Piece, splice, target_form
from data_prep.errors import UserError
from data_prep.metadata.chunks import Change
from data_prep.metadata.kept import Kept
from jukebox.editing.recording import LONGEST_FADE, TAGS, Span
from jukebox.model.info import ModelInfo
from jukebox.model.packed_codes import SUFFIX, PackedCodes
from jukebox.report.spectrograms import write_page
from jukebox.runs.params import check_values
from jukebox.runs.request import check_size
from jukebox.runs.run import KNOWN, Run, saving
from jukebox.sampling.layout import Layout, after_recording, before_recording, render
from jukebox.sampling.output_checks import OutputCheck

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


def check(run: Run, info: ModelInfo) -> None:
    """Raise UserError if an edit, which may come from an untrusted source, is too large or has inconsistent parts."""
    request, hops = run.request, info.hops
    check_size(info, request["seconds"], run.n_samples)
    try:
        for level, values in request["params"].items():
            check_values(level, values)
        sound, pieces, asked = probe(run.prompt_paths[0]), request["pieces"], request["recording"]
        begins = list(itertools.accumulate((n for *_, n in pieces), initial=0))
        layout = _layout(asked, info)
        touched = [layout.touched(start, end) for start, end in asked["spans"]]
        planners = [(run.planner(level), info.priors[request["priors"][str(level)]].config) for level in request["levels"]]
        known = [(run.stream(level), run.total(level), *run.known(level)) for level in request["levels"]]
        parts = {
            "recording": (layout.samples, layout.rate) == (sound.frames, sound.sample_rate) and 0 <= asked["fade"] <= LONGEST_FADE,
            "pieces": [begin for begin, *_ in pieces] == begins[:-1] and begins[-1] == run.total(hops.index(max(hops)))
            and all(0 <= first and 0 < n and first + n <= layout.columns for _, first, n in pieces),
            "spans": all(start < end <= layout.samples + layout.after for start, end in asked["spans"])
            and all(any(first <= low and high <= first + n for _, first, n in pieces) for low, high in touched),
            "planners": all(0 < plan.column <= plan.n_ctx <= max(map(c.frames, c.spec.writes)) for plan, c in planners),
            KNOWN: all(mask.dtype == bool and mask.shape == (n,) for _, n, _, mask in known)
            and all(len(stream.check(values, KNOWN)) == n for stream, n, values, _ in known)
            and all(stream.bins is None or not values.size or values.max() < stream.bins for stream, _, values, _ in known),
            "outputs": len(request["outputs"]) == run.n_samples and tuple(request["hops"]) == tuple(hops),
        }  # fmt: skip
        if wrong := [name for name, good in parts.items() if not good]:
            raise ValueError(f"its {wrong[0]}")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{run.folder} is damaged, or not of this model: its parts do not belong together ({error}); make the edit again"
        ) from error


def _layout(asked: Mapping[str, Any], info: ModelInfo) -> Layout:
    return Layout(asked["samples"], asked["rate"], info.sample_rate, info.spec.unit, asked["before"], asked["after"])


def finish(run: Run, model: ModelFolder) -> list[Path]:
    """Insert the new audio of each sampled take into the recording, and return the files of all takes; existing files stay."""
    prompt, request = run.prompt_paths[0], run.request["recording"]
    layout = _layout(request, model.info)
    if run.request["verb"] == "compress" and not (path := run.folder.with_suffix(SUFFIX)).exists():
        with saving(run.folder):
            _packed(run, model, layout).save(path)
    targets, level = [Path(path) for path in run.request["outputs"]], run.request["levels"][-1]
    for sample, target in enumerate(targets):
        if not target.exists() and run.count(level, [sample]) == run.total(level):
            checks = [
                OutputCheck(layout.rate, model.sample_rate / run.stream(level).hop, start / layout.rate)
                for start in _starts(request["spans"])
            ]
            pieces = [
                _piece(run, model, layout, prompt, sample, (start, end), check)
                for (start, end), check in zip(request["spans"], checks, strict=True)
            ]
            target.parent.mkdir(parents=True, exist_ok=True)
            with saving(run.folder):
                form = _form(prompt, target, request) or target_form(prompt, target)
                splice(prompt, target, pieces, layout.samples, form, _tag_writer(run, target, form))
            run.add_findings(level, sample, [found for check in checks for found in check.finish()])
    write_page(run.folder)
    return targets


def _starts(spans: Sequence[Span]) -> list[int]:
    """Return the first sample of each span's new audio in the result.

    New audio before the recording shifts all positions.
    """
    return [start - min(0, spans[0][0]) for start, _ in spans]


def _packed(run: Run, model: ModelFolder, layout: Layout) -> PackedCodes:
    """Return the kept codes of a run's range, with the seed, conditions and parameters for sampling the other codes."""
    request, (start, end) = run.request, run.request["recording"]["spans"][0]
    first, stop = layout.touched(start, end)
    begin = first + next(begin - at for begin, at, n in request["pieces"] if at <= first < at + n)
    frames, keep, bins = {}, {}, {}
    for level in sorted(request["levels"]):
        stream, ratio = run.stream(level), layout.hop // run.stream(level).hop
        values, mask = (each[begin * ratio : (begin + stop - first) * ratio] for each in run.known(level))
        frames[stream.name], keep[stream.name], bins[stream.name] = np.zeros_like(values), mask, stream.bins or 2
        frames[stream.name][mask] = values[mask]
    at, after = (round(sample * layout.model_rate / layout.rate) for sample in (start, end))
    hashes, song = {name: model.info.codes_hash(name) for name in frames}, request["samples"][0]
    about = {name: song[name] for name in ("artist", "genres")} | {
        name: request[name] for name in ("seed", "total_seconds", "params")
    }
    return PackedCodes(frames, keep, bins, layout.model_rate, after - at, at - first * layout.hop, hashes, about)


def _tag_writer(run: Run, target: Path, form: tuple[str, str]) -> Callable[[Path], None]:
    """Return a function that writes the tags of the recording into the file of `target`, and prints the lost tags."""
    request, kept = run.request["recording"], Kept.load(run.folder / TAGS)
    starts, ends = zip(*request["spans"])
    change = Change(max(0, -min(starts)), max(0, max(ends) - request["samples"]), request["rate"])

    def write(path: Path) -> None:
        try:
            lost = kept.write(path, form, change)
        except OSError:
            raise
        except Exception as error:  # for example a picture is too large for flac; libraries check before they write
            lost = [f"all tags ({error})"]
        if lost:
            print(f"{target.name} lacks what {Path(request['path']).name} had: {', '.join(lost)}", file=sys.stderr)

    return write


def _form(prompt: Path, target: Path, request: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the container and sample format of the target that the request records.

    An earlier request records only the form of the recording. That form is used if the target has the suffix of the recording,
    but not of the stored prompt. Otherwise the result is None, and the suffix of the target decides.
    """
    if "target" in request:
        return tuple(request["target"])
    alike = target.suffix.lower() == Path(request["path"]).suffix.lower()
    return tuple(request["form"]) if alike and target.suffix.lower() != prompt.suffix else None  # type: ignore[return-value]


def _piece(run: Run, model: ModelFolder, layout: Layout, prompt: Path, sample: int, span: Span, check: OutputCheck) -> Piece:
    """Return the new audio of a span as a piece for `splice`; `check` measures the audio."""
    start, end = span

    def audio(*span: int) -> Iterator[Float[np.ndarray, "c n"]]:
        return map(check.push, _audio(run, model, layout, sample, span, check))  # type: ignore[arg-type]

    fade = min(round(run.request["recording"]["fade"] * layout.rate), (end - start) // 2, layout.samples)
    if end <= 0:
        old, _ = read(prompt, seconds=fade / layout.rate)
        return Piece(start, end, 0, before_recording(audio(start, fade), old[:, :fade]))
    if start >= layout.samples:
        old, _ = read(prompt, start=(layout.samples - fade) / layout.rate)
        return Piece(start, end, 0, after_recording(audio(start - fade, end), old[:, :fade]))
    return Piece(start, end, fade, audio(start, end))


def _audio(
    run: Run, model: ModelFolder, layout: Layout, sample: int, span: Span, check: OutputCheck
) -> Iterator[Float[np.ndarray, "c n"]]:
    """Decode a span of samples at the recording's rate from the run's finest stream; `check` measures the codes."""
    level = run.request["levels"][-1]
    stream = run.stream(level)
    codec, ratio = model.codec([stream.name]), layout.hop // stream.hop
    touched, stop = layout.touched(*span)
    begin, first, n = next(piece for piece in run.request["pieces"] if piece[1] <= touched < piece[1] + piece[2])
    codes = run.codes(level, [sample], begin * ratio, (begin + n) * ratio)[0]
    check.push_codes(codes[(touched - first) * ratio : (stop - first) * ratio])
    return render(codec, codes, stream.name, first, layout, *span)
