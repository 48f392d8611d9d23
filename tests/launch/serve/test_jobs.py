"""The queue without a model: order, bound, cancellation, failures, and what a new process finds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest

from data_prep.errors import UserError
from jukebox.api import Progress
from launch.serve.folder import Missing, TooMany
from launch.serve.jobs import JobClock, JobQueue, ServedJob


@dataclass(frozen=True)
class Asked:
    kind: str = "sample"
    number: int = 0


class Worker:
    """Does jobs as long as its gate is open; notes their numbers."""

    def __init__(self):
        self.done, self.gate = [], threading.Event()

    def __call__(self, job, callbacks):
        while not self.gate.wait(0.01):
            if callbacks.cancel():
                from jukebox.api import Cancelled

                raise Cancelled("stopped")
            callbacks.progress(Progress(0, "x", 1, 4))
        if job.request["number"] < 0:
            raise UserError("a number below 0")
        self.done.append(job.request["number"])


def make(folder, worker, most=4):
    folder.mkdir(exist_ok=True)
    return JobQueue(folder, most, lambda id, asked: {"run": id}, worker)


def wait(queue, id, *states):
    end = time.monotonic() + 10
    while queue.job(id).state not in states:
        assert time.monotonic() < end, queue.job(id)
        time.sleep(0.005)


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def queue(tmp_path, worker):
    queue = make(tmp_path / "jobs", worker)
    yield queue
    worker.gate.set()
    queue.close()


def test_jobs_are_done_in_their_order_and_show_their_place(queue, worker):
    ids = [queue.submit(Asked(number=n)).id for n in range(3)]
    assert [queue.job(id).place for id in ids] == [1, 2, 3] and len(set(ids)) == 3
    queue.start()
    worker.gate.set()
    wait(queue, ids[-1], "done")
    assert worker.done == [0, 1, 2] and [job.id for job in queue.list()] == ids[::-1]


def test_a_full_queue_raises_and_a_request_that_fails_takes_no_place(queue):
    queue.begin = lambda id, asked: (_ for _ in ()).throw(UserError("no"))
    for _ in range(6):
        with pytest.raises(UserError, match="no"):
            queue.submit(Asked())
    queue.begin = lambda id, asked: {"run": id}
    for _ in range(4):
        queue.submit(Asked())
    with pytest.raises(TooMany, match="4 jobs already"):
        queue.submit(Asked())


def test_a_running_job_and_a_waiting_one_can_be_cancelled(queue, worker):
    queue.start()
    first, second, third = (queue.submit(Asked(number=n)).id for n in range(3))
    wait(queue, first, "running")
    assert queue.cancel(second).state == "cancelled"
    queue.cancel(first)
    wait(queue, first, "cancelled")
    worker.gate.set()
    wait(queue, third, "done")
    assert worker.done == [2]
    assert queue.cancel(third).state == "done"
    with pytest.raises(Missing):
        queue.cancel("nothing")


def test_a_run_is_needed_by_the_jobs_that_write_or_read_it(queue):
    queue.submit(Asked())
    queue.jobs["b"] = ServedJob("b", "branch", {"run": "source"})
    queue.jobs["c"] = ServedJob("c", "edit", {"recording": "other"}, run="c.run", state="done")
    assert [queue.needs(name) for name in (next(iter(queue.jobs)), "source", "other", "c.run", "none")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_newest_jobs_are_listed_first_and_what_an_error_shows_is_cut(tmp_path, worker):
    queue = JobQueue(tmp_path, 9, lambda id, asked: {"run": id}, worker, lambda sentence: sentence.replace("number", "NUMBER"))
    ids = [queue.submit(Asked(number=-1)).id for _ in range(3)]
    assert [job.id for job in queue.list(2)] == [ids[2], ids[1]]
    worker.gate.set()
    queue.start()
    wait(queue, ids[2], "failed")
    queue.close()
    assert queue.job(ids[2]).error == "a NUMBER below 0"


def test_a_failed_job_has_one_sentence_and_the_next_one_is_done(queue, worker, capsys):
    worker.gate.set()
    queue.start()
    bad, good = queue.submit(Asked(number=-1)).id, queue.submit(Asked(number=5)).id
    wait(queue, good, "done")
    assert queue.job(bad).state == "failed" and queue.job(bad).error == "a number below 0" and not capsys.readouterr().err


def test_a_new_process_continues_what_was_not_over_and_knows_what_was(tmp_path, queue, worker):
    queue.start()
    ids = [queue.submit(Asked(number=n)).id for n in range(3)]
    wait(queue, ids[0], "running")
    queue.cancel(ids[1])
    queue.close()  # as a kill: the first is in progress, the last waits
    again = make(tmp_path / "jobs", worker)
    assert [again.job(id).state for id in ids] == ["queued", "cancelled", "queued"]
    worker.gate.set()
    again.start()
    wait(again, ids[2], "done")
    again.close()
    assert worker.done == [0, 2]
    assert [make(tmp_path / "jobs", worker).job(id).state for id in ids] == ["done", "cancelled", "done"]


def test_records_of_jobs_that_are_over_are_bounded(queue, worker, monkeypatch):
    monkeypatch.setattr("launch.serve.jobs.KEPT", 2)
    worker.gate.set()
    queue.start()
    for number in range(5):
        wait(queue, queue.submit(Asked(number=number)).id, "done")
    assert len(queue.jobs) == len(list(queue.folder.glob("*.json"))) == 2 and worker.done == [0, 1, 2, 3, 4]


def test_the_time_left_follows_the_weights_of_levels_and_the_pace(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = JobClock(ServedJob("a", "sample", {}, weights={"2": 1.0, "1": 3.0}, seconds_left=8.0))
    assert clock(Progress(2, "x", 0, 10)) == (0.0, 8.0)  # as planned
    now[0] = 4.0
    assert clock(Progress(2, "x", 10, 10)) == (0.25, 12.0)  # it was planned to take 2 s
    now[0] = 10.0
    assert clock(Progress(1, "y", 5, 10)) == (0.625, 6.0)
