"""Files are written in their order by another thread, whose errors are raised in this one."""

from __future__ import annotations

import threading
import time

import pytest

from jukebox.sampling.writer_thread import WriterThread


def test_writes_keep_their_order_in_another_thread_and_a_flush_waits_for_them():
    done = []
    with WriterThread() as files:
        for i in range(200):
            files.add(lambda i=i: time.sleep(0.0001) or done.append((i, threading.current_thread().name)))
        files.flush()
        assert done == [(i, "writer") for i in range(200)]
        files.add(lambda: done.append("last"))
    assert done[-1] == "last" and not files.thread.is_alive()


def test_an_error_is_raised_here_and_nothing_is_written_after_it():
    done = []

    def fails():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), WriterThread() as files:
        files.add(fails)
        with pytest.raises(OSError, match="No space left"):
            files.flush()
        files.queue.put(lambda: done.append("after a gap"))
        with pytest.raises(OSError, match="No space left"):
            files.add(lambda: done.append("refused"))
    assert done == [] and not files.thread.is_alive()


def test_an_error_of_the_one_who_samples_is_kept_and_what_it_added_is_written():
    done = []
    with pytest.raises(KeyboardInterrupt), WriterThread() as files:
        files.add(lambda: time.sleep(0.01) or done.append(1))
        raise KeyboardInterrupt
    assert done == [1]
