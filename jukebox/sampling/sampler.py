"""LevelSampler: samples one level of a run, window by window, with any prior and for every verb.

For each window the prior gets the sequences of the window, a mask of the known frames, the conditions and the noise. The prior
yields final frames in blocks (`priors/prior.py`), which are written at once. Verbs differ only in their windows (`windows.py`)
and in their known frames: a prompt, the levels above, or all frames outside a masked region.

An interrupted window is sampled again from its beginning with the same known frames, random numbers and steps. So the frames on
disk are reproduced exactly before the missing frames are sampled. A slow window continues from its last checkpoint
(`window_checkpoint.py`). If the repeated frames differ from the frames on disk (another machine, other versions), the frames on
disk stay. The window is then cut after these frames, and one line is printed.

If memory runs out, the batch is cut into halves at the current frame, and both halves continue (`batches.py`).
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Shaped

from data_prep.errors import UserError
from jukebox.runs.batches import Batch, cut_in, windows_in_parallel
from jukebox.runs.run import Run
from jukebox.runs.windows import Segment
from jukebox.sampling.window_checkpoint import WindowCheckpoint
from jukebox.song import PreparedSong, window_conditions
from priors.conditioning.conditions import stack
from priors.noise import WindowNoise
from priors.prior import Known, Prior, Window
from vqvae.codec import as_tensor

EVERY = 1.0  # minimum seconds between two writes of frames of an unfinished window
SAME = 1e-4  # latents that are sampled again may differ by rounding
Rows = Sequence[tuple[int, int]]  # (sample, first frame of its window)


class Written(NamedTuple):
    """Report that `frames` new frames of a level are on disk for each of `samples`; their sampling took `took` seconds.

    0 frames mean that a window is in progress. `done` of `total` frames of the level are on disk, summed over all samples.
    """

    level: int
    samples: tuple[int, ...]
    frames: int
    took: float
    done: int
    total: int


def written_now(run: Run, level: int, samples: Sequence[int], frames: int = 0, took: float = 0.0) -> Written:
    """Return the report that `frames` frames of a level were written."""
    done = sum(run.count(level, [i]) for i in range(run.n_samples))
    return Written(level, tuple(samples), frames, took, done, run.total(level) * run.n_samples)


Writing = Generator[Written, None, bool]  # the generator returns whether the batch was completed without a cut


class OtherCodes(Exception):
    """A window that was sampled again has other frames than those on disk."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory, on any device."""
    text = str(error).lower()
    matches = any(words in text for words in ("not enough memory", "out of memory", "allocate memory"))
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and matches)


