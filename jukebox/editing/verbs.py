"""Editing a song by its codes: a hole filled, a variation, more before and behind, and a song from few bits (VampNet, section 3).

    edit      a range of seconds drawn anew, with the music on both sides of it heard
    vary      a song drawn anew around what a prompt keeps: every 16th column, the beats, a share at random, the coarse levels
    compress  the same with the fullest prompt that a bit rate allows
    extend    more music in front of a song and behind it

All are one thing: columns of codes (`priors/masked/masks.py`), some kept, the others filled by the masked prior in a few passes, window by
window, and the sound of the range put back into the file. Outside the range the result is the file, sample for sample. Inside it, the first
and last `fade` seconds cross over from the old sound to the new one, where there is old sound to cross over from.

How spans become files is in `jukebox/editing/spans.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data_prep.errors import UserError
from jukebox.editing.grid import Layout, Recording
from jukebox.editing.spans import Edited, EditOptions, InpaintingJob, Span
from jukebox.sampling.sampler import generator
from jukebox.song import Song
from priors.masked import masks
from priors.prior import Mask

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


@dataclass(frozen=True)
class Prompt:
    """What a variation keeps: columns of the first group, whatever of them wants it; then dropout; then levels, in this order."""

    periodic: int = 0  # every so-manieth column; 0: none
    width: int = 1
    roll: int = 0
    random: float = 1.0  # share that is drawn anew
    prefix: float = 0.0  # seconds
    suffix: float = 0.0
    beats: bool = False
    before_beat: float = 0.0  # seconds
    after_beat: float = 0.075
    every_beat: int = 1
    onsets: int = -1  # columns on both sides of a note's beginning; -1: none
    dropout: float = 0.0
    keep_levels: tuple[int, ...] = ()
    redraw_levels: tuple[int, ...] = ()

    @property
    def keeps_something(self) -> bool:
        asked = (self.periodic, self.random != 1, self.prefix, self.suffix, self.beats, self.onsets >= 0)
        return any(asked) or bool(self.keep_levels)


# ---- the verbs


def edit(
    model: ModelFolder, song: str | Path, out: str | Path, start: float, end: float, words: Song | None = None,
    options: EditOptions | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """The seconds from `start` to `end` of a song drawn anew; `sample` (from 1) says which, where the song is a run folder."""
    recording, layout, per = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    span = Span(begin, stop, 0, _outside(layout.columns, *layout.touched(begin, stop), per))
    return InpaintingJob(model, recording, layout, [span], words, options, "edit").make(out)


def vary(
    model: ModelFolder, song: str | Path, out: str | Path, prompt: Prompt, start: float = 0.0, end: float | None = None,
    words: Song | None = None, options: EditOptions | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song, or its seconds from `start` to `end`, drawn anew around what `prompt` keeps."""
    if not prompt.keeps_something:
        raise UserError(
            "nothing of the song would be kept; name at least one of --periodic, --random, --beat, --onset, --prefix, --suffix "
            "and --keep_levels"
        )
    recording, layout, per = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    first, last = layout.touched(begin, stop)
    inside = build(prompt, recording.sound, last - first, first, layout.per_second, (options or EditOptions()).seed, per)
    span = Span(begin, stop, 0, _within(inside, first, layout.columns, per))
    return InpaintingJob(model, recording, layout, [span], words, options, "vary").make(out, asdict(prompt))


