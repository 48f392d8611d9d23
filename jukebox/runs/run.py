"""The run folder: all data of one sampling job, written during sampling, so that no result is lost.

    run.json                      the whole request: model, seed, songs, lengths, parameters, windows, batches, machine,
                                  versions
    codes/level_2_sample_0.u16    final frames, little endian; one file per level and sample; the suffix is the dtype
    progress.jsonl                a line for every block of codes, with checksums of the code files up to this block
    known.npz                     edits only: the frames of the recording, and the mask of kept frames
    prompt.flac                   continuations and edits only: samples of the recording (prompt.wav for floats)
    audio/ images/ index.html

run.json is written first, before heavy imports, so this module imports nothing heavy. Codes are on disk before their progress
line. Frames after the last progress line are cut off on resume. Every sample has separate files, so that several processes can
share a run. Each process holds a lock on its samples, which the system releases when the process ends or is killed. A lock also
protects the progress file.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Bool, Shaped

from data_prep.errors import UserError, keeping
from data_prep.files import check_archive
from jukebox.runs.run_file import REQUEST, asked_fields, damaged, read_request, write_request
from jukebox.runs.windows import Segment, WindowPlanner
from vqvae.streams import Stream, frame_count

PROGRESS, KNOWN = "progress.jsonl", "known.npz"


class Run:
    """A run on disk: its request, progress and codes."""

    shown = True  # whether a page is written; False for a run in a temporary folder

    def __init__(self, folder: Path, request: dict, progress: list[dict]):
        self.folder, self.request, self.progress = Path(folder), request, progress
        self._known: dict[str, np.ndarray] = {}
        self._ends: dict[tuple[int, int], tuple[int, int]] = {}  # (level, sample) -> number of recorded frames, checksum
        for line in progress:
            self._note(line)

    # ---- making and opening

    @classmethod
    def create(cls, folder: str | Path, request: dict, join: bool = False) -> Run:
        """Create a run in a folder.

        Raise UserError if the folder has a run. With `join` the existing run is opened if its request is the same.
        """
        folder = Path(folder)
        with saving(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not (folder / REQUEST).exists():
                    write_request(folder, request)
                    return cls(folder, request, [])
        if not (join and asked_fields(read_request(folder / REQUEST)) == asked_fields(request)):
            raise UserError(f"{folder} already holds a run; go on with it by `jukebox resume {folder}`, or name another --out")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a run and check all recorded codes. Nothing is changed, so another process may write the run meanwhile."""
        folder = Path(folder)
        run = cls(folder, read_request(folder / REQUEST), _read_progress(folder / PROGRESS))
        for level, sample in run._ends:
            run._check(level, sample)
        return run

    def _note(self, line: dict) -> None:
        try:
            if line["level"] not in self.request["levels"]:
                raise ValueError(f"a known level, but {line['level']}")
            for sample, crc in zip(line["samples"], line["crc32"], strict=True):
                self._ends[line["level"], sample] = line["codes_total"], crc
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(self.folder / PROGRESS, f"a line without {error}") from error

    def _check(self, level: int, sample: int) -> None:
        path, (count, crc) = self.codes_path(level, sample), self._ends[level, sample]
        size = self.frame_bytes(level)
        data = path.read_bytes()[: size * count] if path.is_file() else b""
        if len(data) < size * count:
            raise damaged(path, f"it is shorter than {PROGRESS} specifies, {len(data) // size} of {count} frames")
        if zlib.crc32(data) != crc:
            raise damaged(path, "it does not match its checksum")

    # ---- writing

    @contextmanager
    def lock_samples(self, samples: Sequence[int]) -> Iterator[None]:
        """Lock `samples` for writing, read the progress again, and cut off frames without a progress line."""
        kept = f"{self.folder} keeps what is made: go on with `jukebox resume {self.folder}`"
        with keeping(kept, (self.folder / REQUEST).is_file), ExitStack() as locks, saving(self.folder):
            (self.folder / ".locks").mkdir(exist_ok=True)
            for sample in samples:
                try:
                    locks.enter_context(FileLock(self.folder / ".locks" / f"sample_{sample}", timeout=0))
                except Timeout:
                    raise UserError(
                        f"{self.folder} is being written by another process; wait until that is done, or stop it first"
                    ) from None
            self.__init__(self.folder, read_request(self.folder / REQUEST), _read_progress(self.folder / PROGRESS))
            for level, sample in itertools.product(range(len(self.request["hops"])), samples):
                if (path := self.codes_path(level, sample)).is_symlink():
                    raise damaged(path, "it is a link to a file elsewhere")
                if path.is_file():
                    os.truncate(path, self.frame_bytes(level) * self.count(level, [sample]))
            yield

    def update(self, **changes) -> None:
        """Change fields of the request, first on disk and then in memory."""
        with FileLock(self.folder / ".lock"):
            request = read_request(self.folder / REQUEST) | changes
            write_request(self.folder, request)
        self.request = request

    def add_cut(self, cut: dict) -> None:
        """Record a cut of a batch in the request (jukebox/runs/batches.py), so that a replay repeats the cut."""
        with FileLock(self.folder / ".lock"):
            request = read_request(self.folder / REQUEST)
            request["cuts"].append(cut)
            write_request(self.folder, request)
        self.request = request

    def add_findings(self, level: int, sample: int, found: Sequence[dict[str, Any]]) -> None:
        """Replace the findings about the audio of a sample at one level in the request (jukebox/sampling/output_checks.py)."""
        with FileLock(self.folder / ".lock"):
            request = read_request(self.folder / REQUEST)
            others = [
                each for each in request.get("findings", ()) if (each.get("level"), each.get("sample")) != (level, sample)
            ]
            now = [*others, *({**each, "level": level, "sample": sample} for each in found)]
            if now != request.get("findings", []):
                request["findings"] = sorted(now, key=lambda each: (each.get("level", -1), each.get("sample", 0)))
                write_request(self.folder, request)
        self.request = request

    # ---- content

    @property
    def n_samples(self) -> int:
        return len(self.request["samples"])

    @property
    def sampled_levels(self) -> list[int]:
        """Levels that priors write, coarsest first. The audio of the last of these levels is encoded into all other levels."""
        return [level for level in self.request["levels"] if level not in self.request.get("encodes", ())]

    @property
    def finest(self) -> int:
        """The finest sampled level, whose audio is the result."""
        return self.sampled_levels[-1]

    def stream(self, level: int) -> Stream:
        """Return the stream of a level; a run without recorded streams has the streams of the three-level codec."""
        if given := self.request.get("streams"):
            return Stream(**given[level])
        return Stream(f"vq.{level}", self.request["hops"][level], bins=2**16, rng_key=level)

    def frame_dtype(self, level: int) -> np.dtype:
        """Little-endian dtype of one number on disk."""
        return np.dtype(self.stream(level).dtype).newbyteorder("<")

    def frame_bytes(self, level: int) -> int:
        return self.frame_dtype(level).itemsize * math.prod(self.stream(level).frame_shape)

    def codes_path(self, level: int, sample: int) -> Path:
        dtype = self.frame_dtype(level)
        return self.folder / "codes" / f"level_{level}_sample_{sample}.{dtype.kind}{8 * dtype.itemsize}"

    def audio_path(self, level: int, sample: int) -> Path:
        return self.folder / "audio" / f"level_{level}_sample_{sample}.wav"

    def total(self, level: int) -> int:
        """Number of frames of a finished level, per sample."""
        asked = self.request
        return frame_count(asked["seconds"], asked["sample_rate"], asked["hops"][level], math.lcm(*asked["hops"]))

    def count(self, level: int, samples: Sequence[int] | None = None) -> int:
        """Number of frames of a level on disk: the minimum over `samples` (default: all)."""
        samples = range(self.n_samples) if samples is None else samples
        return min(self._ends.get((level, sample), (0, 0))[0] for sample in samples)

    def codes(
        self, level: int, samples: Sequence[int] | None = None, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "b t *frame"]:
        """Read frames [start, stop) of a level, one batch row per sample, as far as all samples have these frames."""
        samples, count = list(range(self.n_samples) if samples is None else samples), self.count(level, samples)
        rows = min(count, count if stop is None else stop) - start
        dtype, shape = self.frame_dtype(level), self.stream(level).frame_shape
        if rows <= 0:
            return np.zeros((len(samples), 0, *shape), dtype)
        count, offset = rows * math.prod(shape), self.frame_bytes(level) * start
        read = [np.fromfile(self.codes_path(level, i), dtype, count, offset=offset) for i in samples]
        return np.stack(read).reshape(len(samples), rows, *shape)

    def known(self, level: int) -> tuple[Shaped[np.ndarray, "t *frame"], Bool[np.ndarray, " t"]]:
        """Return the recording's frames and the mask of kept frames of an edit; all samples share both."""
        if not self._known:
            try:
                check_archive(self.folder / KNOWN)
                with np.load(self.folder / KNOWN) as file:
                    self._known = {name: file[name] for name in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise damaged(self.folder / KNOWN, str(error)) from error
        name = self.stream(level).name
        return self._known[name], self._known[f"{name}.mask"]

    def known_frames(
        self, level: int, sample: int, first: int, n: int, upto: int
    ) -> tuple[Shaped[np.ndarray, "n *frame"], Bool[np.ndarray, " n"]]:
        """Return frames [first, first + n) of a sample, and the mask of known frames.

        Known frames are the frames on disk before `upto`, and the kept frames of an edit.
        """
        values = np.zeros((n, *self.stream(level).frame_shape), self.frame_dtype(level))
        mask = np.zeros(n, bool)
        if self.request.get("inpaints"):
            kept, known = self.known(level)
            values[known[first : first + n]] = kept[first : first + n][known[first : first + n]]
            mask[:] = known[first : first + n]
        if upto > first:
            written = self.codes(level, [sample], first, min(first + n, upto))[0]
            values[: len(written)], mask[: len(written)] = written, True
        return values, mask

    def planner(self, level: int) -> WindowPlanner:
        """Return the window planner of a level, which the request records."""
        return WindowPlanner(**self.request["planners"][str(level)])

    def segments(self, level: int, begin: int) -> list[Segment]:
        """Return the windows of a level that have frames to sample from `begin` on."""
        ratio = max(self.request["hops"]) // self.stream(level).hop
        pieces = [(first * ratio, n * ratio) for first, _, n in self.request.get("pieces", ())]
        unknown = ~self.known(level)[1] if self.request.get("inpaints") else None
        return list(self.planner(level).segments(self.total(level), begin, unknown, pieces))

    def column(self, column: int) -> int:
        """Convert a column of this run to a column of the song; a column is a frame of the coarsest hop."""
        for begin, first, _ in reversed(self.request.get("pieces", ())):
            if begin <= column:
                return first + column - begin
        return column

    def copy_known(self, folder: Path) -> None:
        """Copy the kept frames of an edit and the prompt audio from `folder`, the run that is replayed."""
        for path in (folder / KNOWN, *folder.glob("prompt*.flac"), *folder.glob("prompt*.wav")):
            if path.is_file() and not (self.folder / path.name).exists():
                shutil.copyfile(path, self.folder / path.name)

    @property
    def has_page(self) -> bool:
        """Whether the run has a page. An edit has none, because its result is a file."""
        return self.shown and not self.request.get("inpaints")

    @property
    def prompt_paths(self) -> list[Path]:
        """Paths of the existing prompt audio files; the number in a name is that of the source."""
        return sorted(self.folder.glob("prompt*.flac")) + sorted(self.folder.glob("prompt*.wav"))

    def song(self) -> dict:
        """Return the request of a run of whole songs; raise UserError for an edit, which holds parts of a song."""
        if self.request.get("inpaints"):
            result = self.request["outputs"][0]
            raise UserError(
                f"{self.folder} is an edit of a recording; give its result, {result}, or a run of `sample` or `continue`"
            )
        return self.request

    # ---- new codes

    def append(
        self, level: int, samples: Sequence[int], start: int, codes: Shaped[np.ndarray, "b t *frame"], took: float
    ) -> None:
        """Append frames of a level to the code files, one batch row per sample, and add a progress line.

        `start` is the first frame of the window. `took` is the duration of sampling in seconds.
        """
        crcs = []
        for sample, row in zip(samples, codes.astype(self.frame_dtype(level)), strict=True):
            before = self._ends.get((level, sample), (0, 0))
            self.codes_path(level, sample).parent.mkdir(exist_ok=True)
            _append(self.codes_path(level, sample), row.tobytes())
            crcs.append(zlib.crc32(row.tobytes(), before[1]))
        rows, asked = codes.shape[1], self.request
        line = {
            "level": level, "samples": list(samples), "start": start, "rows": rows,
            "codes_total": self.count(level, samples) + rows, "took": round(took, 4), "crc32": crcs,
            # mean over all samples, so that batches add up to the length of the level
            "music_seconds": rows * asked["hops"][level] / asked["sample_rate"] * len(samples) / self.n_samples,
        }  # fmt: skip
        with FileLock(self.folder / ".progress.lock"):
            _mend(self.folder / PROGRESS)
            _append(self.folder / PROGRESS, (json.dumps(line) + "\n").encode())
        self.progress.append(line)
        self._note(line)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Convert the error of a full disk to a UserError of one line; all earlier files stay valid."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full; {folder} keeps what is made: free some space and go on with `jukebox resume {folder}`"
        ) from error


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _mend(path: Path) -> None:
    """Remove an incomplete last line of a file."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read(1) not in (b"\n", b""):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _read_progress(path: Path) -> list[dict]:
    """Read the lines of the progress file without an incomplete last line."""
    data = path.read_bytes() if path.is_file() else b""
    try:
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    except ValueError as error:
        raise damaged(path, f"a line cannot be read: {error}") from error