@dataclass
class LevelSampler:
    """Samples one level of a run in one process."""

    run: Run
    level: int
    prior: Prior
    params: Any  # sampling parameters of the prior's kind
    songs: Sequence[PreparedSong]
    steps: int = 0  # sequential steps so far: frames, or passes of masked decoding

    def __post_init__(self) -> None:
        self.stream, self.total = self.run.stream(self.level), self.run.total(self.level)
        self.streams = [self.run.stream(level).name for level in range(len(self.run.request["hops"]))]
        self.device = next(self.prior.parameters()).device
        planner = self.run.planner(self.level)
        self.parallel, self.column = planner.kind == "parallel", planner.column
        recorded = self.run.request["noise"]
        self.keys = {name: recorded.get(str(level), self.run.stream(level).key) for level, name in enumerate(self.streams)}

    # ---- batches

    def fill(self, samples: Batch, begin: int = 0) -> Writing:
        """Sample all windows of a batch of samples from frame `begin` on, and yield updates."""
        begin = max(begin, self.run.request["given"].get(str(self.level), 0))
        todo = self.run.segments(self.level, begin)
        if not self.parallel:
            whole = yield from self._sample_sequentially(samples, todo)
            if whole:
                yield from self._keep_known(samples, self.total)
            return whole
        if todo and todo[0].begin > 0:  # the first window has the given frames as its prompt
            if not (yield from self._sample_sequentially(samples, todo[:1])):
                return False
            todo = todo[1:]
        batch = self.run.request["batch"]
        return (yield from self._sample_in_parallel(samples, todo, max(1, batch // len(samples)) if batch else len(todo)))

    def _sample_sequentially(self, samples: Batch, todo: Sequence[Segment]) -> Writing:
        for segment in todo:
            cut = cut_in(self.run.request["cuts"], self.level, samples, segment)
            stop = cut["at"] if cut else segment.end
            if self.run.count(self.level, samples) < stop:
                yield from self._keep_known(samples, segment.begin)
                cut = (yield from self._try(samples, segment, stop)) or cut
            if cut:
                for part in cut["into"]:
                    yield from self.fill(part, cut["at"])
                return False
        return True

    def _try(self, samples: Batch, segment: Segment, stop: int) -> Generator[Written, None, dict | None]:
        """Sample a window up to frame `stop`; return None, or the cut of the batch if the window failed.

        A window fails if memory runs out, or if its frames differ from the frames on disk.
        """
        try:
            yield from self._sample(samples, segment, stop)
            return None
        except OtherCodes:
            into = [samples]
            print(
                f"{self.run.folder}: level {self.level} sampled again from frame {segment.begin} gives other codes than those "
                "on disk (another machine, other versions?); these stay, and the rest is sampled again",
                file=sys.stderr,
            )  # fmt: skip
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            into = self._halves(samples, error)
        gc.collect()
        at = max(segment.begin, self.run.count(self.level, samples))
        cut = {"level": self.level, "start": segment.start, "at": at, "samples": samples, "into": into}
        self.run.add_cut(cut)
        return cut

    def _halves(self, samples: Batch, error: BaseException) -> list[Batch]:
        if len(samples) == 1:
            raise UserError(
                f"there is not enough memory for one sample at level {self.level}; what is made is kept: free some memory, or resume on a "
                f"machine with more (jukebox resume {self.run.folder})"
            ) from error
        print(f"not enough memory for {len(samples)} samples in parallel: continuing with half as many", file=sys.stderr)
        return [samples[: (len(samples) + 1) // 2], samples[(len(samples) + 1) // 2 :]]

    # ---- one window

    def _sample(self, samples: Batch, segment: Segment, stop: int) -> Iterator[Written]:
        """Sample the new frames of a window up to `stop`. Frames on disk are compared, and missing frames are written."""
        start, begin, end = segment
        if self.prior.spec.prompt == "prefix":  # frames do not depend on later frames
            end = stop
        rows, keys = [(i, start) for i in samples], [(i, begin) for i in samples]
        noise = WindowNoise(self.run.request["seed"], self.stream.name, self.keys, keys)
        known, length = self._known(rows, begin, end - start), end - start
        old, at, began = self.run.codes(self.level, samples, begin, stop), begin - start, time.perf_counter()
        have = stored = at + old.shape[1]  # frames of the window on disk
        for values, final in self._values(rows, known, noise, length):
            done = min(final, stop - start)
            checked = min(done, stored)
            if checked > at and not _same(values[:, at:checked].astype(old.dtype), old[:, : checked - at]):
                raise OtherCodes
            took = time.perf_counter() - began
            if done > have and (done == stop - start or took > EVERY):
                yield self._write(samples, start, values[:, have:done], took)
                have, began = done, time.perf_counter()
            else:
                yield self._written(samples)

    def _values(
        self, rows: Rows, known: Known, noise: WindowNoise, length: int
    ) -> Iterator[tuple[Shaped[np.ndarray, "b t *frame"], int]]:
        """Yield the frames of the window of every batch row, and the number of final frames."""
        column = self.column
        window = Window(self._place(rows[0][1] // column), length // column, self._place(self.total // column))
        state = self.prior.start(window, known, self._conditions(rows), noise, {self.stream.name: self.params})
        values = known.sequences[self.stream.name].cpu().numpy().copy()
        checkpoint, done = WindowCheckpoint(self.run, self.level, rows, known, state), 0
        if (saved := checkpoint.load()) is not None:
            done = saved.shape[1]
            values[:, :done] = saved
            yield values, done
        for stream, at, new in self.prior.sample(state):
            assert stream == self.stream.name, f"{stream} was not asked for"
            if new.shape[1]:
                values[:, at : at + new.shape[1]], done = new.cpu().numpy(), at + new.shape[1]
            self.steps += new.shape[1] if self.prior.spec.prompt == "prefix" else 1
            yield values, done
            checkpoint.save(values[:, :done])
        if done < length:  # the last frames were known
            yield values, length

    def _known(self, rows: Rows, upto: int | None, length: int) -> Known:
        """Return the streams of a window with masks of their known frames.

        Known frames of the sampled stream are those before `upto` (None: before the start of each row's window), and the kept
        frames of an edit.
        """
        config, column, sequences, masks = self.prior.config, self.column, {}, {}
        for stream in config.spec.writes:
            level, ratio = self.streams.index(stream), config.frames(stream) // config.n_ctx
            n, found = length // column * ratio, []
            for sample, start in rows:
                last = self._last_known(stream, sample) if stream != self.stream.name else start if upto is None else upto
                found.append(self.run.known_frames(level, sample, start // column * ratio, n, last))
            values, mask = (np.stack(each) for each in zip(*found, strict=True))
            if config.spec.prompt == "prefix":  # such a prior samples all frames of a masked region up to the last unknown one
                mask[:, 0 if upto is None else upto - rows[0][1] :] = False
            sequences[stream] = as_tensor(values).to(self.device)
            masks[stream] = torch.from_numpy(mask).to(self.device)
        return Known(sequences, masks)

    def _last_known(self, stream: str, sample: int) -> int:
        """Number of known frames of another stream: all frames of an earlier level, and the given frames of a later level."""
        level, levels = self.streams.index(stream), self.run.request["levels"]
        if level in levels[: levels.index(self.level)]:
            return self.run.count(level, [sample])
        return self.run.request["given"].get(str(level), 0)

    def _conditions(self, rows: Rows) -> Any:
        column = self.column
        items = [
            window_conditions(self.songs[i], self.prior.config, self._place(start // column), self._above(i, start))
            for i, start in rows
        ]
        return stack(items).to(self.device)

    def _place(self, frame: int) -> int:
        """Convert a frame index of the run to a frame index of the song, at the prior's hop."""
        if not self.run.request.get("pieces"):
            return frame
        ratio = max(self.run.request["hops"]) // self.prior.config.hop
        return self.run.column(frame // ratio) * ratio + frame % ratio

    def _above(self, sample: int, start: int) -> Shaped[np.ndarray, "s *frame"] | None:
        """Return the frames of the stream above in a window; the last frame is repeated after the end of the stream."""
        config = self.prior.config
        reads = [stream for stream in config.spec.reads if stream not in config.spec.writes]
        if not reads:
            return None
        first, need = start // config.ratio, config.n_ctx // config.ratio
        coarse = self.run.codes(self.streams.index(reads[0]), [sample], first, first + need)[0]
        return np.pad(coarse, [(0, need - len(coarse)), *[(0, 0)] * (coarse.ndim - 1)], mode="edge")

    def _write(self, samples: Batch, start: int, values: Shaped[np.ndarray, "b t *frame"], took: float) -> Written:
        self.run.append(self.level, samples, start, values, took)
        return self._written(samples, values.shape[1], took)

    def _written(self, samples: Batch, frames: int = 0, took: float = 0.0) -> Written:
        return written_now(self.run, self.level, samples, frames, took)

    def _keep_known(self, samples: Batch, upto: int) -> Iterator[Written]:
        """Write the known frames of an edit before `upto`, which are in no window."""
        at = self.run.count(self.level, samples)
        if self.run.request.get("inpaints") and at < upto:
            values, mask = self.run.known_frames(self.level, samples[0], at, upto - at, 0)
            assert mask.all(), f"level {self.level}: unknown frames in no window"
            yield self._write(samples, at, np.repeat(values[None], len(samples), axis=0), 0.0)

    # ---- windows in parallel

    def _sample_in_parallel(self, samples: Batch, todo: Sequence[Segment], windows: int) -> Writing:
        """Sample the windows of all samples in passes of at most `windows` windows per sample, in parallel.

        An interrupted pass is sampled again.
        """
        done = 0
        while done < len(todo):
            cuts, first = self.run.request["cuts"], todo[done]
            windows = windows_in_parallel(cuts, self.level, samples, first.start, windows)
            if cut := cut_in(cuts, self.level, samples, first):
                for part in cut["into"]:
                    yield from self._sample_in_parallel(part, todo[done:], windows)
                return False
            some = todo[done : done + windows]
            if self.run.count(self.level, samples) < some[-1].end and not (yield from self._sample_together(samples, some)):
                gc.collect()
                continue
            done += len(some)
        return True

    def _sample_together(self, samples: Batch, some: Sequence[Segment]) -> Writing:
        """Sample the windows `some` of all samples in parallel; return False if memory ran out and a cut was recorded.

        Two overlapping windows have the same random numbers in their overlap, and nearly the same conditions. So both
        windows tend to the same codes, and the kept codes of a window continue the kept codes of the previous window.
        """
        rows, began = [(i, segment.start) for i in samples for segment in some], time.perf_counter()
        length, skip = some[0].end - some[0].start, [start for _, start in rows]
        noise = WindowNoise(self.run.request["seed"], self.stream.name, self.keys, [(i, 0) for i, _ in rows], skip)
        values = np.zeros(0)
        try:
            for made, _ in self._values(rows, self._known(rows, None, length), noise, length):
                values = made
                yield self._written(samples)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            where = {"level": self.level, "start": some[0].start, "samples": samples}
            fewer = {"windows": (len(some) + 1) // 2}
            self.run.add_cut(where | (fewer if len(some) > 1 else {"at": some[0].begin, "into": self._halves(samples, error)}))
            return False
        codes = values.reshape(len(samples), len(some), length, *values.shape[2:])
        kept = [codes[:, k, s.begin - s.start : s.end - s.start] for k, s in enumerate(some)]
        yield self._write(samples, some[0].start, np.concatenate(kept, axis=1), time.perf_counter() - began)
        return True


def _same(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, ""] | bool:
    """Whether two arrays of codes are equal, or two arrays of latents are equal up to rounding."""
    return np.allclose(a, b, rtol=0.0, atol=SAME) if b.dtype.kind == "f" else np.array_equal(a, b)
