"""Map a function over songs in parallel worker processes; a crash affects only the song that caused it.

Decoders are C code that reads untrusted files. A worker processes one item at a time and is restarted after a segmentation
fault, so that only one song is lost. Workers are plain child processes that read pickles from a pipe. `multiprocessing` is not
used, because its workers import the caller's main script again, which breaks a script without a `__main__` guard.
`ProcessPoolExecutor` is not used, because it loses all pending items when one worker dies.

Under `mpirun` (with mpi4py) every rank computes a share of the items, and rank 0 gets the results in order as soon as they are
ready.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

CHILD = "import sys; sys.path[:] = sys.argv[1:]; from data_prep.pool import serve; serve()"
FORWARDED = 1.0  # seconds in which mpirun forwards the last line of a rank; an abort drops the content of its pipes
PULSE = 1.0  # seconds between two heartbeats of a worker
FIRST_WORD = 3.0  # seconds by which the other ranks wait before they print an error, so that rank 0 prints it first


def usable_cores() -> int:
    """Return the number of cores that this process may use; a cluster's job may have fewer than its host."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerCrashed(RuntimeError):
    """The worker process of an item died (segmentation fault, out of memory, killed), or was killed because it was stalled."""


_pulse: Callable[[], None] = lambda: None  # noqa: E731


def alive() -> None:
    """Send a heartbeat; a mapped function calls this within `stall` seconds of its last call."""
    _pulse()


def map_songs(
    function: Callable, items: Sequence, workers: int = 0, what: str = "songs", on_crash: Callable | None = None, stall: float = 0,
) -> Iterator[Any]:  # fmt: skip
    """Yield function(item) in the order of the items, computed by `workers` processes (0: one per core, at most 8).

    The function must be importable by name: no lambda, and no function of `__main__`. A `functools.partial` is allowed.
    Exceptions of the function are raised here. If a worker process dies, the result is `on_crash(item, explanation)`; without
    `on_crash`, WorkerCrashed is raised. A process that neither returns nor calls `alive` for `stall` seconds (0: unlimited) is
    killed.

    Under mpirun every rank must call this function. The items of rank 0 are used, and the other ranks yield nothing.
    """
    from data_prep.progress import ProgressBar  # tqdm is slow to import, and a worker has no bar

    comm = mpi_comm()
    share = partial(_local, function, on_crash=on_crash, stall=stall)
    results = share(items, workers) if comm is None else _mpi(comm, share, items)
    total = len(items) if is_leader() else 0
    with ProgressBar(total=total, desc=what, unit="song", disable=total <= 1) as bar:
        for result in results:
            yield result
            bar.update()


def mpi_comm() -> Any | None:
    """Return the world communicator of mpi4py if mpirun started this process as one of several ranks, else None."""
    names = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    if not any(os.environ.get(name, "1") not in ("", "0", "1") for name in names):
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):  # RuntimeError: mpi4py is installed, but the MPI library is not
        return None
    return MPI.COMM_WORLD if MPI.COMM_WORLD.Get_size() > 1 else None


def is_leader() -> bool:
    """Return whether this process gets results and writes files: it is rank 0, or there are no ranks."""
    comm = mpi_comm()
    return comm is None or comm.Get_rank() == 0


def abort_ranks(code: int) -> None:
    """End all ranks of an mpirun job with an exit code; this is a no-op outside of an mpirun job.

    A rank that fails alone must call this function. Otherwise the other ranks wait for the failed rank, and the failed rank
    waits for them in the finalisation of MPI, forever. The current exception is printed, because no caller will catch it.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        if sys.exc_info()[0] not in (None, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FORWARDED)
        mpi.COMM_WORLD.Abort(code)


def wait_for_leader() -> None:
    """In all ranks but rank 0, wait before printing an error, so that an error of all ranks is printed once."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.COMM_WORLD.Get_rank():
        time.sleep(FIRST_WORD)


def _mpi(comm: Any, share: Callable[[Sequence, int], Iterator[Any]], items: Sequence) -> Iterator[Any]:
    """Distribute the items over the ranks; rank 0 receives each result during the work and can append it to its journal."""
    rank, size = comm.Get_rank(), comm.Get_size()
    try:
        items = comm.bcast(items, root=0)
        own = share(items[rank::size], 1)
        if rank:
            for result in own:
                comm.send(result, dest=0)
        else:
            for i in range(len(items)):
                yield next(own) if i % size == 0 else comm.recv(source=i % size)
    except BaseException:  # without an abort the other ranks would wait for this rank forever
        abort_ranks(1)
        raise


