"""Jobs: records on disk, a bounded queue, and one thread that runs one job at a time.

A record is written before its job enters the queue, and again when the job begins and ends. So after a kill every accepted job
is either over or in the queue again, in the old order, and a run continues from its codes on disk.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.files import write_json
from jukebox.api import Callbacks, Cancelled, Progress
from launch.cli.commands import explain
from launch.serve.folder import Missing, TooMany, new_id

WAITS, RUNS, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)
KEPT = 1000  # number of records of finished jobs that are kept


@dataclass(frozen=True)
class ServedJob:
    """A job as the API shows it.

    `request` is the request. `run` is the run folder that the job writes. `weights` is the relative time of each level, and
    `share` (0 to 1) is the finished part. `place` is the place in the queue (1 is next). `notes` are warnings, and `error` is
    one sentence.
    """

    id: str
    kind: str
    request: dict[str, Any]
    run: str = ""
    state: str = WAITS
    created: float = field(default_factory=time.time)
    ended: float = 0.0
    share: float = 0.0
    level: int | None = None
    seconds_left: float | None = None
    place: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""


class JobClock:
    """Computes the finished share of a job and the time left.

    The time left is computed from the speed of this process; until that is known, from the planned time.
    """

    def __init__(self, job: ServedJob) -> None:
        self.weights, self.planned, self.began, self.first = job.weights, job.seconds_left, time.monotonic(), -1.0

    def __call__(self, progress: Progress) -> tuple[float, float | None]:
        level, order, total = str(progress.level), list(self.weights), sum(self.weights.values()) or 1.0
        before = order[: order.index(level)] if level in order else []
        done = sum(self.weights[each] for each in before) + self.weights.get(level, 0.0) * progress.share
        share = min(1.0, done / total)
        self.first = share if self.first < 0 else self.first
        if share - self.first > 0.02:
            return share, (time.monotonic() - self.began) * (1 - share) / (share - self.first)
        return share, None if self.planned is None else self.planned * (1 - share)


class JobQueue:
    """All jobs of a server.

    `begin` checks a request and writes its run. `work` runs a job, or the unfinished rest of a job. `shown` removes from the
    sentence of an error what clients must not see.
    """

    def __init__(
        self, folder: Path, most: int, begin: Callable[[str, Any], dict[str, Any]], work: Callable[[ServedJob, Callbacks], None],
        shown: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self.folder, self.most, self.begin, self.work, self.shown = folder, most, begin, work, shown
        self.waiting, self.stopped, self.closing = deque[str](), set[str](), False
        self.changed, self.submitting = threading.Condition(), threading.Lock()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        found = [ServedJob(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
        self.jobs = {job.id: replace(job, notes=tuple(job.notes)) for job in sorted(found, key=lambda job: job.created)}
        for job in self._active():
            self.jobs[job.id] = replace(job, state=WAITS)
            self.waiting.append(job.id)

    def start(self) -> None:
        self.thread.start()

    def close(self, seconds: float = 10.0) -> None:
        """Stop the running job at its next block of frames; the next server continues unfinished jobs."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        if self.thread.is_alive():
            self.thread.join(seconds)

    # ---- methods for the API

    def submit(self, request: Any) -> ServedJob:
        """Append a new job to the queue; TooMany if there are too many jobs, and the errors of `begin`."""
        with self.submitting:  # not `changed`, which the running job needs
            if len(self._active()) >= self.most:
                raise TooMany(f"there are {self.most} jobs already; wait for one to end, or cancel one")
            id = new_id()
            job = ServedJob(id, request.kind, asdict(request), **self.begin(id, request))
            with self.changed:
                self._keep(job)
                self.waiting.append(id)
                self.changed.notify_all()
        return self.job(id)

    def job(self, id: str) -> ServedJob:
        """Return a job by its id; Missing if there is none."""
        with self.changed:
            if id not in self.jobs:
                raise Missing(f"there is no job {id[:40]}")
            return replace(self.jobs[id], place=self.waiting.index(id) + 1 if id in self.waiting else 0)

    def list(self, most: int = 1 << 30) -> list[ServedJob]:
        """Return at most `most` jobs, the newest first."""
        with self.changed:
            return [self.job(id) for id in islice(reversed(self.jobs), most)]

    def cancel(self, id: str) -> ServedJob:
        """Remove a job from the queue, or stop it at its next block of frames; its run can be resumed."""
        with self.changed:
            job = self.job(id)
            if job.state == WAITS:
                self.waiting.remove(id)
                self._keep(replace(self.jobs[id], state=CANCELLED, ended=time.time()))
            elif job.state == RUNS:
                self.stopped.add(id)
        return self.job(id)

    def active(self, run: str) -> list[ServedJob]:
        """Return the jobs of a run that are not over."""
        return [job for job in self._active() if job.run == run]

    def needs(self, run: str) -> bool:
        """Return whether a job that is not over writes or reads a run."""
        return any(run in (job.run, job.request.get("run"), job.request.get("recording")) for job in self._active())

    def recordings(self) -> set[str]:
        """Return the ids of the uploads and excerpts that jobs still need."""
        return {each for job in self._active() for each in (job.id, str(job.request.get("recording", "")))}

    def _active(self) -> list[ServedJob]:
        with self.changed:
            return [job for job in self.jobs.values() if job.state not in OVER]

    # ---- the thread

    def _serve(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closing)
                if self.closing:
                    return
                job = replace(self.jobs[self.waiting.popleft()], state=RUNS)
                self._keep(job)
            self._do(job)

    def _do(self, job: ServedJob) -> None:
        clock, state, error = JobClock(job), DONE, ""

        def progress(made: Progress) -> None:
            share, left = clock(made)
            with self.changed:
                self.jobs[job.id] = replace(self.jobs[job.id], share=share, seconds_left=left, level=made.level)

        try:
            self.work(job, Callbacks(progress, lambda: self.closing or job.id in self.stopped))
        except Cancelled:
            state = CANCELLED if job.id in self.stopped else WAITS
        except BaseException as problem:
            state, error = (
                FAILED,
                self.shown(explain(problem) or "") or "the server has made a mistake; its log has the details",
            )
            if not explain(problem):
                traceback.print_exception(problem)
        with self.changed:
            last, ended = self.jobs[job.id], 0.0 if state == WAITS else time.time()
            share = 1.0 if state == DONE else last.share
            self.stopped.discard(job.id)
            self._keep(replace(last, state=state, error=error, level=None, ended=ended, share=share, seconds_left=None))

    def _keep(self, job: ServedJob) -> None:
        """Write the record of a job, and delete the oldest records of finished jobs."""
        write_json(self.folder / f"{job.id}.json", asdict(job))
        self.jobs[job.id] = job
        over = [id for id in self.jobs if self.jobs[id].state in OVER]
        for id in over[: max(0, len(over) - KEPT)]:
            del self.jobs[id]
            (self.folder / f"{id}.json").unlink(missing_ok=True)
