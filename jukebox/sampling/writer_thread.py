"""WriterThread: writes files in a thread, so that sampling does not wait for the disk or the conversion of audio."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread

WAITING = 64  # writes that wait at most; memory does not grow where the disk is slow


class WriterThread:
    """Runs writes in order. An exception in a write stops all later ones; `add`, `flush` and a leave without error raise it.

    No later write runs, so that a growing file has no gap.
    """

    def __init__(self) -> None:
        self.queue: Queue[Callable[[], object] | None] = Queue(WAITING)
        self.error: BaseException | None = None
        self.thread = Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> WriterThread:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.queue.put(None)
        self.thread.join()
        if kind is None:
            self._raise()

    def add(self, write: Callable[[], object]) -> None:
        self._raise()
        self.queue.put(write)

    def flush(self) -> None:
        """Wait until all writes are finished."""
        self.queue.join()
        self._raise()

    def _run(self) -> None:
        for write in iter(self.queue.get, None):
            try:
                if self.error is None:
                    write()
            except BaseException as error:  # raised in the other thread
                self.error = error
            finally:
                self.queue.task_done()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