def _local(function: Callable, items: Sequence, workers: int, on_crash: Callable | None, stall: float) -> Iterator[Any]:
    """Keep `workers` processes busy, each with its own thread; at most 16 items per process are ahead of the reader."""
    if not items:
        return
    count = min(len(items), workers or min(8, usable_cores()))
    everyone = [_Worker(pickle.dumps(function), stall) for _ in range(count)]
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in everyone:
        free.put(worker)

    def call(item: Any) -> Any:
        worker = free.get()
        try:
            return worker(item)
        except WorkerCrashed as error:
            if on_crash is None:
                raise
            return on_crash(item, str(error))
        finally:
            free.put(worker)

    threads = ThreadPoolExecutor(count)
    pending: deque[Future] = deque()
    try:
        for item in items:
            pending.append(threads.submit(call, item))
            if len(pending) >= 16 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in everyone:
            worker.stop()


class _Worker:
    """One child process that runs the function; it is started at its first item, and again after a crash."""

    def __init__(self, function: bytes, stall: float) -> None:
        self.function, self.stall, self.stalled = function, stall, False
        self.process: subprocess.Popen | None = None
        self.closed = False

    def __call__(self, item: Any) -> Any:
        """Return function(item), computed by the child; raise the exception of the function, or WorkerCrashed."""
        if self.closed:
            raise WorkerCrashed("the pool was stopped")
        process = self.process or self._start()
        try:
            process.stdin.write(pickle.dumps(item))  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            good, value = self._answer(process)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            code = self._end(patience=5)
            if self.stalled:
                raise WorkerCrashed(f"it was stalled for {self.stall:g} s") from error
            raise WorkerCrashed(f"the worker process died (exit code {code}) while it worked on {item!r}") from error
        if not good:
            raise value
        return value

    def _answer(self, process: subprocess.Popen) -> tuple[bool, Any]:
        """Return the answer of the child after its heartbeats; a child that sends nothing for `stall` seconds is killed."""

        def kill() -> None:
            self.stalled = True
            process.kill()

        self.stalled, answer = False, None
        while answer is None:
            watch = threading.Timer(self.stall, kill)
            if self.stall:
                watch.start()
            try:
                answer = pickle.load(process.stdout)  # type: ignore[arg-type]
            finally:
                watch.cancel()
        return answer

    def _start(self) -> subprocess.Popen:
        """Start the child and wait for its first message, so that a failed start is distinguished from a crash."""
        environment = {"OMP_NUM_THREADS": "1", **os.environ}  # parallel processes use the cores, not threads
        command = [sys.executable, "-c", CHILD, *(os.path.abspath(place) for place in sys.path)]
        pipe = subprocess.PIPE
        self.process = process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        try:
            process.stdin.write(self.function)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            pickle.load(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError) as error:
            code = self._end(patience=5)
            raise RuntimeError(f"a worker process could not start (exit code {code}); its error is above") from error
        return process

    def stop(self) -> None:
        """Terminate the child permanently; a thread that waits for an answer of the child gets WorkerCrashed."""
        self.closed = True
        self._end(patience=0)

    def _end(self, patience: float) -> int | None:
        """Wait up to `patience` seconds for the child to exit, then kill it; return its exit code."""
        process, self.process = self.process, None
        if process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
        process.kill()  # before its pipes are closed: a thread may be reading from one
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):  # a broken pipe has nothing to flush
                stream.close()  # type: ignore[union-attr]
        return code


def serve() -> None:
    """Run a worker: read the function and then items from standard input until it closes; write answers to standard output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the output of a library must not get into the answers
    requests = sys.stdin.buffer
    function = pickle.load(requests)
    pickle.dump("ready", replies)
    replies.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print messages about every unusual file
    last = time.monotonic()

    def pulse() -> None:
        nonlocal last
        if time.monotonic() - last > PULSE:
            last = time.monotonic()
            replies.write(pickle.dumps(None))
            replies.flush()

    global _pulse
    _pulse = pulse
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = pickle.dumps((True, function(item)))
        except Exception as error:
            answer = _pickled_error(error, f"in a worker process, on {item!r}:\n{traceback.format_exc()}")
        replies.write(answer)
        replies.flush()


def _pickled_error(error: Exception, note: str) -> bytes:
    """Pickle an error with its traceback as a note (Python 3.11), or the text of both if the error cannot be pickled."""
    error.__dict__.setdefault("__notes__", []).append(note)
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
        return answer
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{error!r} {note}")))
