"""WriterThread: writes files in a thread, so that sampling does not wait for the disk or the conversion of audio."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread

WAITING = 64  # maximum number of waiting writes; memory does not grow if the disk is slow


class WriterThread:
    """Runs writes in order in a thread.

    After an exception no later write runs, so that a growing file has no gap. `add`, `flush` and the end of the context then
    raise this exception.
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
            except BaseException as error:  # the calling thread raises the error
                self.error = error
            finally:
                self.queue.task_done()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
