"""Editing a song by its codes: a hole filled, a variation, more before and behind, and a song from few bits (VampNet, section 3).

    edit      a range of seconds drawn anew, with the music on both sides of it heard
    vary      a song drawn anew around what a prompt keeps: every 16th column, the beats, a share at random, the coarse levels
    compress  the same with the fullest prompt that a bit rate allows
    extend    more music in front of a song and behind it

All are one thing: columns of codes (`priors/masks.py`), some kept, the others filled by the masked prior in a few passes, window by
window, and the sound of the range put back into the file. Outside the range the result is the file, sample for sample. Inside it, the first
and last `fade` seconds cross over from the old sound to the new one, where there is old sound to cross over from.

A take is a file; it stands under its name when it is whole. What was asked for stands beside it as json, so that the same command
goes on where it was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm import tqdm

from data_prep.errors import UserError
from data_prep.splice import Piece, splice, suffix_of
from jukebox.canvas import MARGIN, Codes, Layout, Recording, read_codes, render
from jukebox.facts import Facts
from jukebox.files import write_json
from jukebox.filling import generator
from jukebox.run import versions
from jukebox.song import Prepared, Song, window_conditions
from priors import masks
from priors.masks import Keep
from priors.prior import How

if TYPE_CHECKING:
    from jukebox.model import Jukebox
    from priors.masked import MaskedPrior

BESIDE = 4  # a window hears at least one part in so many of what lies before a hole, and behind it
HOW = {2: How(passes=24), 1: How(passes=24), 0: How(passes=12)}


@dataclass(frozen=True)
class Drawing:
    """How codes are drawn: `how` by level; `fade` in seconds; `takes` differ in what chance decides, and all of it follows from `seed`."""

    how: Mapping[int, How] = field(default_factory=lambda: dict(HOW))
    takes: int = 1
    seed: int = 0
    fade: float = 0.02
    total_seconds: float = 0.0  # length that the model is told; 0: that of the result
    device: str = "cpu"
    dtype: str = "float32"


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
        asked = (self.periodic, self.random < 1, self.prefix, self.suffix, self.beats, self.onsets >= 0)
        return any(asked) or bool(self.keep_levels)


@dataclass(frozen=True)
class Span:
    """One range that is drawn: the file's samples [start, end), the columns that may be heard, and what of them is kept."""

    start: int
    end: int
    first: int  # column
    keep: Keep  # (1, columns * ratio) from `first` on

    @property
    def redraw(self) -> Bool[torch.Tensor, " n"]:
        """Columns in which something is drawn."""
        columns = self.keep[max(self.keep)].shape[1]
        return ~torch.stack([kept.view(columns, -1).all(1) for kept in self.keep.values()]).all(0)


@dataclass(frozen=True)
class Edited:
    """What was made: a file a take, what of the range was kept (bits a second and all there are), and the seconds it took."""

    takes: list[Path]
    kept_rate: float
    full_rate: float
    windows: int
    took: float


# ---- the verbs


