"""LevelSampler one level of a run: batch after batch, window after window, codes on disk as they come.

A window that a kill has left half done is drawn again from its beginning: the same prefill of the same prime, the same generators, the
same steps. That gives the codes on disk, bit for bit, and then those that are missing. Where drawing it takes longer, its state has been
saved on the way (jukebox/sampling/window_checkpoint.py), and it goes on from there. Where the codes drawn again are not those on disk
(another machine, other versions) the ones on disk stay, the window is cut there, and one line says so.

Where memory runs out, the batch is cut into halves, at the code where it happened, and each goes on; see jukebox/sampling/batches.py.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from tqdm import tqdm

from data_prep.errors import UserError
from jukebox.report.spectrograms import write_page
from jukebox.sampling.batches import Batch, Segment, cut_in, parallel_windows, windows_of
from jukebox.sampling.run import Run
from jukebox.sampling.wav_writer import WavWriter
from jukebox.sampling.window_checkpoint import WindowCheckpoint
from jukebox.song import PreparedSong, window_conditions
from priors.conditioning.conditions import stack
from priors.logits import uniforms
from priors.prior import Prior
from priors.spec import SamplingParams
from vqvae.codec import as_tensor

EVERY = 1.0  # seconds between two times that codes of an unfinished window are written
PAGE_EVERY = 60.0  # seconds between two pages of a level that is not finished


def generator(seed: int, sample: int, stream: int | str, begin: int) -> torch.Generator:
    """The generator of one sample in the window whose new codes begin at `begin`: independent streams from a hash of where they are."""
    digest = hashlib.sha256(f"{seed}/{sample}/{stream}/{begin}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class OtherCodes(Exception):
    """A window drawn again gave other codes than those on disk."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory, on whatever device."""
    text = str(error).lower()
    matches = any(words in text for words in ("not enough memory", "out of memory", "allocate memory"))
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and matches)


