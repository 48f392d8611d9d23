"""An edit as a run: the kept frames are known, other frames are sampled, and the new audio is inserted into the recording.

    x.run/    a run folder (jukebox/runs/run.py): known.npz, prompt.flac, tags.json, codes of the columns around the edit
    x.wav     the recording with the new audio; x_1.wav, x_2.wav .. for several takes
    x.codes   the kept codes of the range, for `compress` only (jukebox/model/packed_codes.py)

A run holds only the columns that are in a window, or from which new audio is decoded, as pieces in order of time. So memory and
time grow with the length of the edit, not with the length of the song. `jukebox resume x.run` continues an edit.
`jukebox replay x.run` samples the codes again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.audio.splice import copy_excerpt, form_of, suffix_of, target_form
from data_prep.audio.writers import with_suffix
from data_prep.errors import UserError
from data_prep.files import replacing
from data_prep.metadata.kept import Kept
from jukebox.device import choose_device, computing_on
from jukebox.editing.recording import TAGS, Recording, Span, read_codes
from jukebox.editing.result import finish
from jukebox.model.info import CodecEntry, ModelInfo, PriorEntry
from jukebox.model.packed_codes import SUFFIX
from jukebox.model.routes import Route
from jukebox.params import EditOptions
from jukebox.runs.request import RunSettings, StartPoint, check_size, dtype_of, new_request
from jukebox.runs.run import KNOWN, Run, saving
from jukebox.runs.run_file import REQUEST
from jukebox.runs.windows import mask_windows
from jukebox.sampling.layout import MARGIN, Layout
from jukebox.sampling.walk import Report, resume
from jukebox.song import Song
from priors.masked import masks
from priors.prior import Mask

if TYPE_CHECKING:
    from jukebox.model.folder import ModelFolder


@dataclass(frozen=True)
class Edited:
    """The result of an edit: a file for each take, and bit rates of the kept codes in the edited spans."""

    takes: list[Path]
    run: Run
    made: int  # number of new take files; the other files existed
    kept_rate: float  # bits per second of the kept codes
    full_rate: float  # bits per second of all codes
    orphans: int  # number of kept codes under a coarser code that changes
    windows: int  # number of windows at all levels
    took: float  # duration of the edit, seconds


@dataclass(frozen=True)
class EditJob:
    """The input of an edit: the recording, the spans that get new audio, and the mask of kept frames in all columns."""

    model: ModelFolder
    recording: Recording
    layout: Layout
    spans: Sequence[Span]
    keep: Mask  # (1, columns * ratio) for each stream that the priors of the edit write
    verb: str
    asked: Mapping[str, Any]
    findings: Sequence[dict[str, Any]] = ()  # findings before sampling

    def make(
        self, out: str | Path, words: Song | None, settings: RunSettings, edit: EditOptions, report: Report | None = None
    ) -> Edited:
        """Sample the edit and write every missing take."""
        began, takes = time.perf_counter(), self._takes(Path(out), settings)
        run = self._run(takes, words or Song(), settings, edit)
        missing = sum(not path.exists() for path in takes)
        finish(resume(run, self.model, report=report), self.model)
        kept, full, orphans = run.request["kept"]
        count = sum(len(run.segments(level, 0)) for level in run.request["levels"])
        return Edited(takes, run, missing, kept, full, orphans, count, time.perf_counter() - began)

    # ---- the request

    def _takes(self, out: Path, settings: RunSettings) -> list[Path]:
        out = with_suffix(out, suffix_of(self.recording.sound))
        target_form(self.recording.sound, out)  # UserError before any work
        count = settings.options.takes
        if count < 1:
            raise UserError(f"{count} takes; expected 1 or more")
        check_size(self.model.info, 0.0, count)
        return [out] if count == 1 else [out.with_stem(f"{out.stem}_{i + 1}") for i in range(count)]

    def _run(self, takes: Sequence[Path], words: Song, settings: RunSettings, edit: EditOptions) -> Run:
        """Create or open the run of the edit; raise UserError if another edit or another file has the same name."""
        info, pieces = self.model.info, self._pieces(bool(words.lyrics))
        folder = takes[0].with_name(self._stem(takes) + ".run")
        route = edit_route(info, bool(words.lyrics))
        seconds = sum(n for _, _, n in pieces) / self.layout.per_second
        total = settings.options.total_seconds or words.seconds or self.layout.columns / self.layout.per_second
        settings = replace(settings, options=replace(settings.options, total_seconds=total))
        levels = [info.spec.names.index(stream) for stream in route.priors]
        more = {
            "inpaints": True, "pieces": pieces, "asked": dict(self.asked), "kept": list(self._kept()),
            "outputs": [str(path.resolve()) for path in takes], "recording": self._recording(edit, takes[0]),
            **({"findings": list(self.findings)} if self.findings else {}),
        }  # fmt: skip
        request = new_request(info, [words], seconds, settings, StartPoint(self.verb, levels, more=more), route)
        request["dtype"] = dtype_of(request)
        device = choose_device(request["device"])  # UserError before anything is written
        if not (folder / REQUEST).exists():
            codes = [folder.with_suffix(SUFFIX)] * (self.verb == "compress")
            if there := [path for path in (*takes, *codes) if path.exists()]:
                raise UserError(f"{there[0]} is there already and was not made by this command; name another --out")
            self._write_known(folder, pieces, device)
        try:
            return Run.create(folder, request, join=True)
        except UserError as error:
            raise UserError(f"{folder} is another edit; name another --out") from error

    def _stem(self, takes: Sequence[Path]) -> str:
        return takes[0].stem if len(takes) == 1 else takes[0].stem.removesuffix("_1")

    def _recording(self, edit: EditOptions, target: Path) -> dict[str, Any]:
        layout, sound = self.layout, self.recording.sound
        return {
            "path": str(sound.resolve()), "form": list(form_of(sound)), "target": list(target_form(sound, target)),
            "samples": layout.samples, "rate": layout.rate, "before": layout.before, "after": layout.after, "fade": edit.fade,
            "spans": [list(span) for span in self.spans], "sample": edit.sample,
        }  # fmt: skip

    def _write_known(self, folder: Path, pieces: Sequence[Sequence[int]], device: str) -> None:
        """Store the recording, its tags, and its frames in the columns of the run with the mask of kept frames."""
        arrays: dict[str, np.ndarray] = {}
        per, names = masks.per_column(self.model.spec.streams), list(self.keep)
        with computing_on(device):
            source = self.model, self.recording, self.layout
            found = [read_codes(*source, first, first + n, names, device) for _, first, n in pieces]
        for stream in names:
            keep = self.keep[stream][0].numpy()
            parts = [keep[first * per[stream] : (first + n) * per[stream]] for _, first, n in pieces]
            arrays |= {stream: np.concatenate([each[stream] for each in found]), f"{stream}.mask": np.concatenate(parts)}
        folder.mkdir(parents=True, exist_ok=True)
        with saving(folder):
            copy_excerpt(self.recording.sound, folder / "prompt")
            Kept.read(self.recording.sound).save(folder / TAGS)
            with replacing(folder / KNOWN) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]

    def _pieces(self, lyrics: bool) -> list[list[int]]:
        """Return the pieces of the run: [first column of the run, first column of the layout, number of columns].

        The pieces contain the columns of all windows and the columns from which the new audio is decoded.
        """
        info, n = self.model.info, self.layout.columns
        unknown = np.stack([~keep[0].numpy().reshape(n, -1).all(1) for keep in self.keep.values()]).max(0)
        configs = [info.priors[name].config for name in edit_route(info, lyrics).priors.values()]
        whole = [(config.spec.prompt, math.ceil(config.n_ctx * config.hop / self.layout.hop)) for config in configs]
        ranges = [window for prompt, columns in whole if prompt == "any" for window in mask_windows(unknown, columns)]
        margin = math.ceil(MARGIN * self.layout.per_second)
        reach = max([margin, *(columns for prompt, columns in whole if prompt == "prefix")])
        for first, stop in (self.layout.touched(*span) for span in self.spans):
            ranges.append((max(0, first - reach), min(n, stop + margin)))
        pieces: list[list[int]] = []
        for first, stop in sorted(ranges):
            if pieces and first <= pieces[-1][1] + pieces[-1][2]:
                pieces[-1][2] = max(pieces[-1][2], stop - pieces[-1][1])
            else:
                pieces.append([sum(p[2] for p in pieces), first, stop - first])
        begin = 0
        for piece in pieces:
            piece[0], begin = begin, begin + piece[2]
        return pieces

    def _kept(self) -> tuple[float, float, int]:
        """Return the bits per second of the kept codes and of all codes in the spans, and the number of orphans.

        An orphan is a kept code under a coarser code that changes.
        """
        kept = full = seconds = 0.0
        per = masks.per_column(self.model.spec.streams)
        for first, stop in (self.layout.touched(*span) for span in self.spans):
            codes = {name: keep for name, keep in self.keep.items() if self.model.spec.stream(name).bins}
            part = {stream: keep[:, first * per[stream] : stop * per[stream]] for stream, keep in codes.items()}
            seconds += (stop - first) / self.layout.per_second
            kept += int(masks.count_kept(part)) if part else 0  # an edit of only latents has no codes
            full += sum(mask.numel() for mask in part.values())
        stream = self.model.spec.stream(next(iter(self.keep)))
        bits = stream.books * math.log2(stream.bins or 1) / seconds
        return kept * bits, full * bits, int(masks.orphans(self.keep))


def edit_route(info: ModelInfo, lyrics: bool = False) -> Route:
    """Return the priors of an edit: the priors of one codec that can inpaint, preferably of the default route's codec.

    With `lyrics` a coarsest prior without lyric conditions is replaced by another prior of its stream. Raise UserError if no
    prior can inpaint, or if no prior of that stream is conditioned on lyrics.
    """
    found = next(filter(None, (_inpainting(info, codec) for codec in _codecs_by_default(info))), {})
    if not found:
        raise UserError(
            f"{info.folder} has no prior that inpaints, such as a masked one; {info.advice(f'masked DATA --out {info.folder}')}"
        )
    coarsest = next(iter(found))
    if lyrics and found[coarsest].config.lyrics is None:
        own = info.writer(coarsest)
        if own is None or own.config.lyrics is None:
            raise UserError(
                f"{info.folder} has no prior of {coarsest} that is conditioned on lyrics; train one, or edit without lyrics"
            )
        found[coarsest] = own
    return Route("edit", {stream: prior.name for stream, prior in found.items()})


def _codecs_by_default(info: ModelInfo) -> list[CodecEntry]:
    """Return the codecs of a model; the codec that decodes the audio of the default route is first."""
    finest = [list(route.priors)[-1] for route in info.routes.values()]
    first = [info.codec_of(stream) for stream in finest[:1]]
    return [*first, *(codec for codec in info.codecs if codec not in first)]


def _inpainting(info: ModelInfo, codec: CodecEntry) -> dict[str, PriorEntry]:
    """Return the priors of a codec's streams that can inpaint, coarsest first.

    The result begins with the priors of other streams that these priors read. Such a prior may condition on a prefix only. The
    result is empty if a stream that is read has no prior.
    """
    names = reversed(codec.config.spec.names)
    found = {stream: prior for stream in names if (prior := info.writer(stream, "any"))}
    reads = [stream for prior in found.values() for stream in prior.config.spec.reads if stream not in found]
    above = {stream: info.writer(stream, "any") or info.writer(stream) for stream in reads}
    if None in above.values():
        return {}
    return {stream: prior for stream, prior in (above | found).items() if prior}