def edit(
    model: Jukebox, song: str | Path, out: str | Path, start: float, end: float, words: Song | None = None,
    drawing: Drawing | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """The seconds from `start` to `end` of a song drawn anew; with lyrics, the top level by its own prior, which hears the past and them."""
    recording, layout = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    first, last = layout.touched(begin, stop)
    keep = masks.spread(~_columns(layout.columns, first, last), _per(model))
    span = Span(begin, stop, 0, keep)
    return _Editing(model, recording, layout, [span], words or Song(), drawing or Drawing(), "edit").make(out)


def vary(
    model: Jukebox, song: str | Path, out: str | Path, prompt: Prompt, start: float = 0.0, end: float | None = None,
    words: Song | None = None, drawing: Drawing | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song, or its seconds from `start` to `end`, drawn anew around what `prompt` keeps."""
    drawing = drawing or Drawing()
    if not prompt.keeps_something:
        raise UserError(
            "nothing of the song would be kept; name at least one of --periodic, --random, --beat, --onset, --prefix, --suffix "
            "and --keep_levels"
        )
    recording, layout = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    first, last = layout.touched(begin, stop)
    inside = build(prompt, recording.sound, last - first, first, layout.per_second, drawing.seed, _per(model))
    if lost := int(masks.orphans(inside)):
        print(f"{lost} codes are kept under coarser ones that change, which contradicts them; keep levels from the coarsest on")
    span = Span(begin, stop, 0, _within(inside, first, layout.columns, _per(model)))
    return _Editing(model, recording, layout, [span], words or Song(), drawing, "vary").make(out, asdict(prompt))


def compress(
    model: Jukebox, song: str | Path, out: str | Path, kbps: float, start: float = 0.0, end: float | None = None,
    words: Song | None = None, drawing: Drawing | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song from at most `kbps` thousand bits a second of its codes; the others are drawn."""
    recording, layout = _open(model, song, sample)
    begin, stop = _range(recording, start, end)
    first, last = layout.touched(begin, stop)
    seconds = (last - first) / layout.per_second
    inside = masks.at_most(last - first, kbps * 1000, model.codec_config.bins, seconds, _per(model))
    span = Span(begin, stop, 0, _within(inside, first, layout.columns, _per(model)))
    made = _Editing(model, recording, layout, [span], words or Song(), drawing or Drawing(), "compress")
    return made.make(out, {"kbps": kbps})


def extend(
    model: Jukebox, song: str | Path, out: str | Path, before: float = 0.0, after: float = 0.0, words: Song | None = None,
    drawing: Drawing | None = None, sample: int = 1,
) -> Edited:  # fmt: skip
    """A song with `before` seconds more in front of it and `after` behind, each hearing the song; with lyrics as in `edit`."""
    recording, _ = _open(model, song, sample)
    rate, frames = recording.info.sample_rate, recording.info.frames
    front, behind = round(before * rate), round(after * rate)
    if min(before, after) < 0 or not front + behind:
        raise UserError(f"{before:g} s before and {after:g} s after the song; expected seconds from 0, and one of them above it")
    columns = -(-front * model.sample_rate // (rate * model.hops[-1]))
    layout = Layout(frames, rate, model.sample_rate, model.hops[-1], columns, behind)
    spans = []
    if front:  # hears the file, up to where it no longer fills a column
        keep = masks.spread(~_columns(layout.ended, 0, columns), _per(model))
        spans.append(Span(-front, 0, 0, keep))
    if behind:
        n = layout.columns - columns
        keep = masks.spread(~_columns(n, layout.ended - columns, n), _per(model))
        spans.append(Span(frames, frames + behind, columns, keep))
    return _Editing(model, recording, layout, spans, words or Song(), drawing or Drawing(), "extend").make(out)


def build(
    prompt: Prompt, sound: Path, n: int, first: int, per_second: float, seed: int, per: Mapping[int, int] = masks.PER_COLUMN
) -> Keep:  # fmt: skip
    """A prompt as a mask over `n` columns of a recording from column `first` on."""
    rng = generator(seed, 0, -1, first)
    prompts = [masks.periodic(n, prompt.periodic, prompt.width, prompt.roll), masks.random(n, prompt.random, rng)]
    prompts.append(masks.ends(n, *(int(np.ceil(s * per_second)) for s in (prompt.prefix, prompt.suffix))))
    if prompt.beats:
        from data_prep.beats import find_beats

        times = find_beats(sound).beats - first / per_second
        around = (prompt.before_beat, prompt.after_beat, prompt.every_beat)
        prompts.append(masks.beats(n, times.tolist(), per_second, *around))
    if prompt.onsets >= 0:
        from data_prep.beats import find_onsets

        times = find_onsets(sound) - first / per_second
        prompts.append(masks.onsets(n, times.tolist(), per_second, prompt.onsets))
    levels = {"keep_levels": prompt.keep_levels, "redraw_levels": prompt.redraw_levels}
    return masks.combined(prompts, drop=prompt.dropout, rng=rng, per=per, **levels)


# ---- windows


def windows_over(redraw: Bool[torch.Tensor, " n"], n_ctx: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of at most `n_ctx` columns, in order, that between them hold all columns to draw; none without any.

    A hole that one window can hold with music on both sides stands in its middle. Over a longer one windows stand evenly, the first
    hears what lies before it, each further one the end of its predecessor too, and the last what lies behind.
    """
    n, drawn, made = len(redraw), 0, []
    for first, stop in _holes(redraw, n_ctx // 2):
        for start in _starts(first, stop, n_ctx, n_ctx // BESIDE):
            start = max(0, min(start, n - n_ctx))
            end = min(n, start + n_ctx)
            if redraw[max(drawn, start) : end].any():
                made.append((start, end))
                drawn = end
    return made


def _holes(redraw: Bool[torch.Tensor, " n"], apart: int) -> Iterator[tuple[int, int]]:
    """From the first to the last column to draw, of those that lie at most `apart` from each other."""
    todo = redraw.nonzero().flatten().tolist()
    breaks = [i for i in range(1, len(todo)) if todo[i] - todo[i - 1] > apart]
    for begin, end in zip([0, *breaks], [*breaks, len(todo)]):
        if begin < end:
            yield todo[begin], todo[end - 1] + 1


def _starts(first: int, stop: int, n_ctx: int, beside: int) -> list[int]:
    low, high = first - beside, stop + beside - n_ctx
    if high <= low:
        return [(first + stop - n_ctx) // 2]
    steps = -(-(high - low) // (n_ctx - beside))
    return [low + i * (high - low) // steps for i in range(steps + 1)]


def fill_windows(
    prior: MaskedPrior, codes: Codes, keep: Keep, made: Sequence[tuple[int, int]], first: int, song: Prepared, seed: int, take: int,
    how: Mapping[int, How], done: Callable[[], object],
) -> None:  # fmt: skip
    """Draw what is not kept, window after window, into `codes`; what one has drawn the next one hears. `first` is the column of code 0."""
    device = next(prior.parameters()).device
    ratios = dict(enumerate(prior.config.ratios))
    keep = {level: kept.clone() for level, kept in keep.items()}
    for start, stop in made:
        part = {level: slice(start * ratio, stop * ratio) for level, ratio in ratios.items()}
        window = {level: torch.from_numpy(codes[level][at].astype(np.int64))[None].to(device) for level, at in part.items()}
        known = {level: keep[level][:, at].to(device) for level, at in part.items()}
        cond = window_conditions(song, prior.config, first + start).to(device)  # type: ignore[arg-type]
        rngs = [generator(seed, take, len(ratios), first + start)]
        for level, new in prior.fill(window, known, cond, rngs, how).items():
            codes[level][part[level]] = new[0].cpu().numpy().astype(np.uint16)
            keep[level][:, part[level]] = True
        done()


# ---- from a request to files


class _Editing:
    """Spans of a recording to be drawn, and all that is needed for it."""

    def __init__(
        self, model: Jukebox, recording: Recording, layout: Layout, spans: Sequence[Span], words: Song, drawing: Drawing, verb: str
    ) -> None:  # fmt: skip
        self.model, self.recording, self.layout, self.spans = model, recording, layout, spans
        self.drawing, self.verb = drawing, verb
        seconds = drawing.total_seconds or layout.columns / layout.per_second
        self.song = replace(words, seconds=seconds)
        self.read: dict[int, Codes] = {}  # the codes of each span, once they are needed

    def make(self, out: str | Path, asked: Mapping | None = None) -> Edited:
        """Write every take that is not there yet."""
        began, takes = time.perf_counter(), self._takes(Path(out))
        prior = self.model.masked(self.drawing.dtype).to(self.drawing.device)
        codec = self.model.codec([0]).to(self.drawing.device)
        plans = [windows_over(span.redraw, prior.config.n_ctx) for span in self.spans]
        todo = self._begin(takes, dict(asked or {}))
        with tqdm(total=len(todo) * sum(map(len, plans)), desc=self.verb, unit="window") as bar:
            for take in todo:
                pieces = [
                    Piece(span.start, span.end, self._fade, self._sound(i, plans[i], prior, codec, take, bar.update))
                    for i, span in enumerate(self.spans)
                ]
                splice(self.recording.sound, takes[take], pieces, self.layout.frames)
        kept, full = self._rates()
        return Edited(takes, kept, full, sum(map(len, plans)), time.perf_counter() - began)

    def _takes(self, out: Path) -> list[Path]:
        out = out if out.suffix else out.with_suffix(suffix_of(self.recording.sound))
        count = self.drawing.takes
        if count < 1:
            raise UserError(f"{count} takes; expected 1 or more")
        return [out] if count == 1 else [out.with_stem(f"{out.stem}_{i + 1}") for i in range(count)]

    def _begin(self, takes: Sequence[Path], asked: dict) -> list[int]:
        """Numbers of the takes to make; what was asked for is put on disk. UserError where files of another request are."""
        beside = takes[0].with_suffix(".json")
        request = {
            "verb": self.verb, "model": str(self.model.folder.resolve()), "model_hash": self.model.hashes(),
            "song": str(self.recording.sound.resolve()), "ranges": [[span.start, span.end] for span in self.spans],
            "sample_rate": self.layout.rate, "asked": asked, "words": asdict(self.song), "drawing": asdict(self.drawing),
            "kept_bits_per_second": self._rates()[0],
        }  # fmt: skip
        request = json.loads(json.dumps(request))
        there = [i for i, path in enumerate(takes) if path.exists()]
        if there and not (beside.is_file() and _without_versions(beside) == request):
            raise UserError(f"{takes[there[0]]} is there already, and was not made by this command; name another --out")
        beside.parent.mkdir(parents=True, exist_ok=True)
        write_json(beside, request | {"versions": versions()})
        return [i for i in range(len(takes)) if i not in there]

    def _rates(self) -> tuple[float, float]:
        """Bits a second that are kept of the ranges, and those of all their codes."""
        kept = full = seconds = 0.0
        for span in self.spans:
            first, stop = self.layout.touched(span.start, span.end)
            for level, mask in span.keep.items():
                ratio = _per(self.model)[level]
                part = mask[:, (first - span.first) * ratio : (stop - span.first) * ratio]
                kept, full = kept + part.sum().item(), full + part.numel()
            seconds += (stop - first) / self.layout.per_second
        bits = np.log2(self.model.codec_config.bins) / seconds
        return float(kept * bits), float(full * bits)

    @property
    def _fade(self) -> int:
        return round(self.drawing.fade * self.layout.rate)

    def _sound(
        self, number: int, plan: Sequence[tuple[int, int]], prior: MaskedPrior, codec, take: int, done: Callable[[], object]
    ) -> Iterator[Float[np.ndarray, "c n"]]:  # fmt: skip
        """The new sound of a span, drawn when its first block is asked for."""
        span, layout = self.spans[number], self.layout
        margin = int(np.ceil(MARGIN * layout.per_second))
        reach = self.model.prior_configs[top].n_ctx // 2 if self._hears_words else 0
        first, stop = (column - span.first for column in layout.touched(span.start, span.end))
        low = max(0, min([first - max(margin, reach), *(start for start, _ in plan)]))
        high = min(len(span.redraw), max([stop + margin, *(end for _, end in plan)]))