@dataclass
class LevelSampler:
    """One level of a run being written by one process."""

    run: Run
    level: int
    prior: Prior
    songs: Sequence[PreparedSong]
    writers: dict[int, WavWriter]  # sample -> its sound
    bar: tqdm
    steps: int = 0  # of decoding, one after another
    page_at: float = field(default_factory=lambda: time.monotonic() + PAGE_EVERY)

    def __post_init__(self) -> None:
        self.stream = self.run.stream(self.level)
        self.total, self.n_ctx = self.run.total(self.level), self.prior.config.frames(self.stream.name)
        hops = self.run.request["hops"]
        self.ratio = hops[self.level + 1] // hops[self.level] if self.level + 1 < len(hops) else 1
        self.params = SamplingParams(**self.run.request["how"][str(self.level)])
        self.parallel = self.run.request["parallel"] and self.level + 1 < len(hops)
        self.device = next(self.prior.parameters()).device

    # ---- batches

    def fill(self, samples: Batch, begin: int = 0) -> None:
        """All windows of a batch from code `begin` on."""
        begin = max(begin, self.run.request["given"].get(str(self.level), 0))
        self._decode_audio(samples)
        made = windows_of(self.run.request, self.level, self.n_ctx, self.total, begin)
        if not self.parallel:
            self._sample_sequentially(samples, made)
            return
        todo = list(made)
        if todo and todo[0].begin > 0:  # the first window behind given codes hears them
            if not self._sample_sequentially(samples, iter(todo[:1])):
                return
            todo = todo[1:]
        batch = self.run.request["batch"]
        self._sample_in_parallel(samples, todo, max(1, batch // len(samples)) if batch else len(todo))

    def _sample_sequentially(self, samples: Batch, todo: Iterator[Segment]) -> bool:
        """Whether the batch came to the end whole."""
        for segment in todo:
            cut = cut_in(self.run.request["cuts"], self.level, samples, segment)
            stop = cut["at"] if cut else segment.end
            if self.run.count(self.level, samples) < stop:
                cut = self._try(samples, segment._replace(end=stop)) or cut
            if cut:
                for part in cut["into"]:
                    self.fill(part, cut["at"])
                return False
            self._decode_audio(samples)
        return True

    def _try(self, samples: Batch, segment: Segment) -> dict | None:
        """Draw a window; the cut that had to be made in it, if one had to be."""
        try:
            self._draw(samples, segment)
            return None
        except OtherCodes:
            into = [samples]
            print(
                f"{self.run.folder}: level {self.level} drawn again from code {segment.begin} gives other codes than those on disk "
                "(another machine, other versions?); these stay, and the rest is drawn anew",
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
        self.bar.write(f"not enough memory for {len(samples)} samples at once: on with half as many", file=sys.stderr)
        return [samples[: (len(samples) + 1) // 2], samples[(len(samples) + 1) // 2 :]]

    # ---- one window after another

    def _draw(self, samples: Batch, segment: Segment) -> None:
        """Draw the new codes of a window; those that are on disk are compared, the others written."""
        start, begin, end = segment
        prime = self.run.codes(self.level, samples, start, begin)
        rngs = [generator(self.run.request["seed"], i, self.stream.key, begin) for i in samples]
        known = self.run.codes(self.level, samples, begin, end)
        held, at, began = [], 0, time.perf_counter()
        for part in self.draw([(i, start) for i in samples], prime, rngs, end - begin):
            old = known[:, at : at + part.shape[1]]
            if not np.array_equal(part[:, : old.shape[1]], old):
                raise OtherCodes
            at += part.shape[1]
            held.append(part[:, old.shape[1] :])
            if at == end - begin or time.perf_counter() - began > EVERY:
                self._write(samples, start, np.concatenate(held, axis=1), time.perf_counter() - began)
                held, began = [], time.perf_counter()

    def draw(
        self, rows: Sequence[tuple[int, int]], prime: Int[np.ndarray, "b t"], rngs: Sequence[torch.Generator], length: int
    ) -> Iterator[Int[np.ndarray, "b t"]]:
        """`length` codes of every row (sample, first code of its window) behind `prime`, as they come; saved ones come at once."""
        items = [window_conditions(self.songs[i], self.prior.config, start, self._above(i, start)) for i, start in rows]
        prompt = {self.stream.name: as_tensor(prime).to(self.device)}
        state = self.prior.start(stack(items).to(self.device), prompt, rngs, self.params)
        window_checkpoint, made, done = WindowCheckpoint(self.run, self.level, rows, prime, length, state), [], 0
        if (saved := window_checkpoint.take_up()) is not None:
            made, done = [saved], saved.shape[1]
            uniforms(rngs, done)
            yield saved
        for part in self.prior.sample(state, length - done):
            made.append(part[self.stream.name].cpu().numpy())
            yield made[-1]
            window_checkpoint.keep(made)
        self.steps += length - done

    def _above(self, sample: int, start: int) -> Int[np.ndarray, " s"] | None:
        """The codes above a window; behind their end the last one is repeated."""
        if not self.prior.spec.reads:
            return None
        first, need = start // self.ratio, self.n_ctx // self.ratio
        coarse = self.run.codes(self.level + 1, [sample], first, first + need)[0]
        return np.pad(coarse, (0, need - len(coarse)), mode="edge")

    def _write(self, samples: Batch, start: int, codes: Int[np.ndarray, "b t"], took: float) -> None:
        if not codes.shape[1]:
            return
        self.run.append(self.level, samples, start, codes, took)
        self.bar.update(codes.size)
        music = codes.size * self.run.request["hops"][self.level] / self.run.request["sample_rate"]
        self.bar.set_postfix_str(f"{music / took:.2f} s of music a second", refresh=False)

    def _decode_audio(self, samples: Batch) -> None:
        for sample in samples:
            if sample in self.writers:
                self.writers[sample].grow()
        if time.monotonic() > self.page_at:
            write_page(self.run.folder)
            self.page_at = time.monotonic() + PAGE_EVERY

    # ---- windows side by side

    def _sample_in_parallel(self, samples: Batch, todo: list[Segment], windows: int) -> None:
        """Windows of each sample as one batch, at most `windows` at a time; a pass that was cut short is drawn again."""
        done = 0
        while done < len(todo):
            cuts, first = self.run.request["cuts"], todo[done]
            windows = parallel_windows(cuts, self.level, samples, first.start, windows)
            if cut := cut_in(cuts, self.level, samples, first):
                for part in cut["into"]:
                    self._sample_in_parallel(part, todo[done:], windows)
                return
            some = todo[done : done + windows]
            if self.run.count(self.level, samples) < some[-1].end and not self._draw_together(samples, some):
                gc.collect()
                continue
            self._decode_audio(samples)
            done += len(some)

    def _draw_together(self, samples: Batch, some: list[Segment]) -> bool:
        """Draw windows of all samples side by side; False where there was no memory, and a cut says how to go on."""
        rows, began = [(i, segment) for i in samples for segment in some], time.perf_counter()
        rngs = [self._from(i, segment.start) for i, segment in rows]
        length = some[0].end - some[0].start
        try:
            nothing = np.zeros((len(rows), 0), np.int64)
            parts = list(self.draw([(i, segment.start) for i, segment in rows], nothing, rngs, length))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            where = {"level": self.level, "start": some[0].start, "samples": samples}
            fewer = {"windows": (len(some) + 1) // 2}
            self.run.add_cut(where | (fewer if len(some) > 1 else {"at": some[0].begin, "into": self._halves(samples, error)}))
            return False
        codes = np.concatenate(parts, axis=1).reshape(len(samples), len(some), length)
        kept = [codes[:, k, s.begin - s.start : s.end - s.start] for k, s in enumerate(some)]
        self._write(samples, some[0].start, np.concatenate(kept, axis=1), time.perf_counter() - began)
        return True

    def _from(self, sample: int, start: int) -> torch.Generator:
        """The level's generator of a sample, wound on to code `start`: windows that overlap draw by the same numbers there.

        Two chains that draw by the same numbers under nearly the same conditions tend to fall into step, and so the codes that are
        dropped lead to those that are kept next door.
        """
        rng = generator(self.run.request["seed"], sample, self.stream.key, 0)
        torch.rand(start, generator=rng, dtype=torch.float64)
        return rng
