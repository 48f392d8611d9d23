"""From spans of a recording that are to be drawn to files in which they are: codes read, holes filled, sound put back.

A take is a file; it stands under its name when it is whole. What was asked for stands beside it as json, so that the same command
goes on where it was stopped, and another one does not overwrite what is there.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from data_prep.audio.audio import mix, read
from data_prep.audio.splice import Piece, check_target, splice, suffix_of
from data_prep.errors import UserError
from data_prep.files import write_json
from jukebox.editing.grid import MARGIN, Codes, Layout, Recording, read_codes, render
from jukebox.editing.inpaint import fill_windows, windows_over
from jukebox.sampling.run import versions
from jukebox.sampling.sampler import generator
from jukebox.song import PreparedSong, Song, window_conditions
from priors.masked import masks
from priors.prior import Mask
from priors.spec import SamplingParams
from vqvae.codec import as_tensor

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder
    from priors.prior import Prior
    from vqvae.codec import Codec

DEFAULT_PARAMS = {2: SamplingParams(passes=24), 1: SamplingParams(passes=24), 0: SamplingParams(passes=12)}


@dataclass(frozen=True)
class EditOptions:
    """How codes are sampled: `params` by level, `fade` in seconds; `takes` differ in their random numbers, which follow from `seed`."""

    params: Mapping[int, SamplingParams] = field(default_factory=lambda: dict(DEFAULT_PARAMS))
    takes: int = 1
    seed: int = 0
    fade: float = 0.02
    total_seconds: float = 0.0  # length that the model is told; 0: that of the result
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class Span:
    """One range that is drawn: the file's samples [start, end), the columns that may be heard, and what of them is kept."""

    start: int
    end: int
    first: int  # column
    keep: Mask  # (1, columns * ratio) from `first` on

    def inside(self, first: int, stop: int) -> Mask:
        """What is kept of columns [first, stop)."""
        per = {stream: mask.shape[1] // self.columns for stream, mask in self.keep.items()}
        low, high = first - self.first, stop - self.first
        return {stream: mask[:, low * per[stream] : high * per[stream]] for stream, mask in self.keep.items()}

    @property
    def columns(self) -> int:
        return min(mask.shape[1] for mask in self.keep.values())

    @property
    def resampled(self) -> Bool[Tensor, " n"]:
        """Columns in which something is sampled."""
        return ~torch.stack([kept.view(self.columns, -1).all(1) for kept in self.keep.values()]).all(0)


@dataclass(frozen=True)
class Edited:
    """What was made: a file a take, and what of the ranges was kept for it."""

    takes: list[Path]
    made: int  # of the takes; the others were there
    kept_rate: float  # bits a second, counted
    full_rate: float  # of all codes
    orphans: int  # codes kept under coarser ones that change
    windows: int
    took: float  # seconds


class InpaintingJob:
    """Spans of a recording to be drawn, and all that is needed for it."""

    def __init__(
        self, model: ModelFolder, recording: Recording, layout: Layout, spans: Sequence[Span], words: Song | None,
        options: EditOptions | None, verb: str,
    ) -> None:  # fmt: skip
        self.model, self.recording, self.layout, self.spans, self.verb = model, recording, layout, spans, verb
        self.options = options or EditOptions()
        seconds = self.options.total_seconds or layout.columns / layout.per_second
        self.song = replace(words or Song(), seconds=seconds).placed(model.labels)
        self.read: dict[int, tuple[int, Codes]] = {}  # span -> its first column that was read, and the codes from there on

    def make(self, out: str | Path, asked: Mapping | None = None) -> Edited:
        """Write every take that is not there yet."""
        began, takes = time.perf_counter(), self._takes(Path(out))
        info, finest = self.model.info, self.model.spec.names[0]
        entry = info.writer(finest, "any") or self.model.entry("masked")
        prior = self.model.prior(entry.name, self.options.dtype).to(self.options.device)
        codec = self.model.codec([finest]).to(self.options.device)
        todo = self._begin(takes, dict(asked or {}))
        plans = [windows_over(span.resampled, prior.config.n_ctx) for span in self.spans]
        with tqdm(total=len(todo) * sum(map(len, plans)), desc=self.verb, unit="window") as bar:
            for take in todo:
                pieces = [
                    Piece(span.start, span.end, self._fade(span), self._sound(span, plan, prior, codec, take, bar.update))
                    for span, plan in zip(self.spans, plans)
                ]
                splice(self.recording.sound, takes[take], pieces, self.layout.frames)
        kept, full, orphans = self._kept()
        return Edited(takes, len(todo), kept, full, orphans, sum(map(len, plans)), time.perf_counter() - began)

    # ---- what is asked for

    def _takes(self, out: Path) -> list[Path]:
        out = out if out.suffix else out.with_name(out.name + suffix_of(self.recording.sound))
        count = self.options.takes
        if count < 1:
            raise UserError(f"{count} takes; expected 1 or more")
        check_target(self.recording.sound, out)
        return [out] if count == 1 else [out.with_stem(f"{out.stem}_{i + 1}") for i in range(count)]

    def _begin(self, takes: Sequence[Path], asked: dict) -> list[int]:
        """Numbers of the takes to make; what was asked for is put on disk. UserError where a file is that it did not make."""
        beside = takes[0].with_suffix(".json")
        options = asdict(self.options)
        options["how"] = options.pop("params")
        request = {
            "verb": self.verb, "model": str(self.model.folder.resolve()), "model_hash": self.model.hashes(),
            "song": str(self.recording.sound.resolve()), "ranges": [[span.start, span.end] for span in self.spans],
            "sample_rate": self.layout.rate, "asked": asked, "words": asdict(self.song), "drawing": options,
            "kept_bits_per_second": self._kept()[0],
        }  # fmt: skip
        request = json.loads(json.dumps(request))
        there = [i for i, path in enumerate(takes) if path.exists()]
        if there and _request_of(beside) != request:
            raise UserError(f"{takes[there[0]]} is there already and was not made by this command; name another --out")
        beside.parent.mkdir(parents=True, exist_ok=True)
        write_json(beside, request | {"versions": versions()})
        return [i for i in range(len(takes)) if i not in there]

    def _kept(self) -> tuple[float, float, int]:
        """Of the ranges: bits a second that are kept, and those of all their codes; and how many codes contradict those above."""
        kept = full = seconds = 0.0
        for span in self.spans:
            part = span.inside(*self.layout.touched(span.start, span.end))
            seconds += min(mask.shape[1] for mask in part.values()) / self.layout.per_second
            kept += int(masks.count_kept(part))
            full += sum(mask.numel() for mask in part.values())
        bits = math.log2(self.model.spec.streams[0].bins or 1) / seconds
        return kept * bits, full * bits, sum(int(masks.orphans(span.keep)) for span in self.spans)

    def _fade(self, span: Span) -> int:
        return min(round(self.options.fade * self.layout.rate), (span.end - span.start) // 2, self.layout.frames)

    # ---- what is made

    def _sound(
        self, span: Span, plan: Sequence[tuple[int, int]], prior: Prior, codec: Codec, take: int, done: Callable[[], object]
    ) -> Iterator[Float[np.ndarray, "c n"]]:  # fmt: skip
        """The new sound of a span; it is drawn when its first block is asked for."""
        first, codes = self._codes(span, plan)
        low, n = first - span.first, min(map(len, codes.values()))
        per = masks.per_column(self.model.spec.streams)
        keep = {stream: span.keep[stream][:, low * r : (low + n) * r].clone() for stream, r in per.items()}
        prepared = PreparedSong.of(self.song, self.model.labels, self.model.vocabulary, self.model.sample_rate)
        if self.song.lyrics and prior.config.lyrics is None:  # lyrics on which the masked prior is not conditioned
            self._sample_top_level(codes, keep, first, take)
        here = [(start - low, stop - low) for start, stop in plan]
        rows = {stream: each[None] for stream, each in codes.items()}  # the same memory
        params = {self.model.info.stream(level).name: each for level, each in self.options.params.items()}
        fill_windows(prior, rows, keep, here, first, [prepared], self.options.seed, [take], params, done)
        if span.end <= 0 or span.start >= self.layout.frames:
            yield self._joined(span, codec, codes, first, self._fade(span))
        else:
            stream = self.model.spec.names[0]
            yield from render(codec, codes[stream], stream, first, self.layout, span.start, span.end)

    def _codes(self, span: Span, plan: Sequence[tuple[int, int]]) -> tuple[int, Codes]:
        """A copy of the codes that a span's windows hear and its sound is made of, and the column that they begin with."""
        if id(span) not in self.read:
            margin = math.ceil(MARGIN * self.layout.per_second)
            top = self.model.info.writer(self.model.spec.names[-1])
            reach = max(margin, top.config.n_ctx if top and self.song.lyrics else 0)
            first, stop = (column - span.first for column in self.layout.touched(span.start, span.end))
            low = max(0, min([first - reach, *(start for start, _ in plan)]))
            high = min(len(span.resampled), max([stop + margin, *(end for _, end in plan)]))
            found = read_codes(self.model, self.recording, self.layout, span.first + low, span.first + high)
            self.read[id(span)] = span.first + low, found
        first, codes = self.read[id(span)]
        return first, {stream: each.copy() for stream, each in codes.items()}

    def _sample_top_level(self, codes: Codes, keep: Mask, first: int, take: int) -> None:
        """Sample the top level from the first to the last column that changes, conditioned on the past and the lyrics."""
        stream = self.model.spec.streams[-1]
        entry = self.model.info.writer(stream.name) or self.model.entry(f"prior_{len(self.model.hops) - 1}")
        prior = self.model.prior(entry.name, self.options.dtype).to(self.options.device)
        song = PreparedSong.of(self.song, self.model.labels_of(entry.name), self.model.vocabulary, self.model.sample_rate)
        params = self.options.params[len(self.model.hops) - 1]
        todo = (~keep[stream.name][0]).nonzero().flatten().tolist()
        at, end = todo[0], todo[-1] + 1
        while at < end:
            start = max(0, at - prior.spec.n_ctx // 2)
            stop = min(end, start + prior.spec.n_ctx)
            cond = window_conditions(song, prior.config, first + start).to(self.options.device)
            prompt = as_tensor(codes[stream.name][start:at])[None].to(self.options.device)
            rngs = [generator(self.options.seed, take, stream.key, first + at)]
            state = prior.start(cond, {stream.name: prompt}, rngs, params)
            new = torch.cat([part[stream.name] for part in prior.sample(state, stop - at)], dim=1)
            codes[stream.name][at:stop] = new[0].cpu().numpy().astype(stream.dtype)
            at = stop
        keep[stream.name][:] = True

    def _joined(self, span: Span, codec: Codec, codes: Codes, first: int, fade: int) -> Float[np.ndarray, "c n"]:
        """New sound in front of the file or behind it, joined to it without a step.

        There is no old sound to cross over from. What the codec makes of the file's own edge differs from the file; that
        difference, mirrored at the edge and fading away within `fade` samples, is added, so that the two sides meet.
        """
        before, length = span.end <= 0, span.end - span.start
        start, end = (span.start, fade) if before else (span.start - fade, span.end)
        stream = self.model.spec.names[0]
        blocks = list(render(codec, codes[stream], stream, first, self.layout, start, end))
        made = mix(np.concatenate(blocks, axis=1), self.recording.info.channels)
        made = (
            made if before else made[:, ::-1]
        )  # its end lies at the file's edge now, and `fade` samples of the file behind it
        new, own = made[:, :length], made[:, length:]
        edge = (0 if before else self.layout.frames - fade) / self.layout.rate
        old, _ = read(self.recording.sound, start=edge, seconds=fade / self.layout.rate)
        old = old if before else old[:, ::-1]
        share = 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade) if fade else np.zeros(0)
        new = new.copy()
        new[:, length - fade :] += ((old[:, :fade] - own) * share)[:, ::-1]
        return new if before else new[:, ::-1]


def _request_of(path: Path) -> dict | None:
    """What a former command asked for, without the versions it ran with."""
    try:
        return {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "versions"}
    except (OSError, ValueError):
        return None
