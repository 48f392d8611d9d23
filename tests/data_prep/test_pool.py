"""A map over songs that keeps its order and survives its workers."""

from __future__ import annotations

import math
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import BadAudio
from data_prep.pool import WorkerCrashed, map_songs, usable_cores


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 3))
def test_results_come_in_the_order_of_the_items(items: list[int], workers: int) -> None:
    assert list(map_songs(math.isqrt, items, workers)) == [math.isqrt(item) for item in items]


def test_a_crash_costs_its_item_and_no_other() -> None:
    items = ["1", "__import__('os').abort()", "3", "__import__('os')._exit(0)", "5"]
    results = list(map_songs(eval, items, 2, on_crash=lambda item, why: (item, why)))
    assert [results[i] for i in (0, 2, 4)] == [1, 3, 5]
    for i in (1, 3):
        assert results[i][0] == items[i]
        assert "the worker process died" in results[i][1]


def test_a_worker_that_does_not_go_on_is_ended_and_a_slow_one_is_not() -> None:
    slow = "[__import__('time').sleep(0.6) or __import__('data_prep.pool').pool.alive() for _ in range(6)] and 7"
    items = ["1", "__import__('time').sleep(60)", slow, "5"]
    began = time.monotonic()
    results = list(map_songs(eval, items, 2, on_crash=lambda item, why: (item, why), stall=2.5))
    assert results == [1, (items[1], "it was stalled for 2.5 s"), 7, 5] and time.monotonic() - began < 20


def test_a_crash_that_nobody_takes_is_raised() -> None:
    with pytest.raises(WorkerCrashed, match="died"):
        list(map_songs(eval, ["__import__('os').abort()"]))


def test_what_the_function_raises_is_raised_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_songs(eval, ["1", "1/0"], 2))
    assert "<string>" in "".join(caught.value.__dict__["__notes__"])


def test_an_error_that_cannot_be_pickled_arrives_as_text() -> None:
    item = "(_ for _ in ()).throw(type('Odd', (Exception,), {})('lost'))"
    with pytest.raises(RuntimeError, match="lost"):
        list(map_songs(eval, [item]))


def test_a_function_of_no_module_is_told_from_a_crash() -> None:
    def local() -> None: ...

    with pytest.raises(Exception, match=r"local|lambda"):
        list(map_songs(local, [1], on_crash=lambda item, why: None))


def test_what_a_library_prints_does_not_reach_the_results() -> None:
    assert list(map_songs(eval, ["print('noise') or __import__('os').write(1, b'more') and 7"])) == [7]


def test_stopping_early_ends_the_workers() -> None:
    results = map_songs(eval, ["__import__('os').getpid()", *["__import__('time').sleep(30)"] * 5], 1)
    pid = next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 25  # and not the 30 s that are being slept
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_bad_audio_travels_between_processes() -> None:
    item = "(_ for _ in ()).throw(__import__('data_prep.errors').errors.BadAudio('a.mp3', 'silent', 'why'))"
    with pytest.raises(BadAudio) as caught:
        list(map_songs(eval, [item]))
    assert (caught.value.path, caught.value.reason, caught.value.detail) == ("a.mp3", "silent", "why")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_only_cores_that_the_process_may_use_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    assert usable_cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
