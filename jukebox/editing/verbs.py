"""Edit a recording by its codes: inpainting, variation, extension at both ends, and compression (VampNet, section 3).

    edit      resample a range of seconds, conditioned on the music before and after the range
    vary      resample a song except for a prompt: every 16th column, the beats, a random share, or coarse levels
    compress  resample a song except for the largest prompt within a bit rate
    extend    add music before a song and after the song

All verbs keep some columns of codes (`priors/masked/masks.py`) and inpaint the other columns window by window. Then the audio
of the range is inserted into the recording. Outside the range the result is sample-identical to the recording. In the first
and last `fade` seconds of the range, old and new audio cross-fade if old audio exists.

`jukebox/editing/job.py` defines the run and the files of an edit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data_prep.errors import UserError
from jukebox.editing.job import Edited, EditJob, edit_route
from jukebox.editing.recording import LONGEST_FADE, Recording, Span
from jukebox.params import EditOptions, KeptPrompt
from jukebox.runs.request import RunSettings, check_size
from jukebox.sampling.layout import Layout
from jukebox.sampling.output_checks import ADVICE, no_beats
from jukebox.sampling.walk import Report
from jukebox.song import Song
from priors.masked import masks
from priors.noise import generator
from priors.prior import Mask

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


@dataclass(frozen=True)
class EditSettings:
    """Options of every edit: the song (lyrics, artist, genres), settings of the run, and cross-fade."""

    words: Song | None = None
    run: RunSettings = field(default_factory=RunSettings)
    edit: EditOptions = field(default_factory=EditOptions)
    report: Report | None = None  # called with every update, in place of a progress bar


# ---- the verbs


def edit(
    model: ModelFolder, song: str | Path, out: str | Path, start: float, end: float, settings: EditSettings | None = None
) -> Edited:
    """Resample a song from second `start` to second `end`."""
    opened = _Opened.of(model, song, settings)
    begin, stop = opened.range(start, end)
    keep = _outside(opened.layout.columns, *opened.layout.touched(begin, stop), opened.per)
    return opened.make(out, "edit", [(begin, stop)], keep)


def vary(
    model: ModelFolder, song: str | Path, out: str | Path, prompt: KeptPrompt, start: float = 0.0, end: float | None = None,
    settings: EditSettings | None = None,
) -> Edited:  # fmt: skip
    """Resample a song from second `start` to second `end` (None: the end), except for the codes that `prompt` keeps."""
    if not prompt.keeps_something:
        raise UserError(
            "nothing of the song would be kept; name at least one of --periodic, --random, --beat, --onset, --prefix, --suffix "
            "and --keep_levels"
        )
    opened = _Opened.of(model, song, settings)
    begin, stop = opened.range(start, end)
    first, last = opened.layout.touched(begin, stop)
    seed, rate = opened.settings.run.options.seed, opened.layout.per_second
    found: list[dict[str, Any]] = []
    inside = build(_in_edit(prompt, opened), opened.recording.sound, last - first, first, rate, seed, opened.per, found)
    keep = _within(inside, first, opened.layout.columns, opened.per)
    return opened.make(out, "vary", [(begin, stop)], keep, asdict(prompt), found)


def compress(
    model: ModelFolder, song: str | Path, out: str | Path, kbps: float, start: float = 0.0, end: float | None = None,
    settings: EditSettings | None = None,
) -> Edited:  # fmt: skip
    """Keep at most `kbps` kilobits per second of the codes of a song, and sample the other codes."""
    opened = _Opened.of(model, song, settings)
    begin, stop = opened.range(start, end)
    first, last = opened.layout.touched(begin, stop)
    seconds, stream = (last - first) / opened.layout.per_second, model.spec.stream(next(iter(opened.per)))
    if stream.bins is None or not all(model.spec.stream(name).bins for name in opened.per):
        raise UserError(f"{model.folder} samples latents, which have no bit rate; vary the song instead")
    inside = masks.at_most(last - first, kbps * 1000, stream.bins**stream.books, seconds, opened.per)
    keep = _within(inside, first, opened.layout.columns, opened.per)
    return opened.make(out, "compress", [(begin, stop)], keep, {"kbps": kbps})


def extend(
    model: ModelFolder, song: str | Path, out: str | Path, before: float = 0.0, after: float = 0.0,
    settings: EditSettings | None = None,
) -> Edited:  # fmt: skip
    """Extend a song by `before` seconds at its start and `after` seconds at its end, conditioned on the song."""
    opened = _Opened.of(model, song, settings)
    alone = opened.layout
    check_size(model.info, alone.samples / alone.rate + before + after, 1)
    before_start, after_end = round(before * alone.rate), round(after * alone.rate)
    if min(before, after) < 0 or not before_start + after_end:
        raise UserError(
            f"{before:g} s before and {after:g} s after the song; expected seconds from 0, and one of them above it"
        )
    layout = replace(alone, before=-(-before_start * alone.model_rate // (alone.rate * alone.hop)), after=after_end)
    at = torch.arange(layout.columns, device="cpu")
    known = at >= layout.before
    if after_end:  # a partly filled column is not used as context
        known &= at < layout.ended
    spans = [span for span in ((-before_start, 0), (layout.samples, layout.samples + after_end)) if span[0] < span[1]]
    return replace(opened, layout=layout).make(out, "extend", spans, masks.expand_to_levels(known, opened.per))


def build(
    prompt: KeptPrompt, sound: Path, n: int, first: int, per_second: float, seed: int, per: Mapping[str, int] = masks.PER_COLUMN,
    findings: list[dict[str, Any]] | None = None,
) -> Mask:  # fmt: skip
    """Return the mask of a prompt over `n` columns of a recording from column `first` on.

    If `prompt.beat` is set and the beats are not clear, a finding is added to `findings`. Raise UserError if no beat is found.
    """
    rng = generator(seed, 0, -1, first)
    prompts = [masks.periodic(n, prompt.periodic, prompt.width, prompt.roll), masks.random(n, prompt.random, rng)]
    prompts.append(masks.ends(n, *(math.ceil(min(s * per_second, n)) for s in (prompt.prefix, prompt.suffix))))
    if prompt.beat:
        from data_prep.beats import find_beats

        pulse = find_beats(sound)
        if not len(pulse.beats):
            raise UserError(f"--beat: no beats were found in {sound}; {ADVICE['no beats']}")
        times = pulse.beats - first / per_second
        inside = ((times >= 0) & (times < n / per_second)).any()
        if findings is not None and not (inside and pulse.is_clear):
            findings.append(no_beats(first / per_second, (first + n) / per_second))
        around = (prompt.before_beat, prompt.after_beat, prompt.every_beat)
        prompts.append(masks.beats(n, times.tolist(), per_second, *around))
    if prompt.onset >= 0:
        from data_prep.beats import find_onsets

        times = find_onsets(sound) - first / per_second
        prompts.append(masks.onsets(n, times.tolist(), per_second, prompt.onset))
    streams = list(per)  # index: level
    keep, resample = ([streams[level] for level in each] for each in (prompt.keep_levels, prompt.redraw_levels))
    return masks.combined(prompts, drop=prompt.dropout, rng=rng, keep_levels=keep, resample_levels=resample, per=per)


def _in_edit(prompt: KeptPrompt, opened: _Opened) -> KeptPrompt:
    """Convert the model's levels in a prompt to indices of the edit's streams; raise UserError for a level outside the edit."""
    names, order = opened.model.spec.names, list(opened.per)

    def place(level: int) -> int:
        if level not in range(len(names)) or names[level] not in order:
            there = ", ".join(f"{names.index(name)} ({name})" for name in order)
            raise UserError(f"level {level} is not of this edit; it samples {there}: choose among these")
        return order.index(names[level])

    kept, resampled = (tuple(map(place, levels)) for levels in (prompt.keep_levels, prompt.redraw_levels))
    return replace(prompt, keep_levels=kept, redraw_levels=resampled)


@dataclass(frozen=True)
class _Opened:
    """A recording opened for an edit, with its layout and the number of codes per column of each stream."""

    model: ModelFolder
    recording: Recording
    layout: Layout
    per: Mapping[str, int]
    settings: EditSettings

    @staticmethod
    def of(model: ModelFolder, song: str | Path, settings: EditSettings | None) -> _Opened:
        settings = settings or EditSettings()
        names = edit_route(model.info).priors
        recording = Recording.open(model.info, song, settings.edit.sample)
        layout = Layout(recording.info.frames, recording.info.sample_rate, model.sample_rate, model.spec.unit)
        per = {stream: count for stream, count in masks.per_column(model.spec.streams).items() if stream in names}
        return _Opened(model, recording, layout, per, settings)

    def range(self, start: float, end: float | None) -> Span:
        """Convert a range in seconds to samples; raise UserError if the range is empty or leaves the song."""
        info = self.recording.info
        end = info.seconds if end is None else end
        first, stop = round(start * info.sample_rate), round(end * info.sample_rate)
        if not 0 <= start < end or first >= stop:
            raise UserError(
                f"the range from {start:g} s to {end:g} s is empty; expected a start from 0 on, and an end after it"
            )
        if stop > info.frames:
            raise UserError(
                f"the range from {start:g} s to {end:g} s leaves {self.recording.sound}, which is {info.seconds:.3f} s long"
            )
        return first, stop

    def make(
        self, out: str | Path, verb: str, spans: list[Span], keep: Mask, asked: Mapping[str, Any] | None = None,
        findings: Sequence[dict[str, Any]] = (),
    ) -> Edited:  # fmt: skip
        if not 0 <= self.settings.edit.fade <= LONGEST_FADE:
            raise UserError(f"a fade of {self.settings.edit.fade:g} s; expected seconds from 0 to {LONGEST_FADE:g}")
        job = EditJob(self.model, self.recording, self.layout, spans, keep, verb, asked or {}, findings)
        return job.make(out, self.settings.words, self.settings.run, self.settings.edit, self.settings.report)


def _outside(n: int, first: int, stop: int, per: Mapping[str, int]) -> Mask:
    """Return a mask that keeps all columns except [first, stop)."""
    at = torch.arange(n, device="cpu")
    return masks.expand_to_levels((at < first) | (at >= stop), per)


def _within(inside: Mask, first: int, n: int, per: Mapping[str, int]) -> Mask:
    """Extend a mask over columns from `first` on to all `n` columns; the mask keeps the other columns."""
    keep = masks.expand_to_levels(masks.everything(n), per)
    for stream, mask in inside.items():
        keep[stream][:, first * per[stream] : first * per[stream] + mask.shape[1]] = mask
    return keep