def compress(
    model: ModelFolder, song: str | Path, out: str | Path, kbps: float, start: float = 0.0, end: float | None = None,
    words: Song | None = None, options: EditOptions | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song from at most `kbps` thousand bits a second of its codes; the others are drawn."""
    recording, layout, per = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    first, last = layout.touched(begin, stop)
    seconds = (last - first) / layout.per_second
    inside = masks.at_most(last - first, kbps * 1000, model.spec.streams[0].bins or 1, seconds, per)
    span = Span(begin, stop, 0, _within(inside, first, layout.columns, per))
    return InpaintingJob(model, recording, layout, [span], words, options, "compress").make(out, {"kbps": kbps})


def extend(
    model: ModelFolder, song: str | Path, out: str | Path, before: float = 0.0, after: float = 0.0, words: Song | None = None,
    options: EditOptions | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song with `before` seconds more in front of it and `after` behind, each of which hears the song."""
    recording, alone, per = _open(model, song, sample)
    before_start, after_end = round(before * alone.rate), round(after * alone.rate)
    if min(before, after) < 0 or not before_start + after_end:
        raise UserError(
            f"{before:g} s before and {after:g} s after the song; expected seconds from 0, and one of them above it"
        )
    layout = replace(alone, before=-(-before_start * alone.model_rate // (alone.rate * alone.hop)), after=after_end)
    lead, n = layout.before, layout.columns
    # neither side hears the other, which is not there yet; a column that the file does not fill is no music to hear
    spans = [
        Span(-before_start, 0, 0, _outside(layout.ended, 0, lead, per)),
        Span(layout.frames, layout.frames + after_end, lead, _outside(n - lead, layout.ended - lead, n - lead, per)),
    ]
    spans = [span for span in spans if span.start < span.end]
    return InpaintingJob(model, recording, layout, spans, words, options, "extend").make(out)


def build(
    prompt: Prompt, sound: Path, n: int, first: int, per_second: float, seed: int, per: Mapping[str, int] = masks.PER_COLUMN
) -> Mask:  # fmt: skip
    """A prompt as a mask over `n` columns of a recording from column `first` on."""
    rng = generator(seed, 0, -1, first)
    prompts = [masks.periodic(n, prompt.periodic, prompt.width, prompt.roll), masks.random(n, prompt.random, rng)]
    prompts.append(masks.ends(n, *(math.ceil(s * per_second) for s in (prompt.prefix, prompt.suffix))))
    if prompt.beats:
        from data_prep.beats import find_beats

        times = find_beats(sound).beats - first / per_second
        around = (prompt.before_beat, prompt.after_beat, prompt.every_beat)
        prompts.append(masks.beats(n, times.tolist(), per_second, *around))
    if prompt.onsets >= 0:
        from data_prep.beats import find_onsets

        times = find_onsets(sound) - first / per_second
        prompts.append(masks.onsets(n, times.tolist(), per_second, prompt.onsets))
    streams = list(per)  # by level
    keep, resample = ([streams[level] for level in each] for each in (prompt.keep_levels, prompt.redraw_levels))
    return masks.combined(prompts, drop=prompt.dropout, rng=rng, keep_levels=keep, resample_levels=resample, per=per)


def _open(model: ModelFolder, song: str | Path, sample: int) -> tuple[Recording, Layout, dict[str, int]]:
    """The song, its layout, and the codes of each stream in a column."""
    recording = Recording.open(model.info, song, sample)
    layout = Layout(recording.info.frames, recording.info.sample_rate, model.sample_rate, model.spec.unit)
    return recording, layout, masks.per_column(model.spec.streams)


def _range(recording: Recording, start: float, end: float | None) -> tuple[int, int]:
    """The samples of a range in seconds; UserError where there is nothing in it, or it is not in the song."""
    info = recording.info
    end = info.seconds if end is None else end
    first, stop = round(start * info.sample_rate), round(end * info.sample_rate)
    if not 0 <= start < end or first >= stop:
        raise UserError(f"the range from {start:g} s to {end:g} s is empty; expected a start from 0 on, and an end behind it")
    if stop > info.frames:
        raise UserError(f"the range from {start:g} s to {end:g} s leaves {recording.sound}, which is {info.seconds:.3f} s long")
    return first, stop


def _outside(n: int, first: int, stop: int, per: Mapping[str, int]) -> Mask:
    """Everything kept but columns [first, stop)."""
    at = torch.arange(n)
    return masks.expand_to_levels((at < first) | (at >= stop), per)


def _within(inside: Mask, first: int, n: int, per: Mapping[str, int]) -> Mask:
    """A mask over some columns from `first` on, as one over all `n`, the others kept."""
    keep = masks.expand_to_levels(masks.everything(n), per)
    for stream, mask in inside.items():
        keep[stream][:, first * per[stream] : first * per[stream] + mask.shape[1]] = mask
    return keep
